// SIGTERM while another project's clients are in the middle of their work: what was asked before is answered, what comes
// after is refused in words, nothing that was answered is lost, and the end is orderly.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { KiB } from '../../src/base/limits.ts';
import { startServe } from '../support/cli.ts';
import { startPeer } from '../support/peers.ts';
import { tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const BLOCK = 4 * KiB;
const DEPTH = 32;

/**
 * libnbd keeps DEPTH writes in flight, each of a block that nobody else writes, filled with its number. Prints a line
 * `ok N` or `ERRNO N` for every answer, and at the end `left N` for each request that was never answered.
 */
const WRITER = `
import errno, os, nbd
h = nbd.NBD()
h.connect_uri(os.environ["URI"])
count = h.get_size() // ${BLOCK}
started, waiting, told = 0, set(), []
def start(number):
    data = nbd.Buffer.from_bytearray(bytearray((number).to_bytes(4, "big") * ${BLOCK / 4}))
    def done(error):
        waiting.discard(number)
        # What libnbd says of a request for which the server, gone by then, had no answer.
        if error.value == errno.ENOTCONN:
            print("left %d" % number, flush=True)
            return 1
        print("%s %d" % (os.strerror(error.value) if error.value else "ok", number), flush=True)
        told.append(error.value)
        return 1
    waiting.add(number)
    h.aio_pwrite(data, number * ${BLOCK}, completion=done)
try:
    while started < count and len([e for e in told if e]) < 4:
        while len(waiting) < ${DEPTH} and started < count:
            start(started)
            started += 1
        h.poll(1000)
    while waiting and h.aio_is_ready():
        h.poll(1000)
except nbd.Error as error:
    print("ended %s" % error, flush=True)
for number in sorted(waiting):
    print("left %d" % number, flush=True)
`;

it('answers what is in flight, refuses what is new, flushes, and ends with 0', async () => {
  const folder = tempDir();
  const image = folder.file('disk.img');
  const calls = folder.file('calls.txt');
  await using serve = await startServe([
    ...[`disk=${image}`, '--create', '256M', '--listen', `unix:${join(folder.path, 's')}`],
    ...['--filter', `log,file=${calls}`, '--filter', 'delay,write=50ms'],
  ]);
  const uri = `nbd+unix:///disk?socket=${serve.unixPath}`;
  await using writer = startPeer('nbdsh', ['-n', '-c', WRITER], { env: { URI: uri } });
  await waitUntil(() => writer.stdout().split('\n').length > 4 * DEPTH, {
    timeoutMs: 60_000,
    what: 'writes under way',
  });
  expect(await serve.stop()).toEqual({ code: 0, signal: null });
  const { code, stdout, stderr } = await writer.exited;
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });

  const lines = stdout.trimEnd().split('\n');
  const numbers = (start: string): number[] =>
    lines.filter((line) => line.startsWith(`${start} `)).map((line) => Number(line.split(' ').at(-1)));
  const good = numbers('ok');
  const refused = numbers('Cannot send after transport endpoint shutdown');
  const left = numbers('left');
  console.log(
    `${good.length} answered, ${refused.length} refused with ESHUTDOWN, ${left.length} not answered`,
  );
  expect(good.length).toBeGreaterThan(3 * DEPTH);
  expect(refused.length).toBeGreaterThan(0);
  // Nothing else was ever an answer.
  const ended = lines.filter((line) => line.startsWith('ended '));
  expect(good.length + refused.length + left.length + ended.length).toBe(lines.length);

  // Each that was answered is on the disk. Each that reached the disk was answered: none was dropped on its way.
  const disk = readFileSync(image);
  const block = (number: number): Buffer => disk.subarray(number * BLOCK, (number + 1) * BLOCK);
  for (const number of good) {
    const word = Buffer.alloc(4);
    word.writeUInt32BE(number);
    expect(block(number).equals(Buffer.alloc(BLOCK, word)), `block ${number}`).toBe(true);
  }
  const zeroes = Buffer.alloc(BLOCK);
  for (const number of [...refused, ...left])
    expect(block(number).equals(zeroes), `block ${number}`).toBe(true);

  const log = readFileSync(calls, 'utf8').trimEnd().split('\n');
  expect(log.filter((line) => line.includes(' write '))).toHaveLength(good.length);
  // The last call before the image closes is the flush behind them.
  expect(log.at(-1)).toMatch(/ close$/);
  expect(log.at(-2)).toMatch(/ flush .*ok /);
  folder.remove();
});
