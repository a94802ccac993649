const sidelock = require('sidelock');

async function main() {
  const end = performance.now() + 1000 * process.env.CYCLES_SECONDS;
  let count = 0;
  for (; performance.now() < end; count++) await (await sidelock.acquire('cycles')).release();
  console.log(count);
}
main().then(() => process.exit(0));
