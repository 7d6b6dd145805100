// What a hub keeps of a replica, over attachments that come to nothing.
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test, vi } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import { memoryRecord } from '../../../src/rephub/record-file.ts';
import { isOutdated, type RecoveryPoint } from '../../../src/rephub/recovery-point.ts';
import {
  type Beginning,
  ReplicaMemory,
  type ReplicaMemoryOptions,
} from '../../../src/rephub/replica-memory.ts';
import type { ReplicaRecord } from '../../../src/rephub/replica-record.ts';
import type { Claim } from '../../../src/repwire/messages.ts';
import { waitUntil } from '../../support/wait-until.ts';

const AGENT = { id: 'a'.repeat(32), epoch: 1n };

function claim(pairing: bigint, generation: number): Claim {
  return {
    kind: 'claim',
    volumeId: 1n,
    pairing,
    generation,
    recordedSequence: 0,
    isBelieved: true,
    finding: 'clean',
  };
}

async function emptyMemory(options: Partial<ReplicaMemoryOptions> = {}): Promise<ReplicaMemory> {
  const memory = new ReplicaMemory({
    volumeName: 'disk',
    place: memoryRecord(),
    look: async () => undefined,
    recordMs: 1,
    logger: silentLogger,
    onRecorded: () => {},
    ...options,
  });
  await memory.prepare();
  return memory;
}

const begin = (memory: ReplicaMemory, from: Claim): Promise<Beginning> =>
  memory.begin(AGENT, 'vm', 4096, from);

describe('an attachment under a new pairing', () => {
  test('that the agent never heard of does not shut it out', async () => {
    const memory = await emptyMemory();
    const before = claim(7n, 3);
    const lost = await begin(memory, before);
    // The link goes down here, and again.
    const again = await begin(memory, before);
    const last = await begin(memory, before);
    expect([lost.kind, again.kind, last.kind]).toEqual(['compare', 'compare', 'compare']);
    const { pairing } = last;
    expect(pairing!.pairing).not.toBe(7n);
    // It has kept the last one.
    const kept = await begin(memory, claim(pairing!.pairing, pairing!.generation));
    expect(kept.kind).toBe('recall');
    await memory.close(true);
  });

  test('that the agent answered to shuts out what remembers the one before', async () => {
    const memory = await emptyMemory();
    await begin(memory, claim(7n, 3));
    memory.confirmed();
    // Written in memory, within this turn.
    await turn();
    await expect(begin(memory, claim(7n, 3))).rejects.toThrow('another replica');
    await memory.close(true);
  });
});

describe('an attachment that goes on', () => {
  test('after the link was lost says again what was recorded, and records on', async () => {
    const told: number[] = [];
    const memory = await emptyMemory({ onRecorded: ({ sequence }) => told.push(sequence) });
    const { pairing } = await begin(memory, claim(0n, 0));
    memory.confirmed();
    memory.reached(5, 0);
    await vi.waitFor(() => expect(told).toEqual([5]));
    // Neither that nor an echo of it arrives.
    memory.detached();
    memory.reached(9, 0);
    memory.confirmed();
    expect(told).toEqual([5, 5]);
    memory.echoed({ kind: 'recorded', volumeId: 1n, ...pairing!, sequence: 5 });
    await vi.waitFor(() => expect(told).toEqual([5, 5, 9]));
    await memory.close(true);
  });

  test('after a record that could not be written writes it once it can', async () => {
    const told: number[] = [];
    const place = memoryRecord();
    let failures = 0;
    const save: typeof place.save = async (record) => {
      if (failures === 0) return place.save(record);
      failures -= 1;
      throw new Error('no space');
    };
    const memory = await emptyMemory({
      place: { load: place.load, save },
      onRecorded: ({ sequence }) => told.push(sequence),
    });
    await begin(memory, claim(0n, 0));
    failures = 2;
    memory.reached(5, 0);
    await vi.waitFor(() => expect(told).toEqual([5]));
    expect(failures).toBe(0);
    await memory.close(true);
  });

  test('has a record that is young whenever its image changes, and none is written while it does not', async () => {
    vi.useFakeTimers();
    try {
      const place = memoryRecord();
      let saves = 0;
      const save: typeof place.save = async (record) => {
        saves += 1;
        await place.save(record);
      };
      const look = { identity: '1:1', changedAtNs: '1000000', isEmpty: false };
      const memory = await emptyMemory({
        place: { load: place.load, save },
        look: async () => ({ ...look }),
      });
      await begin(memory, claim(0n, 0));
      const ageMs = async (): Promise<number> => {
        const record = (await place.load()) as ReplicaRecord;
        return Date.now() - record.writtenAtMs;
      };
      const before = saves;
      await vi.advanceTimersByTimeAsync(3_600_000);
      expect(saves).toBe(before);
      // An hour of rest: the change waits for the record. One that follows does not.
      const renewed = memory.beforeChange();
      expect([renewed, memory.beforeChange()]).toEqual([renewed, renewed]);
      await renewed;
      expect([saves, await ageMs(), memory.beforeChange()]).toEqual([before + 1, 0, undefined]);
      // A minute of changes: the record follows them, and none of them waits.
      for (let second = 0; second < 60; second += 1) {
        await vi.advanceTimersByTimeAsync(1000);
        expect(memory.beforeChange()).toBeUndefined();
        expect(await ageMs()).toBeLessThan(10_000);
      }
      await vi.advanceTimersByTimeAsync(1000);
      expect(saves).toBeLessThan(before + 15);
      // The clock is set back by a day: an image that is older than its record would look rolled back.
      vi.setSystemTime(Date.now() - 86_400_000);
      await memory.beforeChange();
      expect(await ageMs()).toBe(0);
      await memory.close(true);
    } finally {
      vi.useRealTimers();
    }
  });

  test('changes its image also where its record can not be written, and asks for it now and then', async () => {
    vi.useFakeTimers();
    try {
      const place = memoryRecord();
      let tries = 0;
      let isFull = false;
      const save: typeof place.save = async (record) => {
        tries += 1;
        if (isFull) throw new Error('no space');
        await place.save(record);
      };
      const memory = await emptyMemory({ place: { load: place.load, save } });
      await begin(memory, claim(0n, 0));
      await vi.advanceTimersByTimeAsync(60_000);
      isFull = true;
      await memory.beforeChange();
      const before = tries;
      expect(memory.beforeChange()).toBeUndefined();
      await vi.advanceTimersByTimeAsync(6000);
      isFull = false;
      await memory.beforeChange();
      expect(tries).toBe(before + 1);
      await memory.close(true);
    } finally {
      vi.useRealTimers();
    }
  });

  test('after its store failed keeps its record in step with the image', async () => {
    const place = memoryRecord();
    const look = { identity: '1:1', changedAtNs: '1000000', isEmpty: false };
    const memory = await emptyMemory({ place, look: async () => ({ ...look }) });
    await begin(memory, claim(0n, 0));
    memory.image.released();
    await memory.prepare();
    memory.regained();
    look.changedAtNs = '90000000000';
    await memory.close(true);
    expect(await place.load()).toMatchObject({ isClean: true, image: { changedAtNs: '90000000000' } });
  });

  test('after its store failed does not take another image for the one that it had', async () => {
    const look = { identity: '1:1', changedAtNs: '1000000', isEmpty: false };
    const memory = await emptyMemory({ look: async () => ({ ...look }) });
    const { pairing } = await begin(memory, claim(0n, 0));
    expect(await memory.prepare()).toBe(false);
    memory.image.released();
    look.identity = '1:2';
    expect([await memory.prepare(), memory.image.isStrange]).toEqual([true, true]);
    const again = claim(pairing!.pairing, pairing!.generation);
    await expect(begin(memory, again)).rejects.toThrow('another one');
    await memory.close(true);
  });

  test('has a record that is young when it goes on after its store failed for long', async () => {
    const place = memoryRecord();
    const memory = await emptyMemory({ place, look: async () => undefined });
    await begin(memory, claim(0n, 0));
    const before = (await place.load()) as ReplicaRecord;
    memory.image.released();
    await place.save({ ...before, writtenAtMs: 1 });
    await memory.prepare();
    memory.regained();
    await turn();
    expect(((await place.load()) as ReplicaRecord).writtenAtMs).toBeGreaterThanOrEqual(before.writtenAtMs);
    await memory.close(true);
  });
});

describe('the last state of a volume', () => {
  const EARLIER: RecoveryPoint = { generation: 2, sequence: 5, timeMs: 1000, isExact: true };

  /** A record of a hub that was closed in order. */
  async function closedBefore(): Promise<{ memory: ReplicaMemory; kept: () => Promise<ReplicaRecord> }> {
    const place = memoryRecord();
    const first = await emptyMemory({ place });
    await begin(first, claim(7n, 1));
    first.passed(5, 1_000_000, true);
    await first.close(true, true);
    const kept = async (): Promise<ReplicaRecord> => (await place.load()) as ReplicaRecord;
    expect((await kept()).point).toEqual(EARLIER);
    return { memory: await emptyMemory({ place }), kept };
  }

  const next = async (memory: ReplicaMemory, kept: () => Promise<ReplicaRecord>): Promise<Claim> => {
    const { pairing, generation } = await kept();
    expect(memory.point).toEqual(EARLIER);
    return claim(pairing, generation);
  };

  test('is recorded at the next attachment only if all of it is durable', async () => {
    const { memory, kept } = await closedBefore();
    const from = await next(memory, kept);
    memory.passed(9, 2_000_000, true);
    const { point } = await memory.begin(AGENT, 'vm', 4096, from, false);
    expect([point?.sequence, (await kept()).point]).toEqual([9, { ...EARLIER, isExact: false }]);
    // Nothing that was recorded is taken back by what a disk loses.
    expect(memory.durable(0, 0)).toEqual({ ...EARLIER, isExact: false });
  });

  test('is that which a commit has made durable, once the log of the one before is not needed any more', async () => {
    const { memory, kept } = await closedBefore();
    await begin(memory, await next(memory, kept));
    await memory.undoNote.keep('log');
    expect([memory.undoNote.logId, (await kept()).undoId, (await kept()).point]).toEqual([
      'log',
      'log',
      EARLIER,
    ]);
    memory.settles(20, 3_000_000);
    await memory.undoNote.keep(null);
    expect([memory.undoNote.logId, (await kept()).undoId]).toEqual([null, null]);
    expect((await kept()).point).toEqual({ generation: 3, sequence: 20, timeMs: 3000, isExact: false });
  });

  test('is exact after the end of the hub only if the image holds nothing else', async () => {
    const { memory, kept } = await closedBefore();
    await begin(memory, await next(memory, kept));
    await memory.close(true, false);
    expect((await kept()).point).toEqual({ ...EARLIER, isExact: false });
  });

  test('is what a store says that fails while an attachment is being recorded', async () => {
    const memory = await emptyMemory();
    await begin(memory, claim(7n, 1));
    memory.passed(9, 2_000_000, true);
    const beginning = begin(memory, claim(0n, 0));
    memory.durable(3, 1_000_000);
    const point = { generation: 2, sequence: 3, timeMs: 1000, isExact: false };
    expect([(await beginning).point, memory.point]).toEqual([point, point]);
    await memory.close(true);
  });

  test('is what a log was dropped for, also of a store that failed before that', async () => {
    const memory = await emptyMemory();
    await begin(memory, claim(7n, 1));
    await memory.undoNote.keep('log');
    memory.settles(18, 2_000_000);
    memory.passed(16, 1_000_000, true);
    memory.image.released();
    await memory.undoNote.keep(null);
    expect(memory.point).toEqual({ generation: 2, sequence: 18, timeMs: 2000, isExact: false });
    await memory.close(true);
  });

  test('does not go back to a position that is recorded later', async () => {
    const place = memoryRecord();
    const memory = await emptyMemory({ place });
    await begin(memory, claim(7n, 1));
    memory.settles(25, 2_000_000);
    memory.reached(7, 1_000_000);
    await memory.undoNote.keep(null);
    await waitUntil(async () => ((await place.load()) as ReplicaRecord).sequence === 7);
    expect(((await place.load()) as ReplicaRecord).point?.sequence).toBe(25);
    await memory.close(true);
  });

  test('is noted without a word on an image that nobody has judged yet: others may have changed it', async () => {
    const place = memoryRecord();
    const look = { identity: '1:1', changedAtNs: '5000000000', isEmpty: false };
    const first = await emptyMemory({ place, look: async () => look });
    await begin(first, claim(7n, 1));
    await first.close(true, true);
    const changed = { ...look, changedAtNs: '9000000000' };
    const memory = await emptyMemory({ place, look: async () => changed });
    const before = (await place.load()) as ReplicaRecord;
    // Found beside the image when it was opened.
    await memory.undoNote.keep('log');
    expect(await place.load()).toEqual({ ...before, undoId: 'log' });
    await expect(begin(memory, claim(before.pairing, before.generation))).rejects.toThrow('was changed');
    await memory.close(true);
  });

  test('is not noted to be gone where that could not be recorded', async () => {
    const place = memoryRecord();
    const { save } = place;
    const memory = await emptyMemory({ place });
    await begin(memory, claim(7n, 1));
    place.save = () => Promise.reject(new Error('no space'));
    await expect(memory.undoNote.keep('none')).rejects.toThrow('no space');
    expect(memory.undoNote.logId).toBe(null);
    place.save = save;
    await memory.undoNote.keep('log');
    place.save = () => Promise.reject(new Error('no space'));
    await expect(memory.undoNote.keep(null)).rejects.toThrow('no space');
    expect(memory.undoNote.logId).toBe('log');
    place.save = save;
    await memory.close(true);
  });

  test('is what a recovery said, when the image was put back while the hub did not have it', async () => {
    const { memory, kept } = await closedBefore();
    await begin(memory, await next(memory, kept));
    memory.passed(9, 2_000_000, true);
    expect(await memory.prepare()).toBe(false);
    memory.image.released();
    expect(await memory.prepare()).toBe(false);
    const place = memoryRecord();
    const point = { ...EARLIER, sequence: 7 };
    await place.save({ ...(await kept()), point, isClean: true, writtenAtMs: 1 });
    const other = await emptyMemory({ place });
    expect(other.point).toEqual(point);
    other.image.released();
    await place.save({ ...(await kept()), point: EARLIER, isClean: true, writtenAtMs: 2 });
    expect([await other.prepare(), other.point]).toEqual([true, EARLIER]);
  });

  test('is not told of an image that others changed, nor kept, whoever is chosen', async () => {
    for (const use of ['agent', 'replica'] as const) {
      const place = memoryRecord();
      const look = { identity: '1:1', changedAtNs: '5000000000', isEmpty: false };
      const first = await emptyMemory({ place, look: async () => look });
      await begin(first, claim(7n, 1));
      first.passed(5, 1_000_000, true);
      await first.close(true, true);
      const changed = { ...look, changedAtNs: '9000000000' };
      const memory = await emptyMemory({ place, look: async () => changed });
      expect([memory.point, memory.image.isStrange]).toEqual([null, true]);
      const { pairing, generation } = (await place.load()) as ReplicaRecord;
      await expect(begin(memory, claim(pairing, generation))).rejects.toThrow('was changed');
      await memory.resolve(use, undefined);
      const record = (await place.load()) as ReplicaRecord;
      expect([record.point, record.image, isOutdated(EARLIER, record)]).toEqual([null, changed, true]);
    }
  });

  test('is not recorded while the hub does not have the image: a recovery may have recorded another', async () => {
    const place = memoryRecord();
    const memory = await emptyMemory({ place });
    await begin(memory, claim(7n, 1));
    memory.image.released();
    const recovered = { ...((await place.load()) as ReplicaRecord), point: EARLIER, writtenAtMs: 1 };
    await place.save(recovered);
    memory.reached(9, 2_000_000);
    memory.verified();
    // The first position is recorded without a wait.
    await sleep(5);
    expect(await place.load()).toEqual(recovered);
    expect([await memory.prepare(), memory.point]).toEqual([true, { ...EARLIER, isExact: false }]);
    memory.regained();
    memory.verified();
    await turn();
    expect(((await place.load()) as ReplicaRecord).verifiedAtMs).toBeGreaterThan(0);
    await memory.close(true);
  });
});
