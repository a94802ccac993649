#!/usr/bin/env node
// Holds a lock until the input ends: client.js SOCKET NAME.
'use strict';
const net = require('net');

const [path, name] = process.argv.slice(2);
if (name === undefined) fail('usage: client.js SOCKET NAME');
// That stands for every byte which is no UTF-8: two names would be one.
if (name.includes('\uFFFD')) fail('NAME is not UTF-8');

const waiting = new Map(); // id -> {resolve, reject} of a request that is not answered yet
let nextId = 1;
let buffer = '';
let holds = false;

const socket = net.connect(path); // Node sets close-on-exec itself.
socket.setEncoding('utf8');
socket.on('error', (error) => {
  if (holds) lost('connection_ended');
  fail(error.code === 'EPIPE' ? 'the daemon closed the connection' : error.message);
});
// Locks end with the connection; after socket.end(), which closes one half, when the last answer is out.
socket.on('close', () => (holds ? lost('connection_ended') : fail('the daemon closed the connection')));
socket.on('data', (text) => {
  const lines = (buffer + text).split('\n');
  buffer = lines.pop();
  for (const line of lines) received(JSON.parse(line));
});

function received(message) {
  if (message.method === 'lost') lost(message.params.reason);
  // A connection that the daemon refuses is told so with a null id.
  if (message.id === null && message.error) fail(message.error.message);
  const request = waiting.get(message.id);
  if (request === undefined) return; // A notification that this client does not know.
  waiting.delete(message.id);
  if (message.error && message.error.data.reason === 'lost') lost(message.error.data.lost);
  if (message.error) request.reject(new Error(message.error.message));
  else request.resolve(message.result);
}

function call(method, params) {
  const id = nextId++;
  socket.write(JSON.stringify({ id, method, params }) + '\n');
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function lost(reason) {
  console.log('lost', reason);
  process.exit(3);
}

function fail(text) {
  console.error(text);
  process.exit(1);
}

async function main() {
  // Whatever this process starts or leaves behind, the lock ends with it.
  await call('initialize', { lifetime: 'process' });
  // Tokens are below 2^53, so they are exact as a number.
  const { token } = await call('acquire', { name });
  holds = true;
  console.log('acquired', token);
  await new Promise((resolve) => process.stdin.on('end', resolve).resume());
  await call('release', { name, token });
  console.log('released');
  process.exit(0);
}

main().catch((error) => fail(error.message));
