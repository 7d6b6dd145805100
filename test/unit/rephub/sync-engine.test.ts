// The sync engine against a model of an agent, a wire and a disk: whatever the order of writes, reads, answers, lists of
// dirty ranges and reconnects, what calls itself complete equals the disk at the stream's position.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SyncEngine } from '../../../src/rephub/sync-engine.ts';
import type { SyncRead } from '../../../src/rephub/sync-read.ts';

const SECTOR = 512;
const CHUNK = 2 * SECTOR;
const TUNING = { chunkBytes: CHUNK, maxReadBytes: 4 * CHUNK, maxReads: 3 };
const WIDE_TUNING = {
  ...TUNING,
  maxReadBytes: CHUNK,
  maxSparseReadBytes: 2 * CHUNK,
  maxWideReadBytes: 16 * CHUNK,
};

/** Every write gives its sectors a version of their own, so that any mixture shows. */
type Disk = number[];

interface Entry {
  readonly sequence: number;
  readonly kind: 'write' | 'failed' | 'dirty';
  readonly ranges: ReadonlyArray<readonly [number, number]>;
  readonly version: number;
}

interface ReadInTransit {
  readonly read: SyncRead;
  data?: Disk;
  readAt?: number;
}

/** An agent and the wire. Its dirty map is exact, sector by sector: it forgives the hub nothing. */
class World {
  readonly sectors: number;
  /** Answers may be of the start of what was asked for alone. */
  readonly isWide: boolean;
  readonly engine: SyncEngine;
  readonly disk: Disk;
  readonly replica: Disk;
  readonly #history: Array<{ at: number; sector: number; version: number }> = [];
  #version = 0;
  #sequence = 0;
  #stream: Entry[] = [];
  #reads: ReadInTransit[] = [];
  #unmirrored: Array<{ sector: number; version: number }> = [];
  #streamOn = true;
  received = 0;
  awaitingDirty = false;
  checks = 0;
  shortAnswers = 0;

  constructor(sectors: number, isWide: boolean) {
    this.sectors = sectors;
    this.isWide = isWide;
    this.disk = Array.from({ length: sectors }, (_, i) => -1 - i);
    this.replica = Array.from({ length: sectors }, () => 0);
    this.engine = new SyncEngine(sectors * SECTOR, isWide ? WIDE_TUNING : TUNING);
    this.engine.restart();
  }

  write(first: number, count: number): void {
    const version = this.#change(first, count);
    if (!this.#streamOn) {
      for (let s = first; s < first + count; s += 1) this.#unmirrored.push({ sector: s, version });
      return;
    }
    this.#enqueue('write', [[first, count]], version);
  }

  failedWrite(first: number, count: number): void {
    // What a failed write leaves behind is anyone's guess: here, its data in every other sector.
    const version = ++this.#version;
    for (let s = first; s < first + count; s += 2) this.disk[s] = version;
    if (!this.#streamOn) {
      for (let s = first; s < first + count; s += 2) this.#unmirrored.push({ sector: s, version });
      return;
    }
    const entry = this.#enqueue('failed', [[first, count]], version);
    for (let s = first; s < first + count; s += 2) this.#note(entry.sequence, s, version);
  }

  overflow(): void {
    this.#streamOn = false;
  }

  endOverflow(): void {
    if (this.#streamOn) return;
    this.#streamOn = true;
    const entry = this.#enqueue(
      'dirty',
      this.#unmirrored.map(({ sector }) => [sector, 1] as const),
      0,
    );
    for (const { sector, version } of this.#unmirrored) this.#note(entry.sequence, sector, version);
    this.#unmirrored = [];
  }

  /** The hub takes the next entry of the stream in. */
  deliver(): void {
    const entry = this.#stream.shift();
    if (!entry) return;
    this.received = entry.sequence;
    for (const [first, count] of entry.ranges) {
      if (entry.kind === 'write') {
        this.engine.mutated(first * SECTOR, count * SECTOR);
        this.replica.fill(entry.version, first, first + count);
      } else {
        this.engine.markUnread(first * SECTOR, count * SECTOR);
      }
    }
    if (entry.kind === 'dirty') this.awaitingDirty = false;
  }

  takeRead(): void {
    if (this.awaitingDirty) return;
    const read = this.engine.takeRead(this.isWide);
    if (read) this.#reads.push({ read });
  }

  /** The agent reads the disk for a request. The answer waits still. */
  readDisk(which: number): void {
    const open = this.#reads.filter((one) => !one.data);
    const one = open[which % Math.max(1, open.length)];
    // While changes are not mirrored there is no position at which what is read would be consistent: it waits.
    if (!one || !this.#streamOn) return;
    const first = one.read.offset / SECTOR;
    one.data = this.disk.slice(first, first + one.read.length / SECTOR);
    one.readAt = this.#sequence;
  }

  answer(which: number, fails: boolean): void {
    const ready = this.#reads.filter((one) => one.data);
    const one = ready[which % Math.max(1, ready.length)];
    if (!one) return;
    this.#reads.splice(this.#reads.indexOf(one), 1);
    if (one.read.dropped) return;
    if (fails) {
      this.engine.failRead(one.read);
      return;
    }
    const { length } = one.read;
    // Whether all of it is zero only says how much is asked for next.
    const isShort = this.isWide && which % 3 > 0 && length > CHUNK;
    const answeredBytes = isShort ? Math.min(length, CHUNK + (which % 7) * SECTOR) : length;
    this.shortAnswers += answeredBytes < length ? 1 : 0;
    this.engine.finishRead(one.read, one.readAt!, this.isWide && which % 5 > 0, answeredBytes);
    for (const run of one.read.freshRuns()) {
      for (let at = run.offset; at < run.offset + run.length; at += SECTOR) {
        this.replica[at / SECTOR] = one.data![(at - one.read.offset) / SECTOR]!;
      }
    }
  }

  /** The connection is lost with everything on it; the agent tells what never arrived. */
  reconnect(): void {
    const lost = this.#stream.flatMap((entry) => entry.ranges);
    this.#stream = [];
    this.#reads = [];
    this.engine.dropReads();
    this.engine.beginRound();
    this.awaitingDirty = true;
    this.#streamOn = true;
    const ranges = [...lost, ...this.#unmirrored.map(({ sector }) => [sector, 1] as const)];
    const entry = this.#enqueue('dirty', ranges, 0);
    for (const { sector, version } of this.#unmirrored) this.#note(entry.sequence, sector, version);
    this.#unmirrored = [];
  }

  /** What the hub would call protected must be the disk at the stream's position. */
  check(): void {
    const { engine } = this;
    if (this.awaitingDirty || !engine.isComplete || this.received < engine.targetSequence) return;
    this.checks += 1;
    expect(this.replica).toEqual(this.#diskAt(this.received));
  }

  /** Some of what the hub and the agent would do by themselves. */
  work(): void {
    for (let i = 0; i < 6; i += 1) {
      this.deliver();
      this.takeRead();
      this.readDisk(i);
      this.answer(i, false);
      this.check();
    }
  }

  settle(): void {
    this.endOverflow();
    for (
      let rounds = 0;
      rounds < 1000 && !(this.engine.isComplete && this.#stream.length === 0);
      rounds += 1
    ) {
      this.engine.retryDeferred();
      this.deliver();
      this.takeRead();
      this.readDisk(0);
      this.answer(0, false);
      this.check();
    }
    expect(this.engine.isComplete).toBe(true);
    expect(this.engine.remainingBytes).toBe(0);
    expect(this.replica).toEqual(this.disk);
  }

  #change(first: number, count: number): number {
    const version = ++this.#version;
    this.disk.fill(version, first, first + count);
    return version;
  }

  #enqueue(kind: Entry['kind'], ranges: Entry['ranges'], version: number): Entry {
    const entry = { sequence: ++this.#sequence, kind, ranges, version };
    this.#stream.push(entry);
    if (kind === 'write') {
      for (const [first, count] of ranges) {
        for (let s = first; s < first + count; s += 1) this.#note(entry.sequence, s, version);
      }
    }
    return entry;
  }

  #note(at: number, sector: number, version: number): void {
    this.#history.push({ at, sector, version });
  }

  #diskAt(sequence: number): Disk {
    const disk = Array.from({ length: this.sectors }, (_, i) => -1 - i);
    // Versions grow with time, also those of changes that were told late.
    for (const { at, sector, version } of this.#history) {
      if (at <= sequence) disk[sector] = Math.max(disk[sector]!, version);
    }
    return disk;
  }
}

const OPS = [
  'write',
  'write',
  'write',
  'failedWrite',
  'overflow',
  'endOverflow',
  'deliver',
  'deliver',
  'deliver',
  'takeRead',
  'takeRead',
  'takeRead',
  'readDisk',
  'readDisk',
  'readDisk',
  'answer',
  'answer',
  'answer',
  'answerFailed',
  'retry',
  'reconnect',
  'work',
  'work',
] as const;

describe('SyncEngine against a model', () => {
  it.each([
    ['is the disk at the stream position whenever it is complete, and gets there', false],
    ['is so too where answers are of the start of what was asked for alone', true],
  ])('%s', (_, isWide) => {
    let checks = 0;
    let shortAnswers = 0;
    const step = fc.record({ op: fc.constantFrom(...OPS), a: fc.nat(1000), b: fc.nat(1000) });
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 23 }),
        fc.array(step, { maxLength: 200, size: 'max' }),
        (sectors, steps) => {
          const world = new World(sectors, isWide);
          for (const { op, a, b } of steps) {
            const first = a % sectors;
            const count = 1 + (b % (sectors - first));
            if (op === 'write') world.write(first, count);
            else if (op === 'failedWrite') world.failedWrite(first, count);
            else if (op === 'readDisk') world.readDisk(a);
            else if (op === 'answer') world.answer(a, false);
            else if (op === 'answerFailed') world.answer(a, true);
            else if (op === 'retry') world.engine.retryDeferred();
            else world[op]();
            world.check();
          }
          world.settle();
          checks += world.checks;
          shortAnswers += world.shortAnswers;
        },
      ),
      { numRuns: isWide ? 250 : 500 },
    );
    expect(shortAnswers > 50).toBe(isWide);
    // The rule was really looked at, not only at the end.
    expect(checks).toBeGreaterThan(isWide ? 2500 : 5000);
  });
});

describe('SyncEngine', () => {
  const make = (chunks: number, tail = 0) => new SyncEngine(chunks * CHUNK + tail, TUNING);

  it('reads everything once, in large reads, within its window', () => {
    const engine = make(10, SECTOR);
    engine.restart();
    const reads = [engine.takeRead()!, engine.takeRead()!, engine.takeRead()!];
    expect(reads.map((read) => [read.offset / CHUNK, read.length / SECTOR])).toEqual([
      [0, 8],
      [4, 8],
      [8, 5],
    ]);
    expect(engine.takeRead()).toBeUndefined();
    expect(engine.remainingBytes).toBe(10 * CHUNK + SECTOR);
    for (const read of reads) engine.finishRead(read, 7);
    expect([engine.isComplete, engine.targetSequence, engine.remainingBytes]).toEqual([true, 7, 0]);
  });

  it('asks for larger ranges while all that comes is zero', () => {
    const engine = new SyncEngine(1000 * CHUNK, { ...TUNING, maxReads: 1, maxSparseReadBytes: 16 * CHUNK });
    engine.restart();
    const lengths = [true, true, true, true, false, true, true].map((isZero) => {
      const read = engine.takeRead()!;
      engine.finishRead(read, 0, isZero);
      return read.length / CHUNK;
    });
    expect(lengths).toEqual([4, 8, 16, 16, 16, 4, 8]);
    // No longer than what is unread, and those that were asked for together count once.
    const pair = new SyncEngine(1000 * CHUNK, { ...TUNING, maxReads: 2, maxSparseReadBytes: 64 * CHUNK });
    pair.restart();
    for (const read of [pair.takeRead()!, pair.takeRead()!]) pair.finishRead(read, 0, true);
    expect(pair.takeRead()!.length).toBe(8 * CHUNK);
  });

  it('asks for an empty disk in a few reads, however large it is, where an answer may be short', () => {
    const reads = [1, 1000].map((gib) => {
      const engine = new SyncEngine(gib * 2 ** 30);
      engine.restart();
      let count = 0;
      for (let read = engine.takeRead(true); read; read = engine.takeRead(true)) {
        engine.finishRead(read, 0, true);
        count += 1;
      }
      expect(engine.isComplete).toBe(true);
      return count;
    });
    expect(reads).toEqual([4, 1003]);
  });

  it('asks again for what was not answered, and for less of it once there is data', () => {
    const tuning = { ...TUNING, maxReads: 1, maxSparseReadBytes: 8 * CHUNK, maxWideReadBytes: 64 * CHUNK };
    const engine = new SyncEngine(1000 * CHUNK, tuning);
    engine.restart();
    engine.finishRead(engine.takeRead(true)!, 0, true);
    const wide = engine.takeRead(true)!;
    expect([wide.offset / CHUNK, wide.length / CHUNK]).toEqual([4, 64]);
    // A write comes meanwhile, and a range that has to be read anew.
    engine.mutated(60 * CHUNK, 2 * CHUNK);
    engine.markUnread(30 * CHUNK, CHUNK);
    engine.finishRead(wide, 0, true, 20 * CHUNK + SECTOR);
    expect([...wide.freshRuns()]).toEqual([{ offset: 4 * CHUNK, length: 20 * CHUNK + SECTOR }]);
    // From the chunk that was answered in part to the end, but for what the stream brought.
    expect(engine.remainingBytes / CHUNK).toBe(1000 - 24 - 2);
    expect(engine.isUnread(60 * CHUNK, 2 * CHUNK)).toBe(false);
    const rest = Array.from({ length: 3 }, () => {
      const read = engine.takeRead(true)!;
      engine.finishRead(read, 0);
      return [read.offset / CHUNK, read.length / CHUNK];
    });
    expect(rest[0]).toEqual([68, 8]);
    expect(rest.slice(1)).toEqual([
      [76, 4],
      [80, 4],
    ]);
    // An agent that answers all at once is asked for no more than it can.
    for (let at = 0; at < 20; at += 1) engine.finishRead(engine.takeRead()!, 0, true);
    expect(engine.takeRead()!.length).toBe(8 * CHUNK);
  });

  it('reads no more at a time of zeroes than of data, unless told otherwise', () => {
    const engine = make(100);
    engine.restart();
    engine.finishRead(engine.takeRead()!, 0, true);
    expect(engine.takeRead()!.length).toBe(4 * CHUNK);
  });

  it('holds no more reads than its window', () => {
    const engine = make(100);
    engine.restart();
    const reads = Array.from({ length: 5 }, () => engine.takeRead());
    expect(reads.filter(Boolean)).toHaveLength(3);
    engine.finishRead(reads[1]!, 0);
    expect(engine.takeRead()?.offset).toBe(12 * CHUNK);
  });

  it('lets an answer set only what the stream did not bring meanwhile', () => {
    const engine = make(2);
    engine.restart();
    const read = engine.takeRead()!;
    engine.mutated(SECTOR, SECTOR);
    engine.finishRead(read, 0);
    expect([...read.freshRuns()]).toEqual([
      { offset: 0, length: SECTOR },
      { offset: 2 * SECTOR, length: 2 * SECTOR },
    ]);
  });

  it('asks again for a chunk that became unread while its read was on its way, and ignores that answer there', () => {
    const engine = make(4);
    engine.restart();
    const first = engine.takeRead()!;
    engine.markUnread(CHUNK + SECTOR, SECTOR);
    const second = engine.takeRead()!;
    expect([second.offset, second.length]).toEqual([CHUNK, CHUNK]);
    // The newer answer overtakes the older one.
    engine.finishRead(second, 5);
    expect([...second.freshRuns()]).toEqual([{ offset: CHUNK, length: CHUNK }]);
    engine.finishRead(first, 3);
    expect([...first.freshRuns()]).toEqual([
      { offset: 0, length: CHUNK },
      { offset: 2 * CHUNK, length: 2 * CHUNK },
    ]);
    expect([engine.isComplete, engine.targetSequence]).toEqual([true, 5]);
  });

  it('has nothing to read where a change covers whole chunks', () => {
    const engine = make(4, SECTOR);
    engine.restart();
    engine.mutated(SECTOR, 4 * CHUNK);
    expect(engine.takeRead()).toMatchObject({ offset: 0, length: CHUNK });
    expect(engine.isUnread(4 * CHUNK, SECTOR)).toBe(false);
    expect(engine.isComplete).toBe(false);
  });

  it('narrows a read that fails down to the chunk that is bad, and waits before it asks for that one again', () => {
    const engine = make(4);
    engine.restart();
    engine.failRead(engine.takeRead()!);
    const singles = [engine.takeRead()!, engine.takeRead()!, engine.takeRead()!];
    expect(singles.map((read) => [read.offset / CHUNK, read.length / CHUNK])).toEqual([
      [0, 1],
      [1, 1],
      [2, 1],
    ]);
    engine.finishRead(singles[0]!, 0);
    engine.failRead(singles[1]!);
    engine.finishRead(singles[2]!, 0);
    engine.finishRead(engine.takeRead()!, 0);
    expect([engine.takeRead(), engine.isStuck, engine.isComplete]).toEqual([undefined, true, false]);
    expect([engine.firstDeferredOffset, engine.remainingBytes]).toEqual([CHUNK, CHUNK]);
    engine.retryDeferred();
    engine.finishRead(engine.takeRead()!, 0);
    expect(engine.isComplete).toBe(true);
  });

  it('does not need a read that failed where the stream brought all of it meanwhile', () => {
    const engine = make(2);
    engine.restart();
    const read = engine.takeRead()!;
    engine.mutated(CHUNK, CHUNK);
    engine.mutated(0, SECTOR);
    engine.failRead(read);
    const again = engine.takeRead()!;
    expect([again.offset, again.length]).toEqual([0, CHUNK]);
    engine.mutated(SECTOR, SECTOR);
    engine.mutated(0, SECTOR);
    engine.failRead(again);
    expect(engine.isComplete).toBe(true);
  });

  it('forgets the answers of dropped reads and reads all of them again', () => {
    const engine = make(4);
    engine.restart();
    const read = engine.takeRead()!;
    engine.dropReads();
    expect([read.dropped, engine.remainingBytes]).toEqual([true, 4 * CHUNK]);
    expect(() => engine.finishRead(read, 0)).toThrow('not on its way');
  });

  it('starts anew without remembering positions of an earlier stream', () => {
    const engine = make(1);
    engine.restart();
    engine.finishRead(engine.takeRead()!, 1_000_000);
    engine.restart();
    expect([engine.targetSequence, engine.totalBytes, engine.remainingBytes]).toEqual([0, CHUNK, CHUNK]);
  });

  it('counts progress over rounds: what becomes unread again is work that was added', () => {
    const engine = make(4);
    engine.restart();
    engine.finishRead(engine.takeRead()!, 0);
    expect(engine.totalBytes - engine.remainingBytes).toBe(4 * CHUNK);
    engine.markUnread(0, 1);
    expect([engine.totalBytes, engine.remainingBytes]).toEqual([5 * CHUNK, CHUNK]);
    engine.beginRound();
    expect(engine.totalBytes).toBe(CHUNK);
  });

  it('works beyond 2^32 sectors', () => {
    const engine = new SyncEngine(8 * 2 ** 40);
    engine.markUnread(2 ** 42 + 5, 1);
    const read = engine.takeRead()!;
    expect([read.offset, read.length]).toEqual([2 ** 42, 65_536]);
    engine.mutated(2 ** 42 + 512, 2 ** 40);
    engine.finishRead(read, 2 ** 40);
    expect([...read.freshRuns()]).toEqual([{ offset: 2 ** 42, length: 512 }]);
  });
});

describe('an engine that grows', () => {
  it('reads what is new, and not what it has', () => {
    const engine = new SyncEngine(3 * CHUNK + SECTOR, TUNING);
    engine.restart();
    for (let read = engine.takeRead(); read; read = engine.takeRead()) engine.finishRead(read, 1);
    expect(engine.isComplete).toBe(true);
    engine.grow(6 * CHUNK);
    expect(engine.sizeBytes).toBe(6 * CHUNK);
    expect(engine.isComplete).toBe(false);
    expect(engine.isUnread(0, 3 * CHUNK)).toBe(false);
    const read = engine.takeRead()!;
    expect([read.offset, read.length]).toEqual([3 * CHUNK, 3 * CHUNK]);
    engine.finishRead(read, 1);
    expect(engine.isComplete).toBe(true);
    expect(engine.targetSequence).toBe(1);
  });
});

describe('comparing first', () => {
  const CHUNK = 65_536;

  it('what is equal is never read, what differs is, and nothing is forgotten meanwhile', () => {
    const engine = new SyncEngine(12 * CHUNK);
    engine.restart();
    engine.compareFirst();
    expect(engine.takeRead()).toBeUndefined();
    const compares = [engine.takeCompare()!, engine.takeCompare()!, engine.takeCompare()!];
    expect(compares.map(({ offset, length }) => [offset / CHUNK, length / CHUNK])).toEqual([
      [0, 4],
      [4, 4],
      [8, 4],
    ]);
    expect([engine.takeCompare(), engine.isComplete, engine.remainingBytes]).toEqual([
      undefined,
      false,
      12 * CHUNK,
    ]);
    // It changed past the stream while its digest was on its way: equal or not, it is read.
    engine.markUnread(9 * CHUNK, CHUNK);
    expect(engine.finishCompare(compares[0]!, true)).toBe(true);
    expect(engine.finishCompare(compares[1]!, false)).toBe(false);
    engine.finishCompare(compares[2]!, true);
    expect(engine.isUnread(0, 4 * CHUNK)).toBe(false);
    const reads = [engine.takeRead()!, engine.takeRead()!];
    expect(reads.map(({ offset }) => offset / CHUNK).sort()).toEqual([4, 9]);
    for (const read of reads) engine.finishRead(read, 0);
    expect(engine.isComplete).toBe(true);
    expect(engine.finishCompare(compares[0]!, false), 'nobody asked').toBe(false);
    expect(engine.isComplete).toBe(true);
  });

  it('a comparison whose connection is gone is asked for again', () => {
    const engine = new SyncEngine(4 * CHUNK);
    engine.restart();
    engine.compareFirst();
    const lost = engine.takeCompare()!;
    engine.dropReads();
    expect(engine.finishCompare(lost, true)).toBe(false);
    expect([engine.isComplete, engine.takeCompare()?.length]).toEqual([false, 4 * CHUNK]);
  });
});
