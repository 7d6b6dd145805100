import { expect, it } from 'vitest';
import { filterChain, filtered } from '../../support/filter-chain.ts';
import { PatternDevice, patternBytes, SparseDevice } from '../../support/test-devices.ts';

const SIZE = 2 ** 33;
const START = 2 ** 32 - 256 * 1024;
const LENGTH = 512 * 1024;

async function read(
  disk: Awaited<ReturnType<typeof filtered>>,
  offset = START,
  length = LENGTH,
): Promise<Buffer> {
  const target = Buffer.alloc(length);
  await disk.read(offset, target);
  return target;
}

/** Where `bytes` differ from what the pattern disk holds. */
function wrongAt(bytes: Buffer): number[] {
  const right = patternBytes(START, LENGTH);
  return [...bytes.keys()].filter((at) => bytes[at] !== right[at]);
}

it('flips one bit in a share of the sectors, the same ones for a seed, on both sides of 4 GiB', async () => {
  const { chain, context } = await filterChain(new PatternDevice(SIZE), ['evil,rate=0.1,seed=7']);
  const bytes = await read(chain);
  const wrong = wrongAt(bytes);
  // 1024 sectors: 102 expected.
  expect(wrong.length).toBeGreaterThan(60);
  expect(wrong.length).toBeLessThan(150);
  expect(new Set(wrong.map((at) => Math.floor(at / 512))).size).toBe(wrong.length);
  expect(wrong.some((at) => at < LENGTH / 2) && wrong.some((at) => at >= LENGTH / 2)).toBe(true);
  const right = patternBytes(START, LENGTH);
  for (const at of wrong) expect(Math.log2(bytes[at]! ^ right[at]!) % 1).toBe(0);
  expect(context.status().evil).toEqual({ corruptedBits: wrong.length, rate: 0.1, seed: 7 });
  expect((await read(await filtered(new PatternDevice(SIZE), 'evil,rate=0.1,seed=7'))).equals(bytes)).toBe(
    true,
  );
  const other = await read(await filtered(new PatternDevice(SIZE), 'evil,rate=0.1,seed=8'));
  expect(wrongAt(other)).not.toEqual(wrong);
});

it('is wrong in the same places however a range is read', async () => {
  const disk = await filtered(new PatternDevice(SIZE), 'evil,rate=0.5,seed=3');
  const whole = await read(disk);
  for (const step of [1, 511, 513, 7777]) {
    const end = step === 1 ? 4096 : LENGTH;
    for (let at = 0; at < end; at += step) {
      const length = Math.min(step, end - at);
      const part = await read(disk, START + at, length);
      expect(part.equals(whole.subarray(at, at + length))).toBe(true);
    }
  }
});

it('leaves lent bytes alone when it corrupts what is written', async () => {
  const bottom = new SparseDevice(SIZE);
  const disk = await filtered(bottom, 'evil,rate=1,on=write,seed=1');
  const data = Buffer.alloc(4096);
  await disk.write(START, data, false);
  expect(data.equals(Buffer.alloc(4096))).toBe(true);
  const stored = bottom.bytes.slice(START, 4096);
  for (let at = 0; at < 4096; at += 512) {
    expect([...stored.subarray(at, at + 512)].filter((byte) => byte !== 0)).toHaveLength(1);
  }
  expect((await read(disk, START, 4096)).equals(stored)).toBe(true);
});

it('has bits that are stuck: whatever is written, they read the same', async () => {
  const disk = await filtered(new SparseDevice(SIZE), 'evil,rate=1,mode=stuck,seed=5');
  const results: Buffer[] = [];
  for (const value of [0x00, 0xff]) {
    await disk.write(START, Buffer.alloc(65_536, value), false);
    results.push(await read(disk, START, 65_536));
  }
  const [zeroes, ones] = results as [Buffer, Buffer];
  const high = zeroes.filter((byte) => byte !== 0).length;
  const low = ones.filter((byte) => byte !== 0xff).length;
  // Each of 128 sectors has one bit, stuck at either value.
  expect(high + low).toBe(128);
  expect(Math.min(high, low)).toBeGreaterThan(30);
});

it('never calls zero what reads wrong, and can be switched off', async () => {
  const { chain, context } = await filterChain(new SparseDevice(SIZE), ['evil,rate=1,seed=5']);
  expect(chain.limits.cheapExtents).toBe(false);
  expect(await chain.extents(START, LENGTH)).toEqual([
    { offset: START, length: LENGTH, hole: false, zero: false },
  ]);
  expect((await read(chain)).equals(Buffer.alloc(LENGTH))).toBe(false);
  await context.adjust('evil', new Map([['rate', ['0']]]));
  expect((await read(chain)).equals(Buffer.alloc(LENGTH))).toBe(true);
});
