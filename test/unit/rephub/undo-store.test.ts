// A store that can be put back: what it does without room, with a log that is damaged, foreign or gone, and with a disk
// that can't be read. Nothing is overwritten that is not kept, unless somebody said so; and what is lost is said.
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { deferred } from '../../../src/base/lifecycle.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { Mutation } from '../../../src/blockdev/mutation.ts';
import { memoryRecord, type RecordPlace } from '../../../src/rephub/record-file.ts';
import { type Recovery, recoverImage } from '../../../src/rephub/recover.ts';
import type { RecoveryPoint } from '../../../src/rephub/recovery-point.ts';
import { emptyRecord } from '../../../src/rephub/replica-record.ts';
import {
  BATCHES_OFFSET,
  decodeHead,
  decodeState,
  encodeState,
  STATE_OFFSET,
} from '../../../src/rephub/undo-format.ts';
import { LOG_IS_GONE, peekUndo } from '../../../src/rephub/undo-reader.ts';
import { UndoStore, type UndoStoreOptions } from '../../../src/rephub/undo-store.ts';
import { pattern } from '../../support/disk-model.ts';
import {
  CachedBytes,
  Fate,
  MemoryNote,
  MemoryUndoPlace,
  RigStore,
  rigImage,
} from '../../support/undo-rig.ts';

const KIB = 1024;
const BLOCK = 4 * KIB;
const SIZE = 64 * BLOCK;
const POINT: RecoveryPoint = { generation: 1, sequence: 10, timeMs: 1, isExact: true };

function setUp(options: Partial<UndoStoreOptions> = {}, content = pattern(SIZE, 1)) {
  const image = new CachedBytes(content);
  const point = Buffer.from(image.visible);
  const place = new MemoryUndoPlace();
  const note = new MemoryNote();
  const inner = new RigStore(image, new Fate());
  const open = (more: Partial<UndoStoreOptions> = {}): Promise<UndoStore> =>
    UndoStore.open(inner, {
      place,
      note,
      image: 'path:image',
      volumeName: 'v',
      isOutdated: () => false,
      maxBytes: 100 * SIZE,
      whenFull: 'hold',
      logger: silentLogger,
      ...options,
      ...more,
    });
  const recover = (): Promise<Recovery> => recoverFrom(image, place, memoryRecord());
  return { image, point, place, note, inner, open, recover };
}

function recoverFrom(image: CachedBytes, undo: MemoryUndoPlace, record: RecordPlace): Promise<Recovery> {
  return recoverImage({
    path: 'image',
    record,
    undo,
    openImage: async () => rigImage(image, new Fate()),
    look: async () => undefined,
    checkOnly: false,
    logger: silentLogger,
  });
}

/** Overwrites `count` blocks from `first` on. */
function write(first: number, count: number, seed = 2): Mutation {
  return { kind: 'write', offset: first * BLOCK, data: pattern(count * BLOCK, seed), fua: false };
}

/** The id that a log gave itself. */
function headId({ bytes }: MemoryUndoPlace): string {
  return decodeHead(bytes!.visible.subarray(0, BLOCK))!.id;
}

describe('an undo log without room', () => {
  it('holds the image: what can not be kept is not overwritten, and nothing is lost', async () => {
    const { image, point, place, inner, open, recover } = setUp();
    place.roomBytes = BATCHES_OFFSET + 10 * BLOCK;
    const store = await open();
    await store.append([write(0, 5)], POINT);
    const before = Buffer.from(image.visible);
    const { writes } = inner;
    await expect(store.append([write(20, 20)], POINT)).rejects.toMatchObject({
      code: 'ENOSPC',
      message: expect.stringMatching(/held at its last point.*make room.*--undo-full release/) as string,
    });
    expect([inner.writes, image.visible.equals(before)]).toEqual([writes, true]);
    expect(store.fateOf(POINT)).toBe('kept');
    await store.close();
    // It is tried again, without room and with it.
    const again = await open();
    await expect(again.append([write(20, 20)], POINT)).rejects.toThrow('held at its last point');
    await again.close();
    place.roomBytes = Number.POSITIVE_INFINITY;
    const roomy = await open();
    await roomy.append([write(20, 20)], POINT);
    await roomy.close();
    expect(await recover()).toEqual({ point: POINT, bytes: 25 * BLOCK });
    expect(image.durable.equals(point)).toBe(true);
  });

  it('that can not even be begun leaves the image what it was', async () => {
    const { image, point, place, open } = setUp();
    place.roomBytes = 0;
    const store = await open();
    await expect(store.append([write(0, 1)], POINT)).rejects.toThrow('held at its last point');
    expect(image.visible.equals(point)).toBe(true);
    expect([store.undo.state, store.fateOf(POINT)]).toEqual(['none', 'kept']);
  });

  it('is given up where that was chosen, durably, and lets go of the space', async () => {
    const { image, place, note, open, recover } = setUp({ whenFull: 'release' });
    place.roomBytes = BATCHES_OFFSET + 10 * BLOCK;
    const store = await open();
    await store.append([write(0, 5)], POINT);
    await store.append([write(20, 20)], POINT);
    expect(store.undo).toMatchObject({
      state: 'givenUp',
      reason: expect.stringContaining('no room') as string,
    });
    expect(image.visible.subarray(20 * BLOCK, 40 * BLOCK).equals(pattern(20 * BLOCK, 2))).toBe(true);
    expect(place.bytes!.visible.length).toBe(BATCHES_OFFSET);
    expect(store.fateOf(POINT)).toBe('left');
    place.losePower(() => 0.9);
    await expect(recover()).rejects.toThrow(/can't be put back: .*no room/);
    // Once the image is a state of its volume again, all of that is forgotten.
    await store.commit(POINT);
    expect([store.undo, place.bytes, note.logId]).toEqual([{ state: 'none' }, undefined, null]);
  });

  it('keeps nothing where it is switched off, and says so', async () => {
    const { place, open, recover } = setUp({ maxBytes: 0 });
    const store = await open();
    await store.append([write(0, 5)], POINT);
    expect(store.undo).toEqual({ state: 'givenUp', reason: 'switched off (--undo-bytes 0)' });
    expect(place.bytes!.visible.length).toBe(BATCHES_OFFSET);
    await expect(recover()).rejects.toThrow('--undo-bytes 0');
    await store.commit(POINT);
    expect(place.bytes).toBeUndefined();
  });

  it('is given up also where not even that can be said in a log: the note says it', async () => {
    const { image, place, note, open } = setUp({ whenFull: 'release' });
    place.roomBytes = 0;
    const store = await open();
    await store.append([write(0, 5)], POINT);
    expect(image.visible.subarray(0, 5 * BLOCK).equals(pattern(5 * BLOCK, 2))).toBe(true);
    expect([store.undo.state, store.fateOf(POINT), place.bytes]).toEqual(['givenUp', 'left', undefined]);
    const record = memoryRecord();
    await record.save({ ...emptyRecord('v'), point: POINT, undoId: note.logId });
    await expect(recoverFrom(image, place, record)).rejects.toThrow(LOG_IS_GONE);
    place.roomBytes = Number.POSITIVE_INFINITY;
    await store.append([write(10, 5)], POINT);
    expect([store.undo.state, place.bytes]).toEqual(['givenUp', undefined]);
    await store.commit(POINT);
    expect([store.undo, note.logId]).toEqual([{ state: 'none' }, null]);
  });

  it('stays given up when the power fails after the disk did not take that', async () => {
    const { image, place, open, recover } = setUp({ whenFull: 'release' });
    place.roomBytes = BATCHES_OFFSET + 10 * BLOCK;
    const store = await open();
    await store.append([write(0, 5)], POINT);
    place.syncFaults = 1;
    await expect(store.append([write(20, 20)], POINT)).rejects.toThrow('input/output error');
    // Whoever looks now may find that already.
    expect([store.undo.state, store.fateOf(POINT)]).toEqual(['givenUp', 'left']);
    await store.close();
    const again = await open();
    expect(again.undo.state).toBe('givenUp');
    await again.append([write(20, 20)], POINT);
    await again.close();
    const mixed = Buffer.from(image.visible);
    place.losePower(() => 0.9);
    await expect(recover()).rejects.toThrow(/can't be put back: .*no room/);
    expect(image.visible.equals(mixed)).toBe(true);
  });

  it('has its own limit', async () => {
    const { open } = setUp({ maxBytes: BATCHES_OFFSET + 10 * BLOCK });
    const store = await open();
    await expect(store.append([write(0, 12)], POINT)).rejects.toThrow(/reached its limit.*--undo-bytes/);
  });
});

describe('old bytes that can not be read', () => {
  const EIO = Object.assign(new Error('bad sector'), { code: 'EIO' });

  it('hold the image, or give the point up where that was chosen', async () => {
    for (const whenFull of ['hold', 'release'] as const) {
      const { inner, open } = setUp({ whenFull });
      const store = await open();
      inner.read = () => {
        throw EIO;
      };
      const appending = Promise.resolve(store.append([write(0, 1)], POINT));
      if (whenFull === 'hold') await expect(appending).rejects.toThrow(/what it held at 0 can't be read/);
      else await appending;
      expect([store.undo.state, inner.writes]).toEqual(whenFull === 'hold' ? ['open', 0] : ['givenUp', 1]);
    }
  });
});

describe('a log that is damaged', () => {
  /** Three groups, one batch each. */
  async function threeGroups(options: Partial<UndoStoreOptions> = {}) {
    const made = setUp(options);
    const store = await made.open();
    for (const first of [0, 10, 20]) await store.append([write(first, 2)], POINT);
    await store.close();
    return made;
  }
  const GROUP = 3 * BLOCK;
  const flip = (place: MemoryUndoPlace, at: number): void => {
    place.bytes!.visible.writeUInt8(place.bytes!.visible.readUInt8(at) ^ 1, at);
  };

  it('in the old bytes of an earlier group is refused by `recover`, which changes nothing then', async () => {
    const { image, place, recover } = await threeGroups();
    const before = Buffer.from(image.visible);
    flip(place, BATCHES_OFFSET + BLOCK + 100);
    await expect(recover()).rejects.toThrow(/is damaged/);
    expect(image.visible.equals(before)).toBe(true);
    expect(decodeState(headId(place), place.bytes!.visible.subarray(STATE_OFFSET))?.state).toBe('open');
  });

  it('in an earlier descriptor holds the hub too, or is set aside where that was chosen', async () => {
    const { place, note, open } = await threeGroups();
    flip(place, BATCHES_OFFSET + 50);
    await expect(open()).rejects.toMatchObject({
      message: expect.stringContaining('is damaged') as string,
      hint: expect.stringContaining('move the log away') as string,
    });
    const store = await open({ whenFull: 'release' });
    expect(store.undo).toEqual({ state: 'givenUp', reason: LOG_IS_GONE });
    expect([place.bytes, place.aside !== undefined, note.logId !== null]).toEqual([undefined, true, true]);
  });

  it('in its head says nothing, and holds the hub', async () => {
    const { place, open, recover } = await threeGroups();
    flip(place, 30);
    await expect(open()).rejects.toThrow(/its head can not be read/);
    await expect(recover()).rejects.toThrow(/its head can not be read/);
    expect((await peekUndo(place, 'path:image', null)).state).toBe('givenUp');
  });

  it('at its end is torn: what was written there had not been applied', async () => {
    const { image, place, open, recover } = await threeGroups();
    // The image, without what the last batch was kept for.
    const old = pattern(SIZE, 1);
    old.copy(image.visible, 20 * BLOCK, 20 * BLOCK, 22 * BLOCK);
    flip(place, BATCHES_OFFSET + 2 * GROUP + BLOCK + 5);
    const store = await open();
    expect(store.undo).toMatchObject({ state: 'open', bytes: BATCHES_OFFSET + 2 * GROUP });
    await store.append([write(21, 2, 5)], POINT);
    await store.close();
    await recover();
    expect(image.visible.equals(old)).toBe(true);
  });
});

describe('a log that is not the one', () => {
  it('of another image, or of before what was recorded, is set aside', async () => {
    for (const other of [{ image: 'path:other' }, { isOutdated: () => true }]) {
      const { place, note, open } = setUp();
      const store = await open();
      await store.append([write(0, 2)], POINT);
      await store.close();
      note.logId = null;
      const next = await open(other);
      expect([next.undo, place.bytes, place.aside !== undefined]).toEqual([
        { state: 'none' },
        undefined,
        true,
      ]);
    }
  });

  it('of another image is refused by `recover`', async () => {
    const { image, open, recover } = setUp({ image: 'path:other' });
    const store = await open();
    await store.append([write(0, 2)], POINT);
    await store.close();
    const before = Buffer.from(image.visible);
    await expect(recover()).rejects.toThrow('belongs to another image');
    expect(image.visible.equals(before)).toBe(true);
  });

  it('is missed when somebody took it away, until the image is a state of its volume again', async () => {
    const { place, note, open } = setUp();
    const store = await open();
    await store.append([write(0, 2)], POINT);
    await store.close();
    place.bytes = undefined;
    expect(await peekUndo(place, 'path:image', note.logId)).toEqual({
      state: 'givenUp',
      reason: LOG_IS_GONE,
    });
    const next = await open();
    expect(next.undo).toEqual({ state: 'givenUp', reason: LOG_IS_GONE });
    await next.append([write(10, 2)], { ...POINT });
    expect([next.undo.state, next.fateOf(POINT), place.bytes]).toEqual(['givenUp', 'left', undefined]);
    await next.commit(POINT);
    expect([next.undo, note.logId]).toEqual([{ state: 'none' }, null]);
    await next.append([write(10, 2, 9)], { ...POINT });
    expect(next.undo.state).toBe('open');
  });

  it('is missed by `recover`', async () => {
    const record = memoryRecord();
    await record.save({ ...emptyRecord('v'), point: POINT, undoId: 'a'.repeat(32) });
    const { image } = setUp();
    const recovering = recoverFrom(image, new MemoryUndoPlace(), record);
    await expect(recovering).rejects.toThrow(LOG_IS_GONE);
  });

  it('belongs to `recover` alone once that has begun', async () => {
    const { place, open } = setUp();
    const store = await open();
    await store.append([write(0, 2)], POINT);
    await store.close();
    encodeState(headId(place), 'recovering', '').copy(place.bytes!.visible, STATE_OFFSET);
    await expect(open({ whenFull: 'release' })).rejects.toThrow(/has begun to be put back/);
  });
});

describe('a point that is settled', () => {
  /** Commits of the image wait for the test. */
  function gate(inner: RigStore): () => void {
    const commit = inner.commit.bind(inner);
    const ended = deferred<void>();
    inner.commit = async () => {
      await ended.promise;
      return commit();
    };
    return () => ended.resolve();
  }

  it('gets no log from what comes while that is made durable, though nothing came before', async () => {
    const { place, note, inner, open } = setUp();
    const store = await open();
    const end = gate(inner);
    // All that was compared was equal: the image was never left.
    const settling = store.commit(POINT);
    const appending = store.append([write(0, 2)], POINT);
    end();
    await Promise.all([settling, appending]);
    expect([store.undo, place.bytes, note.logId, inner.writes]).toEqual([
      { state: 'none' },
      undefined,
      null,
      1,
    ]);
    await store.append([write(4, 2)], POINT);
    expect(store.undo).toEqual({ state: 'none' });
  });

  it('gets no log after it could not be made durable: what the disk has then nobody knows', async () => {
    const { place, inner, open } = setUp();
    const store = await open();
    const end = gate(inner);
    const { commit } = inner;
    let commits = 0;
    inner.commit = async () => {
      commits += 1;
      await commit();
      if (commits === 1) throw new Error('input/output error');
    };
    const committing = store.commit();
    const appending = store.append([write(0, 2)], POINT);
    end();
    await expect(committing).rejects.toThrow('input/output error');
    await expect(appending).rejects.toThrow('input/output error');
    expect([commits, inner.writes, place.bytes]).toEqual([1, 0, undefined]);
  });

  it('keeps its log when a batch that came meanwhile is stored in part only', async () => {
    const { image, point, inner, open, recover } = setUp();
    const store = await open();
    await store.append([write(0, 2)], POINT);
    const end = gate(inner);
    const settling = store.commit(POINT);
    const append = inner.append.bind(inner);
    inner.append = async ([first]) => {
      await append([first!]);
      throw new Error('no space left on device');
    };
    const appending = store.append([write(4, 2), write(8, 2)], POINT);
    await expect(appending).rejects.toThrow('no space');
    end();
    await expect(settling).rejects.toThrow('could not be stored');
    expect([store.undo, store.fateOf(POINT)]).toMatchObject([{ state: 'open', point: POINT }, 'kept']);
    await store.close();
    expect((await recover()).point).toEqual(POINT);
    expect(image.durable.equals(point)).toBe(true);
  });

  it('keeps its log until what is being stored then is stored, and what comes later waits', async () => {
    const { place, note, inner, open } = setUp();
    const store = await open();
    await store.append([write(0, 2)], POINT);
    const end = gate(inner);
    const settling = store.commit(POINT);
    const stored = deferred<void>();
    const append = inner.append.bind(inner);
    inner.append = async (batch) => {
      await stored.promise;
      return append(batch);
    };
    const appending = store.append([write(4, 2)], POINT);
    end();
    // The image is durable: the log would go now.
    await turn();
    const later = store.append([write(8, 2)], POINT);
    expect([place.bytes === undefined, note.logId === null, inner.writes]).toEqual([false, false, 1]);
    stored.resolve();
    await Promise.all([settling, appending, later]);
    expect([store.undo, place.bytes, inner.writes]).toEqual([{ state: 'none' }, undefined, 3]);
  });

  it('takes the log of an earlier point with it', async () => {
    const { place, inner, open } = setUp();
    const store = await open();
    await store.append([write(0, 2)], POINT);
    const later = { ...POINT, sequence: 20 };
    const end = gate(inner);
    const settling = store.commit(later);
    await store.append([write(4, 2)], later);
    expect(store.undo).toMatchObject({ state: 'open', point: POINT });
    end();
    await settling;
    expect([store.undo, place.bytes]).toEqual([{ state: 'none' }, undefined]);
  });

  it('is not mixed up with one that is left meanwhile: that gets a log of its own', async () => {
    const { image, inner, open, recover } = setUp();
    const store = await open();
    await store.append([write(0, 2)], POINT);
    const point = Buffer.from(image.visible);
    const end = gate(inner);
    const settling = store.commit(POINT);
    const left = { ...POINT, sequence: 20 };
    const appending = store.append([write(4, 2)], left);
    end();
    await Promise.all([settling, appending]);
    expect(store.undo).toMatchObject({ state: 'open', point: left });
    await store.close();
    expect((await recover()).point).toEqual(left);
    expect(image.durable.equals(point)).toBe(true);
  });
});

describe('a range of any length', () => {
  it('is looked through in turns: others are not kept waiting', async () => {
    const sizeBytes = 24 * 1024 * KIB;
    const { open } = setUp({}, Buffer.alloc(sizeBytes));
    const store = await open();
    let turns = 0;
    let isDone = false;
    const count = (): void => {
      turns += 1;
      if (!isDone) setImmediate(count);
    };
    setImmediate(count);
    await store.append([{ kind: 'trim', offset: 0, length: sizeBytes, fua: false }], POINT);
    isDone = true;
    expect(turns).toBeGreaterThan(5);
  });

  it('says no more in its state than a sector holds, which a disk writes whole', () => {
    const id = 'b'.repeat(32);
    const block = encodeState(id, 'givenUp', '"\u{1f4a5}'.repeat(500));
    expect(block.subarray(512).every((byte) => byte === 0)).toBe(true);
    const { state, reason } = decodeState(id, block)!;
    expect([state, reason.length > 50]).toEqual(['givenUp', true]);
  });
});
