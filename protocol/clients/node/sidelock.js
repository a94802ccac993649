'use strict';
// A client of sidelockd: one connection, shared by all tasks of the process.
const fs = require('fs');
const net = require('net');
const path = require('path');

const LINE_BYTES_MAX = 65536;
const UNENDED_BYTES_MAX = 1 << 20; // Of a line that has not ended; what is longer comes from no daemon.
const MILLISECONDS_MAX = 100 * 366 * 86400 * 1000; // What the daemon may say is used in sums: nothing of it is longer than a century.
const HOLDS_TOLD_MAX = 64; // Of more holds a ping does not say how long they are valid.

class SidelockError extends Error {
  constructor(message, reason = '', data = {}) {
    super(message);
    this.name = this.constructor.name;
    this.reason = reason;
    this.data = data;
  }
  get holders() { return Array.isArray(this.data.holders) ? this.data.holders : []; }
}
class Busy extends SidelockError {}
class Timeout extends SidelockError {}
class Cancelled extends SidelockError {}
class NotHeld extends SidelockError {}
class Denied extends SidelockError {}
class Unavailable extends SidelockError {}
class Deadlock extends SidelockError {
  get cycle() { return Array.isArray(this.data.cycle) ? this.data.cycle : []; }
}
class UnderReplicated extends SidelockError {
  get acknowledged() { return Number.isInteger(this.data.acknowledged) ? this.data.acknowledged : 0; }
}
class Lost extends SidelockError {
  constructor(loss) {
    super(`lock ${loss.name} is lost: ${loss.detail || loss.reason}`, 'lost', { lost: loss.reason });
    this.loss = loss;
  }
}

const TYPES = {
  busy: Busy, timeout: Timeout, cancelled: Cancelled, not_held: NotHeld, denied: Denied, permission: Denied, deadlock: Deadlock,
  unavailable: Unavailable, shutting_down: Unavailable, no_daemon: Unavailable, no_answer: Unavailable, connection_lost: Unavailable,
  under_replicated: UnderReplicated,
};

function makeError(reason, message, data) {
  return new (Object.hasOwn(TYPES, reason) ? TYPES[reason] : SidelockError)(message, reason, data);
}

function refusal(error) {
  const data = error && typeof error.data === 'object' && error.data !== null ? error.data : {};
  const message = String((error && error.message) || 'the daemon gave no message');
  return makeError(String(data.reason ?? ''), data.detail ? `${message}: ${data.detail}` : message, data);
}

/** Where the daemon listens: what is given, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's. */
function socketPath(explicit) {
  const named = explicit || process.env.SIDELOCK_SOCKET;
  if (named) return named;
  if (process.env.XDG_RUNTIME_DIR) {
    const own = process.env.XDG_RUNTIME_DIR + '/sidelock/sidelock.sock';
    try {
      fs.statSync(own);
      return own;
    } catch (error) {
      if (error.code === 'EACCES') return own;
    }
  }
  return '/run/sidelock/sidelock.sock';
}

/** Milliseconds on a clock that nobody sets. */
const now = () => Number(process.hrtime.bigint() / 1000n) / 1000;
/** Milliseconds that the daemon told; null where it is no time. */
const timeOf = (value) => (Number.isInteger(value) ? Math.max(0, Math.min(value, MILLISECONDS_MAX)) : null);
const pairOf = (name, token) => `${token} ${name}`;
/** For how long the daemon may leave unanswered how long a hold is good. */
const answerTime = (span) => Math.min(1000, span / 4);
const milliseconds = (seconds) => Math.max(0, Math.ceil(seconds * 1000));

/** One connection: requests that wait, holds that can be lost, watches. */
class Connection {
  constructor(socket, patience) {
    this.socket = socket;
    this.patience = patience;
    this.requests = new Map();
    this.holdings = new Map(); // pair -> locks that share the hold
    this.watches = new Map();
    this.onTransferred = null;
    this.hasEnded = false;
    this.isBroken = false;
    this.session = '';
    this.leaseMs = null;
    this.last = 0;
    this.rest = [];
    this.unended = 0;
    this.fault = null;
    this.ping = null;
    this.noPingBefore = 0;
    this.timer = null;
    this.closed = new Promise((resolve) => socket.once('close', resolve));
    socket.on('data', (data) => this.feed(data));
    socket.on('error', () => { this.isBroken = true; });
    // The daemon has closed its half: nothing comes any more, and nothing is held.
    socket.on('end', () => this.ended());
    socket.on('close', () => this.ended());
  }

  // Requests

  start(method, params, { lock = null, onEvent = null } = {}) {
    const request = { id: ++this.last, method, params, lock, onEvent, sent: now(), isAnswered: false, isAbandoned: false };
    request.answer = new Promise((resolve) => { request.done = resolve; });
    if (this.hasEnded) {
      this.settle(request, null, this.end());
      return request;
    }
    const line = JSON.stringify({ id: request.id, method, params }) + '\n';
    if (Buffer.byteLength(line) > LINE_BYTES_MAX + 1) {
      this.settle(request, null, makeError('limit', 'the request is longer than a line of the daemon'));
      return request;
    }
    // What JSON.stringify escapes as half of a pair the daemon does not read, and could not say which request it was.
    if (/(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(line)) {
      this.settle(request, null, makeError('invalid_params', 'text for the daemon is UTF-8'));
      return request;
    }
    this.requests.set(request.id, request);
    this.write(line, (error) => { request.isUnsent = error != null; });
    this.reference();
    return request;
  }

  write(line, done) {
    if (!this.socket.writable) return done && done(new Error('closed'));
    this.socket.write(line, done);
  }

  /** The result; `waitMs`: what it may take besides the time that the daemon needs to answer. */
  async finish(request, waitMs = 0) {
    let limit = waitMs === null ? null : waitMs + this.patience;
    while (!(await within(request.answer, limit))) {
      // `wait_ms` has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
      if (!(await within(this.start('ping', {}).answer, this.patience)) && !request.isAnswered) {
        this.abandon(request);
        throw makeError('no_answer', 'the daemon does not answer; it may hang');
      }
      limit = this.patience;
    }
    if (request.error) throw request.error;
    return request.result;
  }

  call(method, params, more) { return this.finish(this.start(method, params, more)); }

  /** Nobody waits for the answer any more: a wait is withdrawn, and a lock that is granted all the same given back. */
  abandon(request) {
    if (request.isAnswered || request.isAbandoned) return;
    request.isAbandoned = true;
    if (request.method === 'acquire' && this.requests.has(request.id)) {
      this.write(JSON.stringify({ method: 'cancel', params: { id: request.id } }) + '\n');
    }
  }

  withdraw(request, error) {
    if (request.isAnswered) return;
    this.abandon(request);
    request.error = error;
    request.isAnswered = true;
    request.done();
  }

  /** A program whose only concern is a connection that holds and waits for nothing may end. */
  reference() {
    if (this.requests.size + this.holdings.size + this.watches.size > 0) this.socket.ref();
    else this.socket.unref();
  }

  giveBack(lock) {
    for (const [name, token] of [...lock.held_]) {
      this.forget(lock, name, token);
      this.start('release', { name, token });
    }
    if (lock.state === 'held') lock.state = 'released';
  }

  forget(lock, name, token) {
    const pair = pairOf(name, token);
    const sharing = (this.holdings.get(pair) || []).filter((one) => one !== lock);
    if (sharing.length > 0) this.holdings.set(pair, sharing);
    else this.holdings.delete(pair);
  }

  // What the daemon says

  feed(data) {
    // A line is text when it is whole: a character may come in two pieces.
    let begin = 0;
    for (let end = data.indexOf(10); end >= 0; end = data.indexOf(10, begin)) {
      this.rest.push(data.subarray(begin, end));
      const line = Buffer.concat(this.rest).toString();
      this.rest = [];
      begin = end + 1;
      this.unended = 0;
      try {
        const message = JSON.parse(line);
        if (message !== null && typeof message === 'object') this.heard(message);
      } catch { /* No message of this protocol. */ }
    }
    if (begin < data.length) {
      this.rest.push(data.subarray(begin));
      this.unended += data.length - begin;
      if (this.unended > UNENDED_BYTES_MAX) this.ended();
    }
    this.tick();
    this.reference();
  }

  heard(message) {
    if (message.method !== undefined && message.id === undefined) {
      const params = message.params;
      if (params !== null && typeof params === 'object') this.told(message.method, params);
      return;
    }
    // With a null id it is about the connection, or about a line that the daemon could not read.
    if (message.id === null && message.error) this.fault = refusal(message.error);
    const request = this.requests.get(message.id);
    if (request === undefined) return;
    this.requests.delete(message.id);
    this.settle(request, message.result, message.error ? refusal(message.error) : null);
  }

  settle(request, result, error) {
    if (!error) {
      try {
        this.answered(request, result);
      } catch {
        error = makeError('protocol_violation', 'the daemon gave an answer that is none');
      }
    }
    if (request.isAnswered) return;
    request.result = result;
    request.error = error;
    request.isAnswered = true;
    if (request === this.ping) this.ping = null;
    if (request.method === 'ping' && !error) this.pingAnswered(request);
    request.done();
  }

  /** What a request that was not refused brings about; throws where the answer is none. */
  answered(request, result) {
    const { lock, params } = request;
    if (request.method === 'acquire') this.granted(request, result);
    else if (request.method === 'release' && lock) this.forget(lock, params.name, params.token);
    else if (request.method === 'initialize') {
      this.session = String(result.session);
      this.leaseMs = timeOf(result.lease_ms);
    } else if (request.method === 'watch') {
      if (!Number.isInteger(result.watch)) throw new TypeError('no number of a watch');
      this.watches.set(result.watch, request.onEvent);
    }
  }

  granted(request, result) {
    const { lock } = request;
    const locks = result.locks === undefined ? [{ name: lock.names[0], token: result.token }] : result.locks;
    const tokens = new Map(locks.map(({ name, token }) => [name, token]));
    if (!lock.names.every((name) => Number.isInteger(tokens.get(name)))) throw new TypeError('a name without a token');
    lock.held_ = new Map(lock.names.map((name) => [name, tokens.get(name)]));
    lock.tokens_ = new Map(lock.held_);
    lock.mode = result.mode;
    lock.state = 'held';
    const valid = timeOf(result.valid_ms);
    if (valid !== null) {
      // From the grant on, however late this is read: the wait began at the daemon after the sending.
      lock.span = valid;
      lock.deadline = request.sent + (timeOf(result.waited_ms) ?? 0) + valid;
    }
    this.register(lock);
    if (request.isAbandoned) this.giveBack(lock);
  }

  register(lock) {
    for (const [name, token] of lock.held_) {
      const pair = pairOf(name, token);
      this.holdings.set(pair, [...(this.holdings.get(pair) || []), lock]);
    }
  }

  told(method, params) {
    if (method === 'lost') {
      const pair = pairOf(params.name, params.token);
      const sharing = this.holdings.get(pair) || [];
      this.holdings.delete(pair);
      const { name, token, reason, grace_ms: graceMs = 0, detail } = params;
      for (const lock of sharing) lock.lose_({ name, token, reason, graceMs, detail });
    } else if (method === 'waiting') {
      const request = this.requests.get(params.id);
      if (request && request.lock && request.lock.options.onWaiting) later(request.lock.options.onWaiting, params);
    } else if (method === 'contended') {
      for (const lock of this.holdings.get(pairOf(params.name, params.token)) || []) {
        if (lock.options.onContended) later(lock.options.onContended, params.waiters);
      }
    } else if (method === 'transferred' && this.onTransferred) {
      this.onTransferred(params);
    } else if (method === 'event') {
      const onEvent = this.watches.get(params.watch);
      if (onEvent) onEvent(params);
    } else if (method === 'backend' || method === 'missed') {
      this.toldToWatches(method, params);
    }
  }

  toldToWatches(kind, params) {
    for (const onEvent of [...this.watches.values()]) onEvent({ ...params, kind });
  }

  end() { return this.fault || makeError('connection_lost', 'the connection to the daemon has ended'); }

  ended() {
    if (this.hasEnded) return;
    this.hasEnded = true;
    clearTimeout(this.timer);
    this.socket.destroy();
    for (const [pair, sharing] of [...this.holdings]) {
      const token = Number(pair.slice(0, pair.indexOf(' ')));
      const name = pair.slice(pair.indexOf(' ') + 1);
      for (const lock of sharing) lock.lose_({ name, token, reason: 'connection_ended', graceMs: 0 });
    }
    this.holdings.clear();
    this.toldToWatches('ended', {});
    this.watches.clear();
    const requests = [...this.requests.values()];
    this.requests.clear();
    for (const request of requests) this.settle(request, null, this.end());
  }

  // How long holds are good

  timed() { return [...this.holdings.values()].flat().filter((lock) => lock.deadline !== null && lock.state === 'held'); }

  pingAnswered(ping) {
    this.noPingBefore = now() + 100;
    const valid = ping.result ? timeOf(ping.result.valid_ms) : null;
    for (const lock of this.timed()) {
      if (valid !== null) {
        // This counts for all that was held when it was answered, from when it was asked.
        lock.span = valid;
        lock.deadline = Math.max(lock.deadline, ping.sent + valid);
      } else if (this.holdings.size > HOLDS_TOLD_MAX) lock.deadline = null;
    }
  }

  /** Asks how long holds are good before that time is over, and finds those whose time is. */
  tick() {
    clearTimeout(this.timer);
    let timed = this.timed();
    if (timed.length === 0 || this.hasEnded) return;
    const askAt = Math.max(Math.min(...timed.map((lock) => lock.deadline - lock.span / 2)), this.noPingBefore);
    if (!this.ping && now() >= askAt) this.ping = this.start('ping', {});
    let next = askAt;
    if (this.ping) {
      // A process that was stopped itself asks before it judges.
      const judgeAt = (lock) => Math.max(lock.deadline, this.ping.sent + answerTime(lock.span));
      for (const lock of timed.filter((one) => now() >= judgeAt(one))) {
        const [name, token] = [...lock.held_][0];
        lock.lose_({ name, token, reason: 'lease_expired', graceMs: 0 });
        lock.held_.set(name, token);
        this.giveBack(lock);
      }
      timed = this.timed();
      if (timed.length === 0) return;
      next = Math.min(...timed.map(judgeAt));
    }
    this.timer = setTimeout(() => this.tick(), Math.max(1, Math.min(next - now(), 2 ** 31 - 1)));
    this.timer.unref();
  }
}

function later(call, ...values) {
  // An error of the user's callback is the program's, and not the connection's.
  queueMicrotask(() => call(...values));
}

/** Whether the promise is settled within `limit` milliseconds; null: without limit. */
async function within(promise, limit) {
  if (limit === null) return promise.then(() => true);
  let timer;
  const late = new Promise((resolve) => { timer = setTimeout(resolve, Math.min(limit, 2 ** 31 - 1), false); });
  try {
    return await Promise.race([promise.then(() => true), late]);
  } finally {
    clearTimeout(timer);
  }
}

class Client {
  /** `patience`: for how many seconds the daemon may leave a request unanswered, beyond what was to be waited. */
  constructor({ path: socket, patience = 5 } = {}) {
    this.path = socket;
    this.patience = patience * 1000;
    this.connection_ = null;
    this.connecting_ = null;
    this.accept_ = null;
  }

  async connected_() {
    if (this.connection_ && !this.connection_.hasEnded && !this.connection_.isBroken) return this.connection_;
    if (!this.connecting_) {
      this.connecting_ = this.connect_().finally(() => { this.connecting_ = null; });
    }
    return this.connecting_;
  }

  async connect_() {
    const where = socketPath(this.path);
    // Node opens sockets with close-on-exec. A half of a connection is never closed alone: see `destroy`.
    const socket = net.connect({ path: where, allowHalfOpen: false });
    const opened = new Promise((resolve) => {
      socket.once('connect', () => resolve(null));
      socket.once('error', resolve);
    });
    if (!(await within(opened, this.patience))) {
      socket.destroy();
      throw makeError('no_answer', `the daemon at ${where} does not take connections; it may hang`);
    }
    const failure = await opened;
    if (failure && failure.code === 'EACCES') throw makeError('permission', `the permissions of ${where} keep this user out`);
    if (failure) throw makeError('no_daemon', `no daemon at ${where}: ${failure.code || failure.message}`);
    const connection = new Connection(socket, this.patience);
    // A daemon that refuses the connection says why at once, and that is lost when a write fails before it is read.
    await new Promise((resolve) => setImmediate(resolve));
    if (this.accept_) this.listen_(connection);
    const name = path.basename(process.argv[1] || '').slice(0, 30) || 'node';
    const params = { client: { name }, protocol: 1, lifetime: 'process' };
    if (this.accept_) params.accept_transfers = true;
    try {
      try {
        await connection.call('initialize', params);
      } catch (error) {
        if (!error.data || error.data.field !== 'lifetime') throw error;
        // The daemon cannot see this process, as from a container.
        delete params.lifetime;
        await connection.call('initialize', params);
      }
    } catch (error) {
      socket.destroy();
      throw error;
    }
    this.connection_ = connection;
    connection.reference();
    return connection;
  }

  /** Starts a request, over a new connection where the daemon had closed the old one before. */
  async start_(method, params, more) {
    let connection = await this.connected_();
    let request = connection.start(method, params, more);
    // A write to a connection that is closed fails in the same turn, before anything that is read in another one.
    await new Promise((resolve) => setImmediate(resolve));
    if (request.isUnsent) {
      await request.answer;
      connection = await this.connected_();
      request = connection.start(method, params, more);
    }
    return { connection, request };
  }

  /** Any method of the protocol, and its result. */
  async call(method, params = {}) {
    const { connection, request } = await this.start_(method, params);
    return connection.finish(request);
  }

  /** A lock that is not taken yet. */
  lock(names, options = {}) { return new Lock(this, names, options); }

  /** Takes a lock. */
  acquire(names, options = {}) { return this.lock(names, options).acquire(); }

  /** Runs the body while the lock is held. Its argument is the lock, whose `signal` is aborted when it is lost. */
  async withLock(names, options, body) {
    if (typeof options === 'function') [options, body] = [{}, options];
    const lock = await this.acquire(names, options);
    let result;
    try {
      result = await body(lock);
    } catch (error) {
      await lock.end_();
      // What failed because it was aborted failed by the loss.
      if (lock.loss && (error === lock.signal.reason || error.name === 'AbortError')) throw new Lost(lock.loss);
      throw error;
    }
    if (lock.state === 'held' || lock.state === 'lost') await lock.release();
    return result;
  }

  /** Events of a lock, or with `{prefix}` of all whose name begins alike: `for await (const event of await client.watch(…))`. */
  async watch(what) {
    const watch = new Watch();
    const params = typeof what === 'string' ? { name: what } : { prefix: what.prefix };
    const { connection, request } = await this.start_('watch', params, { onEvent: (event) => watch.push_(event) });
    watch.connection_ = connection;
    watch.number_ = (await connection.finish(request)).watch;
    return watch;
  }

  /** The daemon's name for this client; others transfer locks to it. */
  async session() { return (await this.connected_()).session; }

  /** From now on others may hand over locks; the callback gets each, held. */
  async acceptTransfers(callback) {
    this.accept_ = callback;
    const connection = await this.connected_();
    this.listen_(connection);
    await connection.call('initialize', { accept_transfers: true });
  }

  listen_(connection) {
    connection.onTransferred = ({ name, token, mode }) => {
      const lock = this.lock(name);
      lock.held_ = new Map([[name, token]]);
      lock.tokens_ = new Map(lock.held_);
      Object.assign(lock, { mode, state: 'held', connection_: connection });
      // Nothing is known of how long it is good: that is asked at once, and meanwhile it counts for what an answer may take.
      if (connection.leaseMs !== null) Object.assign(lock, { span: connection.leaseMs, deadline: now() + answerTime(connection.leaseMs) });
      connection.register(lock);
      later(this.accept_, lock);
    };
  }

  /** Gives everything back. The client may be used again. */
  async close() {
    const connection = this.connection_;
    this.connection_ = null;
    if (!connection) return;
    connection.socket.ref();
    connection.socket.destroy();
    await connection.closed;
  }
}

const OPTIONS = ['wait', 'shared', 'permits', 'maxHold', 'owner', 'meta', 'enforce', 'replicas', 'durability', 'signal', 'onLost', 'onWaiting',
  'onContended'];

/** A lock, or several that are taken all or none. One object is held once at a time. */
class Lock {
  constructor(client, names, options) {
    // A name that is taken for another one would wait without limit, or exclude whom it should share with.
    const unknown = Object.keys(options).find((key) => !OPTIONS.includes(key));
    if (unknown !== undefined) throw makeError('invalid_params', `there is no option ${unknown}`);
    this.client = client;
    this.names = [].concat(names);
    this.options = options;
    this.state = 'free'; // waiting, held, released or lost
    this.loss = null;
    this.mode = '';
    this.deadline = null;
    this.span = 0;
    this.held_ = new Map();
    this.tokens_ = new Map();
    this.connection_ = null;
    this.request_ = null;
    this.abort_ = new AbortController();
  }

  /** Is aborted when the lock is lost. */
  get signal() { return this.abort_.signal; }
  /** Whether it is held, as far as this process has been told; no longer than it is good without an answer of the daemon. */
  get held() { return this.state === 'held' && !this.isOver_(); }

  /** Whether its time is over: it is not to be believed then until the daemon has answered, which is asked. */
  isOver_() {
    if (this.state !== 'held' || this.deadline === null || this.deadline > now()) return false;
    this.connection_?.tick();
    return true;
  }

  /** For how many milliseconds from now the hold is good for certain; null: it does not end by itself. */
  get validMs() {
    if (this.state !== 'held') return 0;
    return this.deadline === null ? null : Math.max(0, this.deadline - now());
  }

  /**
   * Throws Lost if the lock was lost, NotHeld if it is not held, and Unavailable where its time is over and the daemon has not said
   * yet that it is still held.
   */
  check() {
    const isOver = this.isOver_();
    if (this.loss) throw new Lost(this.loss);
    if (isOver) {
      throw makeError('no_answer', `the time of lock ${this.names[0]} is over, and the daemon has not said yet that it is still held`);
    }
    if (this.state !== 'held') throw makeError('not_held', `lock ${this.names[0]} is not held here`);
  }

  /** The fencing token: send it along with every write. */
  get token() {
    this.check();
    return this.tokens_.get(this.names[0]);
  }

  /** The token of each name. */
  get tokens() {
    this.check();
    return Object.fromEntries(this.tokens_);
  }

  async acquire() {
    if (this.state === 'held' || this.state === 'waiting') throw new SidelockError('this object is in use', 'in_use');
    const { wait = null, shared, permits, maxHold, owner, meta, enforce, replicas, durability, onWaiting, onContended, signal } = this.options;
    const params = this.names.length === 1 ? { name: this.names[0] } : { names: this.names };
    if (shared) params.mode = 'shared';
    const waitMs = wait === null ? null : milliseconds(wait);
    const more = {
      permits, owner, meta, replicas, durability, on_lost: enforce, wait_ms: waitMs ?? undefined,
      max_hold_ms: maxHold == null ? undefined : Math.max(1, milliseconds(maxHold)), progress: onWaiting || onContended ? true : undefined,
    };
    for (const [key, value] of Object.entries(more)) if (value !== undefined) params[key] = value;
    if (signal && signal.aborted) throw signal.reason;
    Object.assign(this, { state: 'waiting', loss: null, deadline: null, withdrawn_: null, abort_: new AbortController() });
    const aborted = () => this.withdraw_(signal.reason);
    try {
      const { connection, request } = await this.client.start_('acquire', params, { lock: this });
      this.connection_ = connection;
      this.request_ = request;
      if (signal) signal.addEventListener('abort', aborted);
      if (signal && signal.aborted) aborted();
      if (this.withdrawn_) this.withdraw_(this.withdrawn_);
      await connection.finish(request, waitMs);
    } catch (error) {
      if (this.state === 'waiting') this.state = 'free';
      throw error;
    } finally {
      if (signal) signal.removeEventListener('abort', aborted);
      this.request_ = null;
    }
    return this;
  }

  withdraw_(error) {
    if (this.request_) this.connection_.withdraw(this.request_, error);
    else if (this.state === 'waiting') this.withdrawn_ = error; // It is not sent yet.
  }

  /** Withdraws the wait, which throws Cancelled. A lock that is granted meanwhile is given back. */
  cancel() { this.withdraw_(makeError('cancelled', 'the wait was withdrawn')); }

  lose_(loss) {
    this.held_.delete(loss.name);
    if (this.state !== 'held') return;
    this.state = 'lost';
    this.loss = loss;
    this.abort_.abort(new Lost(loss));
    later(() => this.options.onLost && this.options.onLost(loss));
  }

  /** Gives the lock back. Throws Lost if it was lost before. */
  async release() {
    const failure = await this.end_();
    if (failure) throw failure;
  }

  /** Gives back what is held, and gives the error. */
  async end_() {
    const state = this.state;
    if (state !== 'held' && state !== 'lost') return makeError('not_held', `lock ${this.names[0]} is not held here`);
    const connection = this.connection_;
    let failure = null;
    if (!connection.hasEnded) {
      const requests = [...this.held_].map(([name, token]) => connection.start('release', { name, token }, { lock: this }));
      for (const request of requests) await connection.finish(request).catch((error) => { failure = failure || error; });
      for (const [name, token] of this.held_) connection.forget(this, name, token);
      connection.reference();
    }
    const { loss } = this;
    this.state = loss ? 'gone' : 'released';
    if (loss) return new Lost(loss);
    if (failure && failure.reason === 'lost') {
      return new Lost({ name: this.names[0], token: this.tokens_.get(this.names[0]), reason: failure.data.lost, graceMs: 0 });
    }
    return failure;
  }

  /** Shares from now on what was held alone. */
  async downgrade() {
    await this.ofOne_('downgrade', {});
    this.mode = 'shared';
  }

  /** Sets anew after how many seconds from now the hold ends; null: it does not. */
  async extend(maxHold) {
    await this.ofOne_('extend', { max_hold_ms: maxHold === null ? null : Math.max(1, milliseconds(maxHold)) });
  }

  /** Hands the lock to another session of this host, which must have asked for it. */
  async transfer(session) {
    const [name, token] = await this.ofOne_('transfer', { session });
    this.connection_.forget(this, name, token);
    this.state = 'released';
  }

  async ofOne_(method, more) {
    this.check();
    if (this.names.length !== 1) throw new SidelockError(`${method} is for one lock at a time`, 'invalid_params');
    const [name, token] = [...this.held_][0];
    try {
      await this.connection_.call(method, { name, token, ...more });
    } catch (error) {
      throw this.loss ? new Lost(this.loss) : error;
    }
    return [name, token];
  }
}
// `await using lock = await sidelock.acquire("orders")`, where the language has it.
Lock.prototype[Symbol.asyncDispose || Symbol.for('Symbol.asyncDispose')] = async function dispose() {
  if (this.state === 'held' || this.state === 'lost') await this.release();
};

class Watch {
  constructor() {
    this.events_ = [];
    this.wake_ = null;
    this.hasEnded_ = false;
  }

  push_(event) {
    if (this.hasEnded_) return;
    this.events_.push(event);
    if (this.wake_) this.wake_();
  }

  async * [Symbol.asyncIterator]() {
    for (;;) {
      while (this.events_.length > 0) {
        const event = this.events_.shift();
        yield event;
        if (event.kind === 'ended') return;
      }
      if (this.hasEnded_) return;
      await new Promise((resolve) => { this.wake_ = resolve; });
      this.wake_ = null;
    }
  }

  /** No more events come. */
  async close() {
    if (this.hasEnded_ || !this.connection_.watches.delete(this.number_)) return;
    this.hasEnded_ = true;
    if (this.wake_) this.wake_();
    await this.connection_.call('unwatch', { watch: this.number_ });
  }
}

const shared = new Client();
module.exports = {
  Client, Lock, SidelockError, Busy, Timeout, Cancelled, NotHeld, Denied, Unavailable, Deadlock, UnderReplicated, Lost, socketPath,
  client: shared,
  lock: (names, options) => shared.lock(names, options),
  acquire: (names, options) => shared.acquire(names, options),
  withLock: (names, options, body) => shared.withLock(names, options, body),
  watch: (what) => shared.watch(what),
};
