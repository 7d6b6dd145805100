// Random byte-granular changes through the align filter against a plain array: one after the other, and many at once
// over a device that answers in any order. fast-check prints the seed of a failure.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import type { MaybePromise } from '../../../src/base/maybe.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { filtered } from '../../support/filter-chain.ts';
import {
  HeldDevice,
  PatternDevice,
  patternBytes,
  settled,
  VerifyDevice,
} from '../../support/test-devices.ts';

interface Op {
  readonly kind: 'write' | 'trim' | 'zero' | 'read';
  readonly at: number;
  readonly length: number;
  readonly value: number;
}

/** Operations on a window of `span` bytes, with a liking for the borders of blocks. */
function ops(span: number): fc.Arbitrary<Op> {
  const nearBorder = fc
    .tuple(fc.integer({ min: 0, max: span / 512 }), fc.integer({ min: -2, max: 2 }))
    .map(([sector, off]) => Math.min(span - 1, Math.max(0, sector * 512 + off)));
  return fc.record({
    kind: fc.constantFrom('write', 'write', 'trim', 'zero', 'read'),
    at: fc.oneof(nearBorder, fc.integer({ min: 0, max: span - 1 })),
    length: fc.oneof(
      fc.integer({ min: 1, max: 20 }),
      fc.constantFrom(511, 512, 513, 1024),
      fc.integer({ min: 1, max: span }),
    ),
    value: fc.integer({ min: 1, max: 255 }),
  });
}

function start(disk: BlockDevice, base: number, span: number, op: Op): MaybePromise<void> {
  const length = Math.min(op.length, span - op.at);
  const offset = base + op.at;
  if (op.kind === 'write') return disk.write(offset, Buffer.alloc(length, op.value), false);
  if (op.kind === 'trim') return disk.trim(offset, length, false);
  if (op.kind === 'zero') return disk.writeZeroes(offset, length, false, true);
  return disk.read(offset, Buffer.alloc(length));
}

function applyToModel(model: Buffer, op: Op): void {
  if (op.kind === 'read') return;
  const end = Math.min(model.length, op.at + op.length);
  model.fill(op.kind === 'write' ? op.value : 0, op.at, end);
}

const SPAN = 4096;
const BORDERS = [0, 2 ** 31, 2 ** 32, 2 ** 40];

/** Where the window begins: blocks before one of the borders, so that it lies across. */
const base = fc.constantFrom(...BORDERS).map((border) => Math.max(0, border - SPAN / 2));

it('does what a plain array does, and touches nothing else, around 2^31, 2^32 and 2^40', async () => {
  const spec = fc.constantFrom('align', 'align,block=1K', 'align,block=4K');
  const property = fc.asyncProperty(
    spec,
    base,
    fc.array(ops(SPAN), { maxLength: 40 }),
    async (align, at, list) => {
      const bottom = new PatternDevice(2 ** 41, { minBlockBytes: 512 });
      const disk = await filtered(bottom, align);
      const model = patternBytes(at, SPAN);
      for (const op of list) {
        await start(disk, at, SPAN, op);
        applyToModel(model, op);
        const got = Buffer.alloc(SPAN);
        await disk.read(at, got);
        expect(got.equals(model)).toBe(true);
      }
      expect(bottom.bytes.slice(at, SPAN).equals(model)).toBe(true);
      const before = Math.min(at, 4096);
      expect(bottom.bytes.slice(at - before, before).equals(patternBytes(at - before, before))).toBe(true);
      expect(bottom.bytes.slice(at + SPAN, 4096).equals(patternBytes(at + SPAN, 4096))).toBe(true);
    },
  );
  await fc.assert(property, { numRuns: 200 });
});

it('reads any range as it is, also byte by byte around the borders', async () => {
  const range = fc.record({
    back: fc.integer({ min: 0, max: 3000 }),
    length: fc.integer({ min: 1, max: 6000 }),
  });
  const property = fc.asyncProperty(
    fc.constantFrom(...BORDERS.slice(1)),
    range,
    async (border, { back, length }) => {
      const disk = await filtered(new PatternDevice(2 ** 41, { minBlockBytes: 512 }), 'align');
      const target = Buffer.alloc(length);
      await disk.read(border - back, target);
      expect(target.equals(patternBytes(border - back, length))).toBe(true);
    },
  );
  await fc.assert(property, { numRuns: 200 });
});

/** Either the next operation begins, or the call waiting at this place (modulo their number) is answered. */
type Step = { readonly op: Op } | { readonly release: number };

it('loses nothing when many changes are in flight and the disk answers in any order', {
  timeout: 60_000,
}, async () => {
  const span = 2048;
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({ op: ops(span) }),
    fc.record({ release: fc.nat({ max: 20 }) }),
  );
  const spec = fc.constantFrom('align', 'align,block=1K');
  const at = 2 ** 32 - span / 2;
  const property = fc.asyncProperty(spec, fc.array(step, { maxLength: 80 }), async (align, steps) => {
    const bottom = new PatternDevice(2 ** 33, { minBlockBytes: 512 });
    const held = new HeldDevice(bottom);
    const disk = new VerifyDevice(await filtered(held, align), { startsZero: false });
    const model = patternBytes(at, span);
    const answers: Array<Promise<void>> = [];
    for (const next of steps) {
      if ('op' in next) {
        answers.push(Promise.resolve(start(disk, at, span, next.op)));
        applyToModel(model, next.op);
      } else if (held.waiting.length > 0) {
        await held.waiting[next.release % held.waiting.length]?.release();
      }
    }
    while (held.waiting.length > 0) {
      await held.waiting[(answers.length * 7) % held.waiting.length]?.release();
      await settled();
    }
    await Promise.all(answers);
    expect(bottom.bytes.slice(at, span).equals(model)).toBe(true);
    await disk.close();
  });
  await fc.assert(property, { numRuns: 300 });
});
