#!/usr/bin/env node
'use strict';
// The conformance suite's driver. See protocol/conformance/README.md.
const fs = require('fs');
const readline = require('readline');
const { spawn } = require('child_process');
const sidelock = require('./sidelock.js');

const TYPES = [[sidelock.Busy, 'busy'], [sidelock.Timeout, 'timeout'], [sidelock.Cancelled, 'cancelled'], [sidelock.Lost, 'lost'],
  [sidelock.Denied, 'denied'], [sidelock.Unavailable, 'unavailable'], [sidelock.Deadlock, 'deadlock'],
  [sidelock.UnderReplicated, 'under_replicated']];
const AT_ONCE = ['noop', 'held', 'cancel', 'leave', 'path'];
const CONTROL = ['session', 'watch', 'unwatch', 'open', 'close'];

class BodyFailed extends Error {}

function say(head, fields) {
  const words = Object.entries(fields).map(([key, value]) => `${key}=${encodeURIComponent(String(value))}`);
  fs.writeSync(1, [head, ...words].join(' ') + '\n');
}

let client = new sidelock.Client();
const locks = new Map(), tags = new Map(), leaves = new Map(), watches = new Map(), workers = new Map();

function leaveOf(label) {
  if (!leaves.has(label)) {
    const leave = {};
    leave.done = new Promise((resolve) => { leave.resolve = resolve; });
    leaves.set(label, leave);
  }
  return leaves.get(label);
}

const validOf = (lock) => (lock.validMs === null ? 'none' : Math.floor(lock.validMs));

function options(args) {
  const label = args.lock;
  const made = {
    owner: `worker-${args.worker ?? '0'}`, shared: args.mode === 'shared', meta: args.meta_bytes ? 'x'.repeat(args.meta_bytes) : args.meta,
    onLost: (loss) => say('event lost', { lock: label, name: loss.name, token: loss.token, reason: loss.reason, grace_ms: loss.graceMs }),
  };
  if (args.wait !== undefined) made.wait = args.wait / 1000;
  if (args.permits) made.permits = Number(args.permits);
  if (args.max_hold) made.maxHold = args.max_hold / 1000;
  if (args.replicas) made.replicas = Number(args.replicas);
  if (args.durability) made.durability = args.durability;
  if (args.progress) {
    made.onWaiting = (told) => say('event waiting', { lock: label, position: told.position });
    made.onContended = (waiters) => say('event contended', { lock: label, waiters });
  }
  return made;
}

const verbs = {
  noop() {},
  path: () => ({ path: sidelock.socketPath(client.path) }),
  open(args) { client = new sidelock.Client({ path: args.path, patience: (args.answer_ms ?? 5000) / 1000 }); },
  close: () => client.close(),
  session: async () => ({ session: await client.session() }),
  async acquire(args, tag) {
    const lock = client.lock(args.names, options(args));
    tags.set(tag, lock);
    await lock.acquire();
    locks.set(args.lock, lock);
    return { token: [...lock.tokens_.values()].join(','), mode: lock.mode, valid_ms: validOf(lock) };
  },
  async scope(args) {
    await client.withLock(args.names, options(args), async (lock) => {
      const aborted = new Promise((_, reject) => lock.signal.addEventListener('abort', () => {
        if (args.shield) return;
        say('event cancelled', { lock: args.lock });
        reject(lock.signal.reason);
      }));
      if (lock.held) say('event entered', { lock: args.lock, token: lock.token });
      await Promise.race([leaveOf(args.lock).done, aborted]);
      if (leaveOf(args.lock).fails) throw new BodyFailed();
    });
  },
  leave(args) {
    leaveOf(args.lock).fails = args.fail;
    leaveOf(args.lock).resolve();
  },
  release: (args) => locks.get(args.lock).release(),
  held(args) {
    const lock = locks.get(args.lock);
    if (!lock) return { held: 0 };
    return { held: Number(lock.held), valid_ms: validOf(lock), ...(lock.loss ? { lost: lock.loss.reason } : {}) };
  },
  cancel(args) { tags.get(args.target).cancel(); },
  downgrade: (args) => locks.get(args.lock).downgrade(),
  extend: (args) => locks.get(args.lock).extend(args.max_hold === 'none' ? null : args.max_hold / 1000),
  transfer: (args) => locks.get(args.lock).transfer(args.session),
  accept: (args) => client.acceptTransfers((lock) => {
    locks.set(args.lock, lock);
    lock.options = options(args);
    say('event transferred', { lock: args.lock, name: lock.names[0], token: lock.tokens_.get(lock.names[0]) });
  }),
  async watch(args) {
    const watch = await client.watch(args.names ? args.names[0] : { prefix: args.prefix });
    watches.set(args.watch, watch);
    (async () => {
      for await (const event of watch) say('event watch', { ...event, watch: args.watch });
    })();
  },
  unwatch: (args) => watches.get(args.watch).close(),
  async cycles(args) {
    let last = 0, rising = 1;
    fs.writeFileSync(args.file, '0');
    await Promise.all(Array.from({ length: Number(args.workers) }, async (_, worker) => {
      for (let cycle = 0; cycle < args.cycles; cycle++) {
        await client.withLock(args.names, { owner: `cycle-${worker}` }, async (lock) => {
          const count = Number(fs.readFileSync(args.file));
          await null;
          fs.writeFileSync(args.file, String(count + 1));
          rising &= lock.token > last;
          last = lock.token;
        });
      }
    }));
    return { rising };
  },
  spawn: () => ({ pid: spawn('sleep', ['60'], { stdio: 'ignore' }).pid }),
};

async function answer(tag, verb, args) {
  try {
    say(`${tag} ok`, (await verbs[verb](args, tag)) || {});
  } catch (error) {
    if (error instanceof BodyFailed) return say(`${tag} error body`, {});
    if (!(error instanceof sidelock.SidelockError)) throw error;
    const [, type] = TYPES.find(([kind]) => error instanceof kind) || [null, 'error'];
    const fields = { type, message: error.message };
    if (type === 'busy' || type === 'timeout') fields.holders = error.holders.length;
    if (type === 'under_replicated') fields.acknowledged = error.acknowledged;
    if (type === 'lost') fields.lost = error.loss.reason;
    say(`${tag} error ${error.reason || 'unknown'}`, fields);
  }
}

process.on('SIGUSR1', () => {});
say('driver 1', { language: 'node', features: 'cancels' });
const input = readline.createInterface({ input: process.stdin });
input.on('line', (line) => {
  const [tag, verb, ...words] = line.split(' ');
  const args = {};
  for (const word of words) {
    const [key, value] = [word.slice(0, word.indexOf('=')), decodeURIComponent(word.slice(word.indexOf('=') + 1))];
    if (key === 'name') (args.names ||= []).push(value);
    else args[key] = value;
  }
  if (AT_ONCE.includes(verb)) return void answer(tag, verb, args);
  const worker = CONTROL.includes(verb) ? 'control' : args.worker ?? '0';
  workers.set(worker, (workers.get(worker) || Promise.resolve()).then(() => answer(tag, verb, args)));
});
input.on('close', async () => {
  await client.close();
  process.exit(0);
});
