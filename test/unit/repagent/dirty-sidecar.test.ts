// The dirty map's file: at every single write of it, a process that dies there must leave a file that either names
// everything that the hub may lack, or isn't believed.
import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import { BitRetirement } from '../../../src/repagent/bit-retirement.ts';
import { DirtyMap } from '../../../src/repagent/dirty-map.ts';
import { DirtySidecar, type SidecarOptions } from '../../../src/repagent/dirty-sidecar.ts';
import type { ImageMark } from '../../../src/repagent/sidecar-finding.ts';
import { BITS_OFFSET } from '../../../src/repagent/sidecar-head.ts';
import { MemorySidecar } from '../../support/memory-sidecar.ts';

const CHUNK = 65_536;
const AGENT = randomBytes(16);
const BOOT = randomBytes(16);

function open(file: MemorySidecar, chunks: number, more: Partial<SidecarOptions> = {}): DirtySidecar {
  return new DirtySidecar({
    file,
    agentId: AGENT,
    volumeName: 'disk',
    sizeBytes: chunks * CHUNK,
    granularityBytes: CHUNK,
    bootId: BOOT,
    image: undefined,
    exact: false,
    logger: silentLogger,
    onBroken: () => {},
    ...more,
  });
}

const bitsOf = (sidecar: DirtySidecar): number[] =>
  [...sidecar.bits.runs()].flatMap(({ start, end }) =>
    Array.from({ length: end - start }, (_, i) => start + i),
  );

function image(text: string, changedAtMs = 0): ImageMark {
  return { mark: Buffer.alloc(16, text), changedAtMs };
}

/** A sidecar of which only `chunks` are set, as a sync that ended leaves it. */
function settledFile(
  size: number,
  chunks: readonly number[],
  more: Partial<SidecarOptions> = {},
): { file: MemorySidecar; sidecar: DirtySidecar } {
  const file = new MemorySidecar();
  const sidecar = open(file, size, more);
  const map = new DirtyMap(size * CHUNK, () => 1, sidecar);
  map.streamOn(1);
  map.acked(1);
  sidecar.offer(map.retirable().bits);
  sidecar.settle();
  while (sidecar.retire(1));
  for (const chunk of chunks) sidecar.mark(chunk, chunk + 1);
  return { file, sidecar };
}

describe('a dirty map in a file', () => {
  test('a new one is all dirty and relative to nothing', () => {
    const sidecar = open(new MemorySidecar(), 10);
    expect([sidecar.finding, sidecar.isBelieved, sidecar.pairing]).toEqual(['new', false, 0n]);
    expect(sidecar.bits.count).toBe(10);
  });

  test('one whose process was killed is believed as it is', async () => {
    const { file, sidecar } = settledFile(100_000, [3, 70_000, 99_999]);
    await sidecar.adopt(77n, 5);
    await sidecar.recorded(12);
    const again = open(new MemorySidecar(file.bytes), 100_000);
    expect([again.finding, again.isBelieved]).toEqual(['agent-crash', true]);
    expect(bitsOf(again)).toEqual([3, 70_000, 99_999]);
    expect([again.pairing, again.generation, again.recordedSequence]).toEqual([77n, 5, 12]);
  });

  test('what the hub has recorded outlives a power failure from the moment on in which it is echoed', async () => {
    const { file, sidecar } = settledFile(10, [3]);
    await sidecar.adopt(77n, 5);
    await sidecar.recorded(12);
    const again = open(new MemorySidecar(file.durable), 10, { bootId: randomBytes(16) });
    expect([again.finding, again.generation, again.recordedSequence]).toEqual(['host-crash', 5, 12]);
  });

  test('one that was closed in order is believed on any boot, while the image is the same', async () => {
    const { file, sidecar } = settledFile(50, [3, 9]);
    await sidecar.close(image('a'));
    expect(file.isClosed).toBe(true);
    const elsewhere = { bootId: randomBytes(16) };
    const again = open(new MemorySidecar(file.durable), 50, { ...elsewhere, image: image('a') });
    expect([again.finding, again.isBelieved]).toEqual(['clean', true]);
    expect(bitsOf(again)).toEqual([3, 9]);
    const changed = open(new MemorySidecar(file.durable), 50, { ...elsewhere, image: image('b') });
    expect([changed.finding, changed.isBelieved]).toEqual(['image-changed', false]);
    expect(changed.bits.count).toBe(50);
  });

  test('after a power failure it is not believed, unless every bit was durable before its data', async () => {
    const { file, sidecar } = settledFile(50, [3]);
    await sidecar.adopt(77n, 5);
    const after = open(new MemorySidecar(file.bytes), 50, { bootId: randomBytes(16) });
    expect([after.finding, after.isBelieved, after.pairing, after.generation]).toEqual([
      'host-crash',
      false,
      77n,
      5,
    ]);
    expect(after.bits.count).toBe(50);

    const exactFile = new MemorySidecar(file.bytes);
    const exact = open(exactFile, 50, { exact: true });
    await exact.durable();
    exact.mark(7, 8);
    expect(exactFile.durable.equals(exactFile.bytes)).toBe(false);
    await exact.durable();
    expect(exact.durable()).toBeUndefined();
    const afterExact = open(new MemorySidecar(exactFile.durable), 50, { bootId: randomBytes(16) });
    expect([afterExact.finding, afterExact.isBelieved]).toEqual(['exact', true]);
    expect(bitsOf(afterExact)).toEqual([3, 7]);
  });

  test('an exact map vouches for nothing that a power failure may take back', async () => {
    const file = new MemorySidecar(settledFile(64, [3]).file.bytes);
    const before = open(file, 64, { exact: true });
    await before.adopt(77n, 5);
    await before.close(undefined);
    const taken = new MemorySidecar(file.bytes);
    const counts: number[] = [];
    taken.onWrite = () => {
      // The kernel wrote the heads back, and the bits not yet.
      const cut = Buffer.from(taken.bytes);
      taken.durable.copy(cut, BITS_OFFSET, BITS_OFFSET);
      const next = open(new MemorySidecar(cut), 64, { bootId: randomBytes(16), exact: true });
      if (next.isBelieved && next.pairing === 78n) counts.push(next.bits.count);
    };
    const sidecar = open(taken, 64, { exact: true });
    sidecar.markAll();
    await sidecar.adopt(78n, 6);
    expect([sidecar.pairing, new Set(counts)]).toEqual([78n, new Set([64])]);
  });

  test('an exact map makes durable what a process that was killed had left to the kernel', async () => {
    const file = new MemorySidecar(settledFile(64, [3]).file.bytes);
    const before = open(file, 64, { exact: true });
    await before.adopt(77n, 5);
    // Killed before the sync has ended that the data of this one waits for.
    before.mark(9, 10);
    const taken = new MemorySidecar(file.bytes);
    taken.durable = Buffer.from(file.durable);
    const sidecar = open(taken, 64, { exact: true });
    sidecar.mark(9, 10);
    await sidecar.durable();
    const after = open(new MemorySidecar(taken.durable), 64, { exact: true, bootId: randomBytes(16) });
    expect([after.finding, bitsOf(after)]).toEqual(['exact', [3, 9]]);
  });

  test('an exact map that can not be written is gone before the data of the bit it lacks is written', async () => {
    for (const fault of ['write', 'sync'] as const) {
      const file = new MemorySidecar(settledFile(64, [3]).file.bytes);
      const sidecar = open(file, 64, { exact: true });
      await sidecar.adopt(77n, 5);
      if (fault === 'write') file.writeFaults = 1;
      else file.syncFaults = 1;
      sidecar.mark(9, 10);
      await sidecar.durable();
      expect([sidecar.isBroken, file.durable.length]).toEqual([true, 0]);
    }
  });

  test('an image that was changed past the agent is noticed after a power failure too', async () => {
    const file = new MemorySidecar(settledFile(64, [3]).file.bytes);
    await open(file, 64, { exact: true }).adopt(77n, 5);
    const again = { exact: true, bootId: randomBytes(16) };
    expect(open(new MemorySidecar(file.bytes), 64, again).finding).toBe('exact');
    const changed = open(new MemorySidecar(file.bytes), 64, { ...again, image: image('a', 60_000) });
    expect([changed.finding, changed.isBelieved]).toEqual(['image-changed', false]);
  });

  test('a file that is void does not look younger before that is durable', async () => {
    const file = new MemorySidecar(settledFile(64, [3]).file.bytes);
    await open(file, 64, { exact: true }).adopt(77n, 5);
    const again = { exact: true, bootId: randomBytes(16), image: image('a', 60_000) };
    const taken = new MemorySidecar(file.bytes);
    taken.touchedAtMs = file.touchedAtMs;
    const seen: string[] = [];
    taken.onWrite = () => {
      // The kernel writes to a file, and its time goes on; here it's the time alone that a power failure leaves.
      taken.touchedAtMs = 60_000;
    };
    const { touch } = taken;
    taken.touch = (atMs) => {
      touch.call(taken, atMs);
      const cut = new MemorySidecar(taken.durable);
      cut.touchedAtMs = taken.touchedAtMs;
      seen.push(open(cut, 64, again).finding);
    };
    expect(open(taken, 64, again).finding).toBe('image-changed');
    const left = new MemorySidecar(taken.durable);
    left.touchedAtMs = 60_000;
    expect([seen, open(left, 64, again).isBelieved]).toEqual([['image-changed'], false]);
  });

  test('an image that is much younger than the last sign of life was changed by someone else', () => {
    const { file } = settledFile(50, [3]);
    const left = new MemorySidecar(file.bytes);
    left.touchedAtMs = 1000;
    expect(open(left, 50, { image: image('a', 20_000) }).finding).toBe('agent-crash');
    const later = new MemorySidecar(file.bytes);
    later.touchedAtMs = 1000;
    expect(open(later, 50, { image: image('a', 60_000) }).finding).toBe('image-changed');
  });

  test.each<[string, (bytes: Buffer) => Buffer, string]>([
    ['both heads torn', (bytes) => bytes.fill(0, 0, 8192), 'corrupt'],
    ['a truncated file', (bytes) => bytes.subarray(0, 8192 + 100), 'corrupt'],
    ['an emptied file', () => Buffer.alloc(0), 'new'],
    ['rubbish', (bytes) => randomBytes(bytes.length), 'corrupt'],
  ])('%s is named and not believed', (_what, damage, finding) => {
    const { file } = settledFile(50, [3]);
    const left = open(new MemorySidecar(damage(Buffer.from(file.bytes))), 50);
    expect([left.finding, left.isBelieved, left.pairing]).toEqual([finding, false, 0n]);
    expect(left.bits.count).toBe(50);
  });

  test('a bit that changed after an orderly close is found', async () => {
    const { file, sidecar } = settledFile(50, [3]);
    await sidecar.close(undefined);
    const bytes = Buffer.from(file.bytes);
    bytes[8192] = 0;
    expect(open(new MemorySidecar(bytes), 50).finding).toBe('corrupt');
    expect(open(new MemorySidecar(file.bytes), 50).finding).toBe('clean');
  });

  test('the map of another agent, another volume or a larger volume is not believed', () => {
    const { file } = settledFile(50, [3]);
    for (const more of [{ agentId: randomBytes(16) }, { volumeName: 'other' }]) {
      const left = open(new MemorySidecar(file.bytes), 50, more);
      expect([left.finding, left.isBelieved, left.pairing]).toEqual(['foreign', false, 0n]);
    }
    expect(open(new MemorySidecar(file.bytes), 49).finding).toBe('foreign');
  });

  test('one torn head leaves the other', async () => {
    const { file, sidecar } = settledFile(50, [3]);
    await sidecar.adopt(77n, 5);
    for (const at of [0, 4096]) {
      const bytes = Buffer.from(file.bytes);
      bytes.fill(0xff, at + 8, at + 40);
      expect(open(new MemorySidecar(bytes), 50).finding).toBe('agent-crash');
    }
  });

  test('a volume that grew has its new part dirty, live and at the next start', () => {
    const { file, sidecar } = settledFile(50, [3]);
    expect(bitsOf(open(new MemorySidecar(file.bytes), 53))).toEqual([3, 50, 51, 52]);
    sidecar.grow(52 * CHUNK);
    expect(bitsOf(open(new MemorySidecar(file.bytes), 52))).toEqual([3, 50, 51]);
  });

  test('another granularity keeps what is dirty', () => {
    const { file } = settledFile(64, [3, 40]);
    const coarse = open(new MemorySidecar(file.bytes), 64, { granularityBytes: 4 * CHUNK });
    expect([coarse.finding, bitsOf(coarse)]).toEqual(['agent-crash', [0, 10]]);
  });

  test('a process that dies while it takes over a file leaves one that is no better believed', async () => {
    const { file, sidecar } = settledFile(64, [3, 40]);
    await sidecar.adopt(77n, 5);
    const killed = Buffer.from(file.bytes);
    file.bytes.copy(killed);
    const cases: Array<[Partial<SidecarOptions>, number[]]> = [
      [{ bootId: randomBytes(16) }, []],
      [{ image: image('a', 60_000) }, []],
      [{ granularityBytes: 4 * CHUNK }, [3, 40]],
    ];
    for (const [more, dirty] of cases) {
      const states: Buffer[] = [];
      const taken = new MemorySidecar(killed);
      taken.onWrite = () => states.push(Buffer.from(taken.bytes));
      open(taken, 64, more);
      expect(states.length).toBeGreaterThan(2);
      for (const state of states) {
        const next = open(new MemorySidecar(state), 64, { bootId: more.bootId ?? BOOT });
        if (!next.isBelieved || next.bits.count === 64) continue;
        expect(bitsOf(next)).toEqual(expect.arrayContaining(dirty));
        expect(dirty.length, 'a file that was not believed became so').toBeGreaterThan(0);
      }
    }
  });

  test('a power failure soon after the start does not bring back the map that was closed, or exact, before', async () => {
    for (const exact of [false, true]) {
      const { file, sidecar } = settledFile(50, [], { exact });
      await sidecar.adopt(7n, 1);
      if (!exact) await sidecar.close(image('as it was'));
      const left = new MemorySidecar(file.durable);
      const next = open(left, 50, { image: image('as it was') });
      expect(next.isBelieved).toBe(true);
      next.mark(4, 5);
      // Data that is written now may be on the disk after the failure, and the time of its writing not.
      await next.durable();
      const after = new MemorySidecar(left.durable);
      expect(open(after, 50, { bootId: randomBytes(16), image: image('as it was') }).finding).toBe(
        'host-crash',
      );
    }
  });

  test('a file that cannot be written is emptied, and told of once', () => {
    const { file } = settledFile(50, []);
    const broken: unknown[] = [];
    const left = new MemorySidecar(file.bytes);
    const sidecar = open(left, 50, { onBroken: (error) => broken.push(error) });
    left.writeFaults = 1;
    sidecar.mark(4, 5);
    sidecar.mark(5, 6);
    expect([broken.length, sidecar.isBroken, left.bytes.length]).toEqual([1, true, 0]);
  });

  test('a file that cannot be synced is gone for sure before anything is said to be kept', async () => {
    const { file, sidecar } = settledFile(50, []);
    await sidecar.adopt(7n, 1);
    file.syncFaults = 1;
    await sidecar.adopt(7n, 2);
    expect([sidecar.isBroken, file.durable.length]).toEqual([true, 0]);
  });

  test('an exact map that can be neither written nor synced is void before the data that waits for it', async () => {
    const { file, sidecar } = settledFile(50, [], { exact: true });
    await sidecar.adopt(7n, 1);
    file.writeFaults = 1;
    // For what was written before: the kernel tells of it once.
    file.syncFaults = 2;
    sidecar.mark(4, 5);
    await sidecar.durable();
    expect([sidecar.isBroken, file.durable.length]).toEqual([true, 0]);
  });

  test('a file that stays as it is is told of, and emptied as soon as it can be', async () => {
    const { file } = settledFile(50, []);
    const broken: unknown[] = [];
    const left = new MemorySidecar(file.bytes);
    const sidecar = open(left, 50, { exact: true, onBroken: (error) => broken.push(error) });
    await sidecar.durable();
    left.emptyFails = true;
    left.writeFaults = 1;
    sidecar.mark(4, 5);
    // It doesn't stall whoever waits for it.
    await sidecar.durable();
    sidecar.touch();
    await sidecar.recorded(5);
    expect(broken.map(String)).toEqual([
      'Error: no space',
      'Error: it can be neither written nor emptied (read-only): remove it before the agent is started again',
    ]);
    expect(left.durable.length).toBeGreaterThan(0);
    left.emptyFails = false;
    sidecar.touch();
    await vi.waitFor(() => expect(left.durable.length).toBe(0));
    expect(broken.length).toBe(2);
  });

  test('a process whose file cannot be written still knows how far the hub has come', async () => {
    const { file, sidecar } = settledFile(50, []);
    await sidecar.adopt(7n, 1);
    await sidecar.recorded(20);
    file.writeFaults = 1;
    sidecar.mark(4, 5);
    await sidecar.recorded(30);
    expect([sidecar.isBroken, sidecar.generation, sidecar.recordedSequence]).toEqual([true, 1, 30]);
    await sidecar.adopt(9n, 2);
    expect([sidecar.pairing, sidecar.generation, sidecar.recordedSequence]).toEqual([9n, 2, 0]);
    expect(sidecar.claim.isBelieved).toBe(true);
    expect(file.durable.length).toBe(0);
  });
});

type Step =
  | { readonly op: 'write'; readonly chunk: number; readonly count: number; readonly late: boolean }
  | { readonly op: 'finish' | 'ack' | 'record' | 'tick' | 'cut' | 'resume' | 'recall' | 'reset' };

const CHUNKS = 40;
const stepArb: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      op: fc.constant('write' as const),
      chunk: fc.integer({ min: 0, max: CHUNKS - 3 }),
      count: fc.integer({ min: 1, max: 3 }),
      late: fc.boolean(),
    }),
  },
  {
    weight: 10,
    arbitrary: fc
      .constantFrom(
        'finish',
        'ack',
        'ack',
        'record',
        'record',
        'tick',
        'tick',
        'cut',
        'resume',
        'recall',
        'reset',
      )
      .map((op): Step => ({ op: op as 'ack' })),
  },
);

/** A map with its file beside a hub that is nothing but numbers. */
class Model {
  readonly file = new MemorySidecar();
  readonly sidecar = open(this.file, CHUNKS);
  readonly map = new DirtyMap(CHUNKS * CHUNK, () => 1, this.sidecar);
  readonly retirement: BitRetirement;
  /** Of each chunk: the entry that brings its newest change; infinite while there is none. */
  readonly newest = new Array<number>(CHUNKS).fill(Number.POSITIVE_INFINITY);
  readonly pending: Array<() => void> = [];
  looks = 0;
  #sequence = 0;
  #acked = 0;
  #recorded = 0;

  /** @param cheapWritesPerSecond 0: needless bits stay in the file */
  constructor(cheapWritesPerSecond?: number) {
    this.file.onWrite = () => this.look();
    this.retirement = new BitRetirement({
      ...{ map: this.map, sidecar: this.sidecar, flush: undefined, tickMs: 1e9, cheapWritesPerSecond },
    });
  }

  /** A process that dies now leaves a file that knows what the hub's record doesn't cover. */
  look(): void {
    this.looks += 1;
    const left = open(new MemorySidecar(this.file.bytes), CHUNKS);
    expect(left.isBelieved).toBe(true);
    for (let chunk = 0; chunk < CHUNKS; chunk += 1) {
      if (this.newest[chunk]! > this.#recorded && !left.bits.test(chunk))
        expect.fail(`chunk ${chunk} is lost`);
    }
  }

  run(step: Step): void {
    switch (step.op) {
      case 'write': {
        const { chunk, count, late } = step;
        const token = this.map.begin(chunk * CHUNK, count * CHUNK);
        // The disk changes now: whoever dies here must know of it.
        this.newest.fill(Number.POSITIVE_INFINITY, chunk, chunk + count);
        this.look();
        const finish = (): void => {
          if (this.map.streaming) this.#sequence += 1;
          const sequence = this.map.streaming ? this.#sequence : 0;
          // A change that overlaps one that is under way waits for it in the real thing.
          if (sequence > 0) this.newest.fill(sequence, chunk, chunk + count);
          this.map.complete(token, chunk * CHUNK, count * CHUNK, sequence);
        };
        const overlaps = this.pending.length > 0;
        if (late && !overlaps) this.pending.push(finish);
        else if (overlaps) {
          this.#finish();
          finish();
        } else finish();
        return;
      }
      case 'finish':
        this.#finish();
        return;
      case 'ack':
        if (!this.map.streaming) return;
        this.#acked = this.#sequence;
        this.map.acked(this.#acked);
        return;
      case 'record':
        if (!this.map.streaming) return;
        this.#recorded = this.#acked;
        this.retirement.recorded(this.#recorded);
        return;
      case 'tick':
        this.retirement.tick();
        return;
      case 'cut':
        this.map.streamOff();
        return;
      case 'resume':
        this.map.resume(this.#acked);
        this.#streamOn((chunk) => this.newest[chunk]! > this.#acked);
        return;
      case 'recall':
        // The hub has lost what it had not recorded.
        this.retirement.restart();
        this.map.recall();
        this.#streamOn((chunk) => this.newest[chunk]! > this.#recorded);
        return;
      case 'reset':
        this.retirement.restart();
        this.newest.fill(Number.POSITIVE_INFINITY);
        this.map.reset();
        this.#streamOn(() => true);
        return;
    }
  }

  #finish(): void {
    for (const each of this.pending.splice(0)) each();
  }

  /** @param isMissing whether the hub lacks a chunk: it must be told of it */
  #streamOn(isMissing: (chunk: number) => boolean): void {
    this.#sequence += 1;
    const named = this.map.streamOn(this.#sequence);
    for (let chunk = 0; chunk < CHUNKS; chunk += 1) {
      const isUnderWay = this.newest[chunk] === Number.POSITIVE_INFINITY && this.pending.length > 0;
      if (isMissing(chunk) && !isUnderWay && !named.test(chunk)) expect.fail(`chunk ${chunk} is not named`);
    }
    for (const run of named.runs()) this.newest.fill(this.#sequence, run.start, run.end);
    // What is under way completes later, and is not in the hub by this entry.
    this.#finish();
  }
}

test('at every write, whatever happens, the file covers what the hub has not recorded', () => {
  let looks = 0;
  fc.assert(
    fc.property(fc.array(stepArb, { minLength: 40, maxLength: 120 }), fc.boolean(), (steps, holds) => {
      const model = new Model(holds ? 0 : undefined);
      model.run({ op: 'reset' });
      for (const step of steps) {
        model.run(step);
        model.look();
      }
      looks += model.looks;
      void model.retirement.stop();
    }),
    { numRuns: 150 },
  );
  expect(looks).toBeGreaterThan(5000);
});

test('what is settled leaves the file', () => {
  const model = new Model();
  model.run({ op: 'reset' });
  for (const op of ['ack', 'tick', 'record'] as const) model.run({ op });
  expect(model.sidecar.bits.count).toBe(0);
  model.run({ op: 'write', chunk: 3, count: 2, late: false });
  expect(bitsOf(model.sidecar)).toEqual([3, 4]);
  for (const op of ['ack', 'tick'] as const) model.run({ op });
  model.run({ op: 'write', chunk: 4, count: 1, late: false });
  model.run({ op: 'record' });
  expect(bitsOf(model.sidecar), 'changed again after it was offered').toEqual([4]);
  void model.retirement.stop();
});

test('while many changes set bits, needless ones stay in the file, and no hub is told of them', async () => {
  const model = new Model(0);
  model.run({ op: 'reset' });
  for (const op of ['ack', 'tick', 'record'] as const) model.run({ op });
  expect(model.sidecar.bits.count).toBe(0);
  for (const chunk of [3, 7]) model.run({ op: 'write', chunk, count: 1, late: false });
  for (const op of ['ack', 'tick', 'record'] as const) model.run({ op });
  expect([bitsOf(model.sidecar), model.sidecar.needlessCount]).toEqual([[3, 7], 2]);
  // Set already: a change of it costs the file nothing.
  const looks = model.looks;
  model.run({ op: 'write', chunk: 7, count: 1, late: false });
  expect(model.looks - looks, 'only the look of the write itself').toBe(1);
  model.map.recall();
  expect([...model.map.streamOn(100).runs()], 'what the hub has is not named').toEqual([
    { start: 7, end: 8 },
  ]);
  // Nineteen more changes for each bit that was set, and taking it away is worth it again.
  for (let i = 0; i < 40; i += 1) model.run({ op: 'write', chunk: 7, count: 1, late: false });
  model.run({ op: 'tick' });
  expect(bitsOf(model.sidecar)).toEqual([7]);
  await model.retirement.stop();
});

test('a process that ends in order leaves no needless bit behind, one that is killed does', async () => {
  const model = new Model(0);
  model.run({ op: 'reset' });
  for (const op of ['ack', 'tick', 'record'] as const) model.run({ op });
  for (const chunk of [3, 7]) model.run({ op: 'write', chunk, count: 1, late: false });
  for (const op of ['ack', 'tick', 'record'] as const) model.run({ op });
  model.run({ op: 'write', chunk: 7, count: 1, late: false });
  expect(bitsOf(open(new MemorySidecar(model.file.bytes), CHUNKS))).toEqual([3, 7]);
  model.file.onWrite = () => {};
  await model.retirement.stop();
  await model.sidecar.close(undefined);
  expect(bitsOf(open(new MemorySidecar(model.file.bytes), CHUNKS))).toEqual([7]);
});

test('a flush of the disk speaks for the bits that it was asked for, not for later ones', async () => {
  const sidecar = open(new MemorySidecar(), 10);
  const map = new DirtyMap(10 * CHUNK, () => 1, sidecar);
  map.streamOn(1);
  map.acked(1);
  sidecar.offer(map.retirable().bits);
  sidecar.settle();
  sidecar.retire(1);
  const flushes: Array<() => void> = [];
  const flush = (): Promise<void> => new Promise((resolve) => flushes.push(resolve));
  const retirement = new BitRetirement({ map, sidecar, flush, tickMs: 1e9 });
  const change = (chunk: number, sequence: number): void => {
    map.complete(map.begin(chunk * CHUNK, CHUNK), chunk * CHUNK, CHUNK, sequence);
    map.acked(sequence);
  };
  change(3, 2);
  retirement.tick();
  retirement.recorded(2);
  expect(flushes).toHaveLength(1);
  // The replica is attached anew, what it had recorded counts no more, and other bits are offered.
  retirement.restart();
  change(5, 3);
  retirement.tick();
  flushes[0]!();
  await retirement.stop();
  expect([bitsOf(sidecar), sidecar.needlessCount]).toEqual([[3, 5], 0]);
  retirement.recorded(3);
  flushes[1]!();
  await retirement.stop();
  expect(bitsOf(sidecar)).toEqual([]);
});
