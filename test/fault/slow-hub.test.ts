// A hub behind a line that is too narrow for what a guest writes: the agent's queue overflows, the guest goes on at its
// own pace, what is said of the lag is never less than what the replica lacks, and only what did not fit is read.
import { expect, test } from 'vitest';
import { KiB, MiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { CutProxy } from '../support/cut-proxy.ts';
import { LagWitness } from '../support/lag-witness.ts';
import { MirrorPair, volumeAt } from '../support/mirror-pair.ts';
import { makeImage } from '../support/rig.ts';
import { tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const CHUNK = 64 * KiB;
const SIZE = 64 * MiB;
const QUEUE = MiB;
/** One in each chunk. */
const WRITE = CHUNK;
/** Many times what the queue and the kernel's buffers hold. */
const WRITES = 600;

test('a narrow line: the queue overflows, the lag is never told too small, and the replica converges', async () => {
  const dir = tempDir();
  try {
    makeImage(dir.file('a.img'), SIZE, []);
    let proxy: CutProxy | undefined;
    await using pair = new MirrorPair({
      folder: dir.path,
      sizeBytes: SIZE,
      agentArgs: ['--queue-bytes', String(QUEUE)],
      dialPort: () => proxy!.port,
    });
    await pair.startHub();
    proxy = await CutProxy.listen(pair.hub.port);
    try {
      await pair.startAgent();
      await pair.settled();
      // At most 6 MiB a second.
      proxy.pieceBytes = 128 * KiB;
      proxy.delayMs = 20;
      await overflow(pair);
      proxy.delayMs = 0;
      proxy.pieceBytes = Number.POSITIVE_INFINITY;
      await pair.expectEqual();
      expect(await volumeAt(pair.agent)).toMatchObject({ lagMs: 0, state: 'protected' });
    } finally {
      await proxy.close();
    }
  } finally {
    dir.remove();
  }
});

async function overflow(pair: MirrorPair): Promise<void> {
  const before = await pair.counts();
  using witness = new LagWitness(pair.replica);
  const guest = await openNbdDevice(pair.uri, { logger: silentLogger });
  const ask = () => volumeAt(pair.agent);
  const states = new Set<string>();
  for (let i = 0; i < WRITES; i += 1) {
    await witness.write(guest, i * CHUNK, WRITE);
    if (i % 20 === 0) states.add((await witness.judge(ask)).state);
  }
  await guest.close();
  const atEnd = await ask();
  expect(atEnd?.queuedBytes, 'the queue keeps its limit').toBeLessThanOrEqual(QUEUE + WRITE);
  await waitUntil(
    async () => {
      const told = await witness.judge(ask);
      states.add(told.state);
      return witness.missing === 0 && told.state === 'protected';
    },
    { what: 'everything at the hub', timeoutMs: 90_000, intervalMs: 20 },
  );
  const counts = await pair.counts();
  const readBytes = counts.readBytes - before.readBytes;
  process.stdout.write(
    `  ${counts.overflows} overflows, states ${[...states].join(', ')}, re-read ${readBytes / KiB} KiB, lag up to ` +
      `${Math.round(witness.longestMs)} ms, judged ${witness.judged} times\n`,
  );
  expect(counts.overflows).toBeGreaterThan(0);
  expect(states).toContain('degraded');
  expect(witness.judged).toBeGreaterThan(20);
  // Each chunk was written once: none is read twice, unless the queue overflowed again before it was.
  expect(readBytes).toBeLessThanOrEqual(WRITES * CHUNK);
}
