'use strict';
// What Node.js has beside the conformance suite, with a daemon at SIDELOCK_SOCKET: dispose, signals that abort, and text that is none.
const assert = require('assert');
const sidelock = require('./sidelock.js');

async function main() {
  const lock = await sidelock.acquire('disposed');
  await lock[Symbol.asyncDispose || Symbol.for('Symbol.asyncDispose')]();
  assert(!lock.held);
  await lock[Symbol.asyncDispose || Symbol.for('Symbol.asyncDispose')](); // what was given back already
  const again = await sidelock.acquire('disposed', { wait: 0 });
  await assert.rejects(sidelock.acquire('disposed', { signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' });
  await assert.rejects(sidelock.acquire('disposed', { signal: AbortSignal.abort() }), { name: 'AbortError' });
  assert.strictEqual((await sidelock.client.call('inspect', { name: 'disposed' })).waiting ?? 0, 0);
  await assert.rejects(sidelock.withLock('disposed', { wait: 0 }, () => assert.fail()), sidelock.Busy);
  await again.release();
  assert.strictEqual(await sidelock.withLock('disposed', () => 7), 7);
  await assert.rejects(async () => sidelock.acquire('fine', { timeout: 5 }), { reason: 'invalid_params', message: /timeout/ });
  await assert.rejects(sidelock.acquire('\ud800', { wait: 5 }), { reason: 'invalid_params' });
  await assert.rejects(sidelock.acquire('fine', { wait: 5, meta: '\\\udfff' }), { reason: 'invalid_params' });
  await sidelock.withLock('\\ud800 \u{1f600}', { wait: 5 }, () => {}); // a backslash, and no half of anything
  await sidelock.client.close();
}
main();
