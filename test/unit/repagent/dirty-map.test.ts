// The dirty map against a naive model that remembers every single change and what covers it.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Bitmap, BitRun } from '../../../src/base/bitmap.ts';
import { DIRTY_GRANULARITY_BYTES as CHUNK } from '../../../src/base/limits.ts';
import { DirtyMap, type Generation } from '../../../src/repagent/dirty-map.ts';

const CHUNKS = 12;
/** The last chunk is a partial one. */
const SIZE = CHUNKS * CHUNK - 3 * 512;

interface Change {
  readonly offset: number;
  readonly length: number;
  /** undefined: in flight. Infinity: nothing brings it. Else the entry of the stream that does. */
  covered: number | undefined;
  readonly token: Generation | undefined;
}

/** What the protocol says, one change at a time. */
class Model {
  readonly map = new DirtyMap(SIZE, () => 1);
  readonly changes: Change[] = [];
  streaming = false;
  sequence = 0;
  acked = 0;
  /** Lists that were given to the hub, and what they said then. */
  readonly lists: Array<{ readonly bits: Bitmap; readonly said: readonly BitRun[] }> = [];

  constructor() {
    this.#everything();
  }

  begin(offset: number, length: number): void {
    this.changes.push({ offset, length, covered: undefined, token: this.map.begin(offset, length) });
  }

  /** @param mirrored it fits the queue */
  complete(pick: number, mirrored: boolean): void {
    const open = this.changes.filter((change) => change.covered === undefined);
    const change = open[pick % Math.max(1, open.length)];
    if (!change) return;
    const enters = this.streaming && mirrored;
    if (enters) this.sequence += 1;
    else if (this.streaming) this.off();
    change.covered = enters ? this.sequence : Number.POSITIVE_INFINITY;
    this.map.complete(change.token, change.offset, change.length, enters ? this.sequence : 0);
  }

  ack(sequence: number): void {
    if (!this.streaming) return;
    this.acked = Math.max(this.acked, sequence);
    this.map.acked(sequence);
  }

  /** The queue overflowed, or the link was lost. */
  off(): void {
    this.streaming = false;
    this.map.streamOff();
  }

  on(): void {
    if (this.streaming) return;
    this.sequence += 1;
    const named = this.map.streamOn(this.sequence);
    this.lists.push({ bits: named, said: [...named.runs()] });
    for (const change of this.changes) {
      if (change.covered !== Number.POSITIVE_INFINITY) continue;
      const first = Math.floor(change.offset / CHUNK);
      const last = Math.floor((change.offset + change.length - 1) / CHUNK);
      for (let chunk = first; chunk <= last; chunk += 1) expect(named.test(chunk)).toBe(true);
      change.covered = this.sequence;
    }
    this.streaming = true;
  }

  /** The same hub is back, and has everything up to `sequence`. */
  resume(sequence: number): void {
    this.streaming = false;
    this.map.resume(sequence);
    for (const change of this.changes) {
      const lost = change.covered !== undefined && change.covered > sequence && change.covered > this.acked;
      if (lost) change.covered = Number.POSITIVE_INFINITY;
    }
    this.on();
  }

  /** Another hub. */
  reset(): void {
    this.streaming = false;
    this.map.reset();
    this.#everything();
    this.on();
  }

  check(): void {
    for (const { offset, length, covered } of this.changes) {
      if (covered !== undefined && covered <= this.acked) continue;
      expect(this.map.isDirty(offset, length)).toBe(true);
      // Every byte of it, not only some.
      for (let at = offset; at < offset + length; at += CHUNK) expect(this.map.isDirty(at, 1)).toBe(true);
      expect(this.map.isDirty(offset + length - 1, 1)).toBe(true);
    }
    expect(this.map.dirtyBytes).toBe(this.countedBytes());
    expect(this.map.oldestTimeUs).toBe(this.map.dirtyBytes > 0 ? 1 : 0);
  }

  countedBytes(): number {
    let bytes = 0;
    for (let at = 0; at < SIZE; at += CHUNK) {
      if (this.map.isDirty(at, 1)) bytes += Math.min(CHUNK, SIZE - at);
    }
    return bytes;
  }

  settle(): void {
    for (let open = this.changes.length; open > 0; open -= 1) this.complete(0, true);
    this.on();
    this.ack(this.sequence);
    for (const { bits, said } of this.lists) expect([...bits.runs()]).toEqual(said);
  }

  #everything(): void {
    this.changes.push({ offset: 0, length: SIZE, covered: Number.POSITIVE_INFINITY, token: undefined });
  }
}

type Step =
  | { readonly op: 'begin'; readonly sector: number; readonly sectors: number }
  | { readonly op: 'complete'; readonly pick: number; readonly mirrored: boolean }
  | { readonly op: 'ack' | 'resume'; readonly back: number }
  | { readonly op: 'off' | 'on' | 'reset' };

const SECTORS = SIZE / 512;
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc
      .tuple(
        fc.integer({ min: 0, max: SECTORS - 1 }),
        fc.oneof(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 400 })),
      )
      .map(
        ([sector, sectors]): Step => ({ op: 'begin', sector, sectors: Math.min(sectors, SECTORS - sector) }),
      ),
  },
  {
    weight: 8,
    arbitrary: fc
      .tuple(fc.nat(), fc.integer({ min: 0, max: 7 }))
      .map(([pick, luck]): Step => ({ op: 'complete', pick, mirrored: luck > 0 })),
  },
  { weight: 5, arbitrary: fc.integer({ min: 0, max: 4 }).map((back): Step => ({ op: 'ack', back })) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 6 }).map((back): Step => ({ op: 'resume', back })) },
  { weight: 5, arbitrary: fc.constantFrom('off' as const, 'on' as const).map((op): Step => ({ op })) },
  { weight: 1, arbitrary: fc.constant<Step>({ op: 'reset' }) },
);

function take(model: Model, each: Step): void {
  switch (each.op) {
    case 'begin':
      model.begin(each.sector * 512, each.sectors * 512);
      return;
    case 'complete':
      model.complete(each.pick, each.mirrored);
      return;
    case 'ack':
      model.ack(Math.max(0, model.sequence - each.back));
      return;
    case 'resume':
      model.resume(Math.max(0, model.sequence - each.back));
      return;
    case 'off':
      model.off();
      return;
    case 'on':
      model.on();
      return;
    case 'reset':
      model.reset();
      return;
  }
}

describe('DirtyMap', () => {
  it('has every change that is not durable at the hub, at every moment, and nothing for ever', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const model = new Model();
        model.check();
        for (const each of steps) {
          take(model, each);
          model.check();
        }
        model.settle();
        expect(model.map.dirtyBytes).toBe(0);
      }),
      { numRuns: 400 },
    );
  });

  it('starts all dirty, the partial chunk at the end included', () => {
    const map = new DirtyMap(SIZE, () => 5);
    expect(map.dirtyBytes).toBe(SIZE);
    expect([...map.streamOn(1).runs()]).toEqual([{ start: 0, end: CHUNKS }]);
    expect(map.dirtyBytes).toBe(SIZE);
    map.acked(1);
    expect(map.dirtyBytes).toBe(0);
    expect(map.oldestTimeUs).toBe(0);
  });

  it('keeps a change dirty while it is in flight, whatever the hub acknowledges', () => {
    const map = ready();
    const token = map.begin(0, 512);
    map.acked(1000);
    map.acked(1001);
    expect(map.isDirty(0, 512)).toBe(true);
    map.complete(token, 0, 512, 2);
    expect(map.isDirty(0, 512)).toBe(false);
  });

  it('keeps a change dirty that began before the stream and is in flight when the list is acknowledged', () => {
    const map = new DirtyMap(SIZE, () => 5);
    const token = map.begin(0, 512);
    map.streamOn(1);
    map.acked(1);
    expect(map.isDirty(0, 512)).toBe(true);
    map.complete(token, 0, 512, 2);
    expect(map.isDirty(0, 512)).toBe(true);
    map.acked(2);
    expect(map.dirtyBytes).toBe(0);
  });

  it('forgets nothing while changes go on without a pause, and does forget in time', () => {
    const map = ready();
    let sequence = 1;
    for (let round = 0; round < 50; round += 1) {
      const at = (round % 10) * CHUNK;
      const token = map.begin(at, 512);
      map.acked(sequence - 1);
      sequence += 1;
      map.complete(token, at, 512, sequence);
      expect(map.isDirty(at, 512)).toBe(true);
      // Two acks behind at most: what was written three rounds ago is durable and forgotten.
      expect(map.dirtyBytes).toBeLessThanOrEqual(6 * CHUNK);
    }
  });

  it('does not let one slow change keep all others dirty', () => {
    const map = ready();
    map.begin(0, 512);
    for (let sequence = 2; sequence < 40; sequence += 1) {
      const at = (1 + (sequence % 9)) * CHUNK;
      const token = map.begin(at, 512);
      map.complete(token, at, 512, sequence);
      map.acked(sequence - 1);
    }
    map.acked(39);
    map.acked(39);
    expect(map.dirtyBytes).toBeLessThanOrEqual(3 * CHUNK);
    expect(map.isDirty(0, 512)).toBe(true);
  });

  it('tells the age of the oldest change that is not durable', () => {
    let now = 100;
    const map = new DirtyMap(SIZE, () => now);
    map.streamOn(1);
    map.acked(1);
    expect(map.oldestTimeUs).toBe(0);
    now = 200;
    map.complete(map.begin(0, 512), 0, 512, 2);
    now = 300;
    map.complete(map.begin(0, 512), 0, 512, 3);
    expect(map.oldestTimeUs).toBe(200);
    map.acked(2);
    now = 400;
    map.complete(map.begin(0, 512), 0, 512, 4);
    map.acked(3);
    expect(map.oldestTimeUs).toBe(400);
    map.streamOff();
    now = 500;
    map.complete(map.begin(CHUNK, 512), CHUNK, 512, 0);
    expect(map.oldestTimeUs).toBe(400);
    map.acked(4);
    expect(map.oldestTimeUs).toBe(500);
  });

  it('merges generations that pile up without losing what any of them waits for', () => {
    const map = ready();
    const lists: Bitmap[] = [];
    for (let round = 0; round < 8; round += 1) {
      map.streamOff();
      map.complete(map.begin(round * CHUNK, 512), round * CHUNK, 512, 0);
      lists.push(map.streamOn(2 + round));
    }
    expect(lists.map((list) => [...list.runs()])).toEqual(lists.map((_, at) => [{ start: at, end: at + 1 }]));
    for (let round = 0; round < 8; round += 1) {
      for (let later = round; later < 8; later += 1) expect(map.isDirty(later * CHUNK, 512)).toBe(true);
      map.acked(2 + round);
    }
    expect(map.dirtyBytes).toBe(0);
  });

  it('gives a list that later changes do not alter', () => {
    const map = ready();
    map.streamOff();
    map.complete(map.begin(0, 512), 0, 512, 0);
    const named = map.streamOn(2);
    for (let round = 0; round < 8; round += 1) {
      map.complete(map.begin(5 * CHUNK, 512), 5 * CHUNK, 512, 3 + 2 * round);
      map.streamOff();
      map.complete(map.begin(6 * CHUNK, 512), 6 * CHUNK, 512, 0);
      map.streamOn(4 + 2 * round);
    }
    map.resume(0);
    map.streamOn(90);
    expect([...named.runs()]).toEqual([{ start: 0, end: 1 }]);
  });

  it('bounds its memory when the stream goes off and on without ever being acknowledged', () => {
    const map = new DirtyMap(2 ** 44, () => 5);
    map.streamOn(1);
    map.acked(1);
    const before = process.memoryUsage().arrayBuffers;
    for (let round = 0; round < 500; round += 1) {
      map.complete(map.begin(0, 512), 0, 512, 2 + 2 * round);
      map.streamOff();
      map.complete(map.begin(CHUNK, 512), CHUNK, 512, 0);
      map.streamOn(3 + 2 * round);
    }
    expect(map.dirtyBytes).toBe(2 * CHUNK);
    globalThis.gc?.();
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 2 ** 20);
    map.acked(1001);
    expect(map.dirtyBytes).toBe(0);
  });

  it('estimates from above where counting would take long', () => {
    const map = new DirtyMap(2 ** 44, () => 5);
    map.streamOn(1);
    map.acked(1);
    for (let part = 0; part < 600; part += 1) map.begin(part * 2 ** 31, 512);
    map.streamOff();
    for (let part = 0; part < 600; part += 1) map.begin(part * 2 ** 31, 512);
    expect(map.dirtyBytes).toBe(1200 * CHUNK);
  });
});

/** A map whose first list is durable at the hub. */
function ready(): DirtyMap {
  const map = new DirtyMap(SIZE, () => 5);
  map.streamOn(1);
  map.acked(1);
  return map;
}

describe('a map that grows', () => {
  it.each([true, false])('has what is new in it, and forgets nothing (stream on: %s)', (streaming) => {
    const map = new DirtyMap(SIZE, () => 1);
    map.streamOn(1);
    map.acked(1);
    expect(map.dirtyBytes).toBe(0);
    if (!streaming) map.streamOff();
    const token = map.begin(0, 512);
    map.grow(SIZE + 2 * CHUNK);
    map.complete(token, 0, 512, streaming ? 2 : 0);
    map.acked(2);
    expect(map.isDirty(0, 512)).toBe(!streaming);
    // The chunk in which the disk ended before has something new too.
    expect(map.isDirty((CHUNKS - 1) * CHUNK, 512)).toBe(true);
    expect(map.isDirty((CHUNKS - 2) * CHUNK, 512)).toBe(false);
    map.streamOff();
    const named = [...map.streamOn(3).runs()];
    expect(named.at(-1)).toEqual({ start: CHUNKS - 1, end: CHUNKS + 2 });
    map.acked(3);
    expect(map.dirtyBytes).toBe(0);
  });
});

describe('runs of the dirty map', () => {
  const dirtyRuns = (map: DirtyMap, offset: number, length: number, most = 1000) =>
    map.runs(offset, length, most).map((run) => (run.isDirty ? run.length : -run.length));

  it('are all dirty at first, and tell what changed since, across generations', () => {
    const map = new DirtyMap(SIZE, () => 1);
    expect(dirtyRuns(map, 0, SIZE)).toEqual([SIZE]);
    map.streamOn(1);
    map.acked(1);
    expect(dirtyRuns(map, 512, SIZE - 512)).toEqual([512 - SIZE]);
    map.begin(2 * CHUNK, 512);
    map.streamOff();
    map.begin(3 * CHUNK + 512, CHUNK);
    expect(dirtyRuns(map, 0, SIZE)).toEqual([-2 * CHUNK, 3 * CHUNK, 5 * CHUNK - SIZE]);
    expect(dirtyRuns(map, 2 * CHUNK + 512, CHUNK)).toEqual([CHUNK]);
    expect(dirtyRuns(map, 0, SIZE, 2)).toEqual([-2 * CHUNK, 3 * CHUNK]);
  });

  it('cover any range exactly, and say what isDirty says of each chunk', () => {
    const changes = fc.array(fc.nat(CHUNKS - 1), { maxLength: 8 });
    const range = fc.tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: SIZE }));
    fc.assert(
      fc.property(changes, changes, range, (early, late, [offset, wanted]) => {
        const map = new DirtyMap(SIZE, () => 1);
        map.streamOn(1);
        map.acked(1);
        for (const chunk of early) map.begin(chunk * CHUNK, 512);
        map.streamOff();
        for (const chunk of late) map.begin(chunk * CHUNK, 512);
        const length = Math.min(wanted, SIZE - offset);
        let at = offset;
        let before: boolean | undefined;
        for (const run of map.runs(offset, length, 1000)) {
          expect(run.isDirty).not.toBe(before);
          before = run.isDirty;
          const end = at + run.length;
          while (at < end) {
            const piece = Math.min(end, (Math.floor(at / CHUNK) + 1) * CHUNK) - at;
            expect(map.isDirty(at, piece)).toBe(run.isDirty);
            at += piece;
          }
        }
        expect(at).toBe(offset + length);
      }),
    );
  });
});
