const net = require('net');

const script = 'if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end';
const server = net.connect(process.env.CYCLES_REDIS);

function ask(expected, ...words) {
  server.write(`*${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join('')}`);
  return new Promise((resolve, reject) => server.once('data', (data) => (String(data) === expected ? resolve() : reject(data))));
}

async function main() {
  const end = performance.now() + 1000 * process.env.CYCLES_SECONDS;
  let count = 0;
  for (; performance.now() < end; count++) {
    await ask('+OK\r\n', 'SET', 'raw', 'mine', 'NX', 'PX', '30000');
    await ask(':1\r\n', 'EVAL', script, '1', 'raw', 'mine');
  }
  console.log(count);
}
main().then(() => process.exit(0));
