// Many NBD handshakes that never get anywhere, from a process of its own so that they don't slow down who measures:
//   node slowloris.mjs PORT COUNT
// Each connection says one more byte of its handshake now and then, and connects anew when it is cut. Prints `ready`
// when all are there for the first time; ends with its standard input.
import { connect } from 'node:net';

const [port, count] = process.argv.slice(2).map(Number);
const DRIP_MS = 2000;
// Client flags, and INFO for a name that never comes to its end.
const WORDS = Buffer.from('\0\0\0\x03IHAVEOPT\0\0\0\x06\0\0\x10\0\0\0\x0f\xff'.padEnd(200, 'x'), 'latin1');

let there = 0;
function stall(index) {
  let said = index % 24;
  const socket = connect({ host: '127.0.0.1', port }, () => {
    socket.write(WORDS.subarray(0, said));
    there += 1;
    if (there === count) process.stdout.write('ready\n');
  });
  // Each in a rhythm of its own: together they say something all the time.
  const timer = setInterval(
    () => {
      socket.write(WORDS.subarray(said, said + 1));
      said = Math.min(said + 1, WORDS.length - 1);
    },
    DRIP_MS * (0.5 + index / count),
  );
  socket.on('data', () => {});
  socket.on('error', () => {});
  socket.on('close', () => {
    clearInterval(timer);
    setTimeout(() => stall(index), 50);
  });
}

for (let index = 0; index < count; index += 1) stall(index);
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
