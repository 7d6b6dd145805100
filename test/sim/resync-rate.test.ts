// A guest at work while its disk is copied to a hub, on virtual time, on a disk of 8 MiB a second that serves whoever
// comes first: with `auto` it hardly notices and the copy goes on; with a rate the rate holds.
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import type { ResyncRate } from '../../src/repagent/resync-pace.ts';
import { CopyScene, onVirtualTime } from './copy-scene.ts';

const DISK_BYTES_PER_MS = (8 * MiB) / 1000;
const READ_BYTES = 256 * 1024;
/** A rate that bounds nothing here. */
const NO_BOUND = 100_000 * MiB;

function inScene<T>(rate: ResyncRate, sizeBytes: number, run: (scene: CopyScene) => T): Promise<T> {
  return onVirtualTime(() => {
    const scene = new CopyScene({ rate, sizeBytes, bytesPerMs: DISK_BYTES_PER_MS });
    try {
      return run(scene);
    } finally {
      scene.close();
    }
  });
}

it('auto keeps the latency of a guest near its own while the copy goes on, and takes all when it has gone', async () => {
  const greedy = await inScene(NO_BOUND, 20 * MiB, (scene) => {
    scene.copy();
    return scene.guestAtWork(2000);
  });
  await inScene('auto', 48 * MiB, (scene) => {
    const alone = scene.guestAtWork(2000);
    scene.copy();
    // What the guest needs by itself is learnt in quiet moments, one a second.
    const learning = scene.guestAtWork(4000);
    const yielding = scene.guestAtWork(4000);
    const { resyncReads, volumes } = scene.status;
    process.stdout.write(`${JSON.stringify({ greedy, alone, learning, yielding })}\n`);
    expect(volumes[0]!.state).toBe('initial-sync');
    expect(resyncReads).toMatchObject({ rate: 'auto', yielding: true });
    expect(greedy.meanMs).toBeGreaterThan(50 * yielding.meanMs);
    expect(greedy.meanMs).toBeGreaterThan(10 * learning.meanMs);
    expect(yielding.medianMs).toBeLessThan(2 * alone.medianMs);
    expect(yielding.meanMs).toBeLessThan(3 * alone.meanMs);
    // Whatever guests do: a read each quarter of a second, but for a quiet moment each second.
    expect(yielding.bytesPerSecond).toBeGreaterThan(2 * READ_BYTES);
    const leftBytes = scene.sizeBytes - scene.readBytes;
    const beganMs = scene.clock.nowMs;
    scene.until('the copy ends', () => scene.status.volumes[0]!.state === 'protected');
    // After a second without guests the disk is the hub's.
    expect(scene.clock.nowMs - beganMs).toBeLessThan(1500 + 1.2 * (leftBytes / DISK_BYTES_PER_MS));
    expect(scene.isEqual).toBe(true);
  });
});

it('a rate holds, whatever guests do, and the time left follows from it', async () => {
  const rate = 4 * MiB;
  await inScene(rate, 20 * MiB, (scene) => {
    scene.copy();
    const fared = scene.guestAtWork(4000);
    process.stdout.write(`${JSON.stringify(fared)}\n`);
    expect(fared.bytesPerSecond).toBeGreaterThan(0.95 * rate);
    // A tenth of a second of it may have been saved up, and reads be on their way.
    expect(fared.bytesPerSecond).toBeLessThan(1.15 * rate);
    const { resyncReads, volumes } = scene.status;
    expect(resyncReads).toMatchObject({ rate, yielding: false });
    const { syncTimeLeftMs, syncTotalBytes, syncDoneBytes } = volumes[0]!;
    const expectedMs = ((syncTotalBytes - syncDoneBytes) / rate) * 1000;
    expect(syncTimeLeftMs! / expectedMs).toBeGreaterThan(0.8);
    expect(syncTimeLeftMs! / expectedMs).toBeLessThan(1.25);
  });
});
