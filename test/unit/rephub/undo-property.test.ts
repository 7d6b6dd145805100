// A store that can be put back, at random: a volume that writes, a replica that follows it, leaves it, catches up, and
// settles, on a disk that loses what was not synced. The process is killed, or the power fails, before any step of any
// of it, `recover` included. Whatever point is claimed then, the image is the volume at that point, bit for bit.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import { type Mutation, mutationRange } from '../../../src/blockdev/mutation.ts';
import { seededRandom } from '../../../src/filter/random.ts';
import { memoryRecord } from '../../../src/rephub/record-file.ts';
import { type Recovery, recoverImage } from '../../../src/rephub/recover.ts';
import type { RecoveryPoint } from '../../../src/rephub/recovery-point.ts';
import { UndoStore } from '../../../src/rephub/undo-store.ts';
import { pattern } from '../../support/disk-model.ts';
import {
  CachedBytes,
  Fate,
  Killed,
  MemoryNote,
  MemoryUndoPlace,
  RigStore,
  rigImage,
} from '../../support/undo-rig.ts';

const SIZE = 9 * 4096 + 512;
const SECTORS = SIZE / 512;

const step = fc.record({
  op: fc.oneof(
    { weight: 6, arbitrary: fc.constant('write' as const) },
    { weight: 2, arbitrary: fc.constantFrom('zero' as const, 'commit' as const, 'miss' as const) },
    { weight: 3, arbitrary: fc.constant('read' as const) },
    { weight: 2, arbitrary: fc.constantFrom('settle' as const, 'settleUnderWrites' as const) },
    { weight: 1, arbitrary: fc.constantFrom('reopen' as const, 'failSync' as const) },
  ),
  at: fc.nat(1000),
  length: fc.nat(1000),
  count: fc.integer({ min: 1, max: 4 }),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

class World {
  readonly image = new CachedBytes(pattern(SIZE, 1));
  readonly place = new MemoryUndoPlace();
  readonly note = new MemoryNote();
  readonly fate = new Fate();
  readonly record = memoryRecord();
  /** The volume, and what it was at each sequence. */
  readonly volume = Buffer.from(this.image.visible);
  readonly history = new Map<number, Buffer>([[0, Buffer.from(this.volume)]]);
  sequence = 0;
  /** Sectors that changed without coming by the stream. */
  readonly missing = new Set<number>();
  point: RecoveryPoint | undefined;
  /** Something was written to the image since it was a state of the volume last. */
  isTouched = false;
  failures = 0;
  store!: UndoStore;
  inner!: RigStore;
  #seed = 1;

  async open(): Promise<void> {
    this.place.fate = this.fate;
    this.note.fate = this.fate;
    this.inner = new RigStore(this.image, this.fate);
    this.store = await UndoStore.open(this.inner, {
      place: this.place,
      note: this.note,
      image: 'path:image',
      volumeName: 'v',
      isOutdated: () => false,
      maxBytes: 10 * SIZE + 64 * 4096,
      whenFull: 'hold',
      logger: silentLogger,
    });
  }

  async step({ op, at, length, count }: Step): Promise<void> {
    const changes: Mutation[] = [];
    switch (op) {
      case 'write':
      case 'zero':
        for (let i = 0; i < count; i += 1) changes.push(this.#change(op, at + i * 7, length + i * 3));
        await this.#append(changes);
        break;
      case 'miss':
        this.#leave();
        this.#change('write', at, length);
        for (let i = 0; i < this.#range(at, length).sectors; i += 1) {
          this.missing.add(this.#range(at, length).first + i);
        }
        break;
      case 'read':
        await this.#readMissing(count * 3);
        break;
      case 'commit':
        await this.store.commit();
        break;
      case 'settle':
      case 'settleUnderWrites': {
        this.place.syncFaults = 0;
        await this.#readMissing(SECTORS);
        const settling = this.store.commit(this.point ?? null);
        settling.catch(() => undefined);
        if (op === 'settleUnderWrites') await this.#append([this.#change('write', at, length)]);
        await settling;
        this.point = undefined;
        this.isTouched = false;
        break;
      }
      case 'failSync':
        this.place.syncFaults = 1;
        break;
      case 'reopen':
        await this.#reopen();
        break;
    }
  }

  /** Kills what is left, and puts the image back with as many attempts as it takes. */
  async recover(
    kills: readonly number[],
    isPower: boolean,
    random: () => number,
  ): Promise<Recovery | undefined> {
    for (const killBefore of [...kills, Number.POSITIVE_INFINITY]) {
      if (isPower) {
        this.image.losePower(random);
        this.place.losePower(random);
      }
      const fate = new Fate();
      fate.killBefore = killBefore;
      this.place.fate = fate;
      this.place.syncFaults = 0;
      if (!this.place.bytes) return undefined;
      try {
        return await recoverImage({
          path: 'image',
          record: this.record,
          undo: this.place,
          openImage: async () => rigImage(this.image, fate),
          look: async () => undefined,
          checkOnly: false,
          logger: silentLogger,
        });
      } catch (error) {
        if (!(error instanceof Killed)) throw error;
      }
    }
    return undefined;
  }

  /** The replica stops being a state of the volume with what comes next. */
  #leave(): void {
    if (this.point) return;
    this.point = { generation: 1, sequence: this.sequence, timeMs: 1, isExact: true };
  }

  async #append(changes: Mutation[]): Promise<void> {
    this.isTouched = true;
    try {
      await this.store.append(changes, this.point);
    } catch (error) {
      if (error instanceof Killed || this.fate.isDead) throw error;
      // The log could not be made durable: nothing of this was stored.
      this.failures += 1;
      for (const change of changes) {
        const { offset, length } = mutationRange(change);
        for (let at = offset; at < offset + length; at += 512) this.missing.add(at / 512);
      }
      await this.#reopen();
    }
  }

  async #reopen(): Promise<void> {
    await this.store.close();
    try {
      await this.open();
    } catch (error) {
      if (error instanceof Killed || this.fate.isDead) throw error;
      await this.open();
    }
  }

  /** Brings what is missing as it is now, which may be of any time. */
  async #readMissing(most: number): Promise<void> {
    const sectors = [...this.missing].slice(0, most);
    for (const sector of sectors) this.missing.delete(sector);
    const changes: Mutation[] = sectors.map((sector) => ({
      kind: 'write',
      offset: sector * 512,
      data: Buffer.from(this.volume.subarray(sector * 512, sector * 512 + 512)),
      fua: false,
    }));
    if (changes.length > 0) await this.#append(changes);
  }

  #range(at: number, length: number): { first: number; sectors: number } {
    const first = at % SECTORS;
    return { first, sectors: 1 + (length % Math.min(20, SECTORS - first)) };
  }

  /** The guest changes its disk. */
  #change(kind: 'write' | 'zero', at: number, length: number): Mutation {
    const { first, sectors } = this.#range(at, length);
    this.#seed += 1;
    // Now and then the same bytes again: they need no way back.
    const data = kind === 'zero' ? Buffer.alloc(sectors * 512) : pattern(sectors * 512, this.#seed % 5);
    data.copy(this.volume, first * 512);
    this.sequence += 1;
    this.history.set(this.sequence, Buffer.from(this.volume));
    if (kind === 'write') return { kind: 'write', offset: first * 512, data, fua: false };
    return { kind: 'trim', offset: first * 512, length: data.length, fua: false };
  }
}

describe('a store that can be put back', () => {
  it('is the volume at the claimed sequence after `recover`, whenever and wherever it ended', async () => {
    let recovered = 0;
    let steps = 0;
    let failures = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 1, maxLength: 30, size: 'max' }),
        fc.integer({ min: 1, max: 150 }),
        fc.array(fc.integer({ min: 1, max: 30 }), { maxLength: 3 }),
        fc.boolean(),
        fc.nat(),
        async (script, killBefore, kills, isPower, seed) => {
          const world = new World();
          await world.open();
          world.fate.killBefore = killBefore;
          try {
            for (const one of script) await world.step(one);
          } catch (error) {
            if (!(error instanceof Killed) && !world.fate.isDead) throw error;
          }
          steps += world.fate.steps;
          failures += world.failures;
          const { point, missing, isTouched } = world;
          const recovery = await world.recover(kills, isPower, seededRandom(seed % 2 ** 32));
          if (recovery) {
            recovered += 1;
            const expected = world.history.get(recovery.point.sequence!)!;
            expect(firstDifference(world.image.visible, expected)).toBe(-1);
            expect(world.place.bytes).toBeUndefined();
          } else if (missing.size > 0 && point && isTouched && !isPower) {
            // Without a log nothing may have been overwritten since.
            expect(firstDifference(world.image.visible, world.history.get(point.sequence!)!)).toBe(-1);
          }
        },
      ),
      { numRuns: 1500, endOnFailure: true },
    );
    expect(failures).toBeGreaterThan(20);
    expect(recovered).toBeGreaterThan(150);
    expect(steps).toBeGreaterThan(10_000);
  });
});

function firstDifference(a: Buffer, b: Buffer): number {
  if (a.equals(b)) return -1;
  let at = 0;
  while (a[at] === b[at]) at += 1;
  return at;
}
