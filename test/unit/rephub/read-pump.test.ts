// Asking an agent for what its volumes lack: in turn, and at a cost that goes by what is asked, not by how many volumes wait.
import { describe, expect, test, vi } from 'vitest';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { ReadPump } from '../../../src/rephub/read-pump.ts';
import type { SessionVolume } from '../../../src/rephub/session-volume.ts';
import { SyncRead } from '../../../src/rephub/sync-read.ts';
import { FEATURE_WIDE_READS } from '../../../src/repwire/constants.ts';
import type { RemoteIoResponse } from '../../../src/repwire/messages.ts';

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
      answeredBytes: 0,
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

  test('takes a short answer to a wide read alone, and no one that leads nowhere', () => {
    const arrived: number[] = [];
    const open = (length: number) => {
      const asked: number[] = [];
      const pump = new ReadPump(1, (requestId) => asked.push(requestId));
      pump.agree(FEATURE_WIDE_READS);
      const takeRead = vi.fn(() => new SyncRead(0, length));
      const readArrived = (_read: SyncRead, _data: null, _asOf: number, bytes: number) => arrived.push(bytes);
      const volume = { id: 1n, replica: { reads: { takeRead, readArrived } } } as unknown as SessionVolume;
      pump.wake(volume);
      pump.pump(() => {});
      expect(takeRead).toHaveBeenCalledWith(true);
      return (answeredBytes: number) =>
        pump.answered({
          ...{ kind: 'remoteIoResponse', requestId: asked[0]!, volumeId: 1n, status: 0, sequence: 0 },
          ...{ allZero: true, answeredBytes, data: Buffer.alloc(0) },
        } as RemoteIoResponse);
    };
    open(8 * MiB)(256 * KiB);
    open(8 * MiB)(0);
    open(MiB)(0);
    expect(arrived).toEqual([256 * KiB, 8 * MiB, MiB]);
    expect(() => open(8 * MiB)(256 * KiB - 512)).toThrow('answers 261632 bytes of 8388608');
    expect(() => open(8 * MiB)(9 * MiB)).toThrow('answers 9437184 bytes of 8388608');
    expect(() => open(MiB)(512 * KiB)).toThrow('answers 524288 bytes of 1048576');
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
