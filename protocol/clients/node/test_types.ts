// What a program that is checked strictly sees: tsc --strict. Each line behind "expect-error" must be one.
import * as sidelock from 'sidelock';

async function main(): Promise<number> {
  const lock = await sidelock.acquire(['from', 'to'], { wait: 5, owner: 'job', onLost: (loss) => console.log(loss.reason) });
  const token: number = lock.token;
  // @ts-expect-error
  const wrong: string = lock.token;
  // @ts-expect-error
  lock.noSuchMember;
  // @ts-expect-error
  await sidelock.acquire('x', { wiat: 5 });
  await lock.release();
  const long: string = await sidelock.withLock('orders', async (held) => `${held.token} ${wrong}`);
  try {
    await sidelock.withLock('orders', { wait: 0, signal: new AbortController().signal }, () => long.length);
  } catch (error) {
    if (error instanceof sidelock.Busy) console.log(error.holders.map((holder) => holder.pid ?? 0));
    if (error instanceof sidelock.Lost) console.log(error.loss.graceMs + 1);
    if (error instanceof sidelock.UnderReplicated) console.log(error.acknowledged + 1);
  }
  for await (const event of await sidelock.watch({ prefix: 'or' })) console.log(event.kind.length);
  const client = new sidelock.Client({ patience: 1 });
  await lock[Symbol.asyncDispose]();
  await client.close();
  return token;
}
main();
