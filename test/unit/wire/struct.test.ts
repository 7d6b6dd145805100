import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bytes, padding, struct, WireError } from '../../../src/wire/struct.ts';

const sample = struct('SAMPLE', 'le', {
  small: 'u8',
  half: 'u16',
  gap: padding(3),
  word: 'u32',
  signed: 'i32',
  wide: 'u64',
  size: 'size64',
  id: bytes(4),
});

describe('struct', () => {
  test('fields lie packed, in order, with their offsets told', () => {
    expect(sample.sizeBytes).toBe(1 + 2 + 3 + 4 + 4 + 8 + 8 + 4);
    expect(sample.fields.map((f) => [f.name, f.offset, f.type])).toEqual([
      ['small', 0, 'u8'],
      ['half', 1, 'u16'],
      ['gap', 3, 'padding'],
      ['word', 6, 'u32'],
      ['signed', 10, 'i32'],
      ['wide', 14, 'u64'],
      ['size', 22, 'u64'],
      ['id', 30, '4 bytes'],
    ]);
  });

  test('what was encoded decodes to the same values, in both byte orders', () => {
    for (const endian of ['le', 'be'] as const) {
      const layout = struct('X', endian, {
        a: 'u8',
        b: 'u16',
        c: 'u32',
        d: 'i32',
        e: 'u64',
        f: 'size64',
        g: bytes(5),
      });
      fc.assert(
        fc.property(
          fc.integer({ min: 0, max: 0xff }),
          fc.integer({ min: 0, max: 0xffff }),
          fc.integer({ min: 0, max: 0xffff_ffff }),
          fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
          fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
          fc.maxSafeNat(),
          fc.uint8Array({ minLength: 5, maxLength: 5 }),
          (a, b, c, d, e, f, g) => {
            const value = { a, b, c, d, e, f, g: Buffer.from(g) };
            expect(layout.decode(layout.encode(value))).toEqual(value);
          },
        ),
      );
    }
  });

  test('byte order is what it says', () => {
    const le = struct('L', 'le', { x: 'u32', y: 'u64' }).encode({ x: 0x01020304, y: 0x0102030405060708n });
    const be = struct('B', 'be', { x: 'u32', y: 'u64' }).encode({ x: 0x01020304, y: 0x0102030405060708n });
    expect(le.toString('hex')).toBe('040302010807060504030201');
    expect(be.toString('hex')).toBe('010203040102030405060708');
  });

  test('a size above 2^53 - 1 is refused, not rounded', () => {
    const layout = struct('S', 'be', { size: 'size64' });
    const source = Buffer.from('0020000000000000', 'hex');
    expect(() => layout.decode(source)).toThrow(WireError);
    expect(() => layout.decode(source)).toThrow('S.size is 9007199254740992');
    expect(layout.decode(Buffer.from('001fffffffffffff', 'hex')).size).toBe(Number.MAX_SAFE_INTEGER);
  });

  test('a missing field is refused, not skipped', () => {
    const layout = struct('M', 'le', { a: 'u32', b: 'u32' });
    // @ts-expect-error b is missing
    expect(() => layout.encode({ a: 1 })).toThrow('M.b is missing');
  });

  test('values that do not fit are refused', () => {
    const layout = struct('F', 'le', { a: 'u8', s: 'size64' });
    expect(() => layout.encode({ a: 256, s: 0 })).toThrow();
    expect(() => layout.encode({ a: 1, s: -1 })).toThrow();
    expect(() => layout.encode({ a: 1, s: 1.5 })).toThrow();
  });

  test('too few bytes name what was needed', () => {
    expect(() => sample.decode(Buffer.alloc(10))).toThrow('SAMPLE takes 34 bytes, got 10');
    expect(() => sample.decode(Buffer.alloc(40), 38)).toThrow('SAMPLE takes 34 bytes, got 2');
  });

  test('padding is written as zero and does not appear in the value', () => {
    const layout = struct('P', 'le', { a: 'u8', gap: padding(2), b: 'u8' });
    const target = Buffer.alloc(6, 0xff);
    layout.encodeInto({ a: 1, b: 2 }, target, 1);
    expect(target.toString('hex')).toBe('ff01000002ff');
    expect(layout.decode(target, 1)).toEqual({ a: 1, b: 2 });
  });

  test('bytes share memory with their source', () => {
    const layout = struct('Y', 'le', { id: bytes(4) });
    const source = Buffer.from('01020304', 'hex');
    const { id } = layout.decode(source);
    source[0] = 9;
    expect(id[0]).toBe(9);
  });
});
