// Asking an agent for what its volumes lack: in turn, and at a cost that goes by what is asked, not by how many volumes wait.
import { describe, expect, test } from 'vitest';
import { ReadPump } from '../../../src/rephub/read-pump.ts';
import type { SessionVolume } from '../../../src/rephub/session-volume.ts';
import { SyncRead } from '../../../src/rephub/sync-read.ts';

const READ_BYTES = 65_536;

/** Volumes of which each has so many reads to make, and what the pump did with them. */
function pumpOf(volumes: number, readsOfEach: number, atOnce = 4) {
  const asked: Array<{ requestId: number; volumeId: bigint }> = [];
  const counts = { compares: 0, takes: 0 };
  const pump = new ReadPump(atOnce, (requestId, { id }) => asked.push({ requestId, volumeId: id }));
  const all = Array.from({ length: volumes }, (_, at) => {
    let left = readsOfEach;
    const reads = {
      takeRead: () => {
        counts.takes += 1;
        if (left === 0) return undefined;
        left -= 1;
        return new SyncRead(left * READ_BYTES, READ_BYTES);
      },
      readArrived: () => {},
    };
    return { id: BigInt(at), replica: { reads } } as unknown as SessionVolume;
  });
  const compare = (): void => {
    counts.compares += 1;
  };
  const answer = (one: { requestId: number; volumeId: bigint }): void => {
    const volume = pump.answered({
      kind: 'remoteIoResponse',
      ...one,
      status: 0,
      sequence: 0,
      allZero: true,
      data: Buffer.alloc(0),
    });
    // As the replica does once the answer was stored.
    pump.wake(volume);
    pump.pump(compare);
  };
  for (const volume of all) pump.wake(volume);
  pump.pump(compare);
  return { asked, counts, answer };
}

/** Answers everything that is asked for, one after the other. */
function run(volumes: number, readsOfEach: number) {
  const { asked, counts, answer } = pumpOf(volumes, readsOfEach);
  for (let at = 0; at < asked.length; at += 1) answer(asked[at]!);
  return { asked, counts };
}

describe('ReadPump', () => {
  test('asks every volume in turn, and no more at once than it may', () => {
    const { asked, answer } = pumpOf(3, 2, 2);
    expect(asked.map(({ volumeId }) => volumeId)).toEqual([0n, 1n]);
    for (let at = 0; at < asked.length; at += 1) answer(asked[at]!);
    expect(asked.map(({ volumeId }) => volumeId)).toEqual([0n, 1n, 2n, 0n, 1n, 2n]);
  });

  test('does as much for a read whether ten volumes wait or a hundred', () => {
    for (const volumes of [10, 100]) {
      const { asked, counts } = run(volumes, 5);
      expect(asked.length).toBe(volumes * 5);
      // Once for each that is woken: at first, and by each answer.
      expect(counts.compares).toBe(volumes + asked.length);
      // And one for each that turns out to have nothing more, at each time it was woken at most.
      expect(counts.takes).toBeLessThanOrEqual(2 * asked.length + volumes);
    }
  });
});
