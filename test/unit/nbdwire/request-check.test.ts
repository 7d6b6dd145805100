// Which request is refused with which error: the spec's "Error values", line by line.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GiB, MiB } from '../../../src/base/limits.ts';
import { NBD_CMD, NBD_ERROR, nameOf } from '../../../src/nbdwire/constants.ts';
import { decodeRequest, RequestHeader } from '../../../src/nbdwire/request.ts';
import { checkRequest, explainRefusal, type RequestRules } from '../../../src/nbdwire/request-check.ts';
import { type RequestSpec, requestBytes } from '../../support/raw-nbd-client.ts';

const SIZE = 8 * GiB;
const RULES: RequestRules = {
  sizeBytes: SIZE,
  readOnly: false,
  minBlockBytes: 1,
  maxPayloadBytes: 64 * MiB,
  fastZero: 'always',
  style: 'simple',
  contexts: [],
};
const { READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, RESIZE } = NBD_CMD;
const FUA = 1;
const NO_HOLE = 2;
const DF = 4;
const REQ_ONE = 8;
const FAST_ZERO = 16;
const PAYLOAD_LEN = 32;
const RANGED = [READ, WRITE, TRIM, CACHE, WRITE_ZEROES];

function check(spec: RequestSpec, rules: Partial<RequestRules> = {}): string {
  const request = new RequestHeader();
  decodeRequest(requestBytes(spec), 0, request);
  return nameOf(NBD_ERROR, checkRequest(request, { ...RULES, ...rules }));
}

describe('checkRequest', () => {
  it.each([
    [READ, 'EINVAL'],
    [WRITE, 'ENOSPC'],
    [TRIM, 'EINVAL'],
    [CACHE, 'EINVAL'],
    [WRITE_ZEROES, 'ENOSPC'],
  ])('command %i past the end of the disk is %s', (type, error) => {
    expect(check({ type, offset: SIZE - 512, length: 512 })).toBe('OK');
    expect(check({ type, offset: SIZE - 512, length: 513 })).toBe(error);
    expect(check({ type, offset: SIZE, length: 1 })).toBe(error);
    expect(check({ type, offset: 2n ** 64n - 1n, length: 1 })).toBe(error);
    expect(check({ type, offset: 2n ** 63n, length: 512 })).toBe(error);
    expect(check({ type, offset: 2n ** 53n - 1n, length: 1 * MiB })).toBe(error);
  });

  it('accepts FUA on every command, and NO_HOLE where it belongs', () => {
    for (const type of RANGED) expect(check({ type, flags: FUA, length: 512 })).toBe('OK');
    expect(check({ type: FLUSH, flags: FUA })).toBe('OK');
    expect(check({ type: WRITE_ZEROES, flags: NO_HOLE | FUA, length: 512 })).toBe('OK');
    for (const type of [READ, WRITE, TRIM, CACHE]) {
      expect(check({ type, flags: NO_HOLE, length: 512 })).toBe('EINVAL');
    }
  });

  it('refuses every flag that was not offered', () => {
    for (const type of [...RANGED, FLUSH]) {
      for (let bit = 2; bit < 16; bit += 1) {
        if (type === WRITE_ZEROES && 2 ** bit === FAST_ZERO) continue;
        expect(check({ type, flags: 2 ** bit })).toBe('EINVAL');
      }
    }
  });

  it('takes DF, REQ_ONE and PAYLOAD_LEN where they were agreed on, and nowhere else', () => {
    const contexts = [0];
    const styles = ['simple', 'structured', 'extended'] as const;
    const allowed = (type: number, flags: number): string[] =>
      styles.filter((style) => check({ type, flags, length: 512 }, { style, contexts }) === 'OK');
    expect(allowed(READ, DF)).toEqual(['structured', 'extended']);
    expect(allowed(READ, DF | FUA)).toEqual(['structured', 'extended']);
    expect(allowed(BLOCK_STATUS, 0)).toEqual(['structured', 'extended']);
    expect(allowed(BLOCK_STATUS, REQ_ONE | FUA)).toEqual(['structured', 'extended']);
    expect(allowed(BLOCK_STATUS, PAYLOAD_LEN)).toEqual(['extended']);
    expect(allowed(WRITE, PAYLOAD_LEN | FUA)).toEqual(['extended']);
    for (const type of [WRITE, TRIM, CACHE, WRITE_ZEROES, FLUSH, BLOCK_STATUS])
      expect(allowed(type, DF)).toEqual([]);
    for (const type of [...RANGED, FLUSH]) expect(allowed(type, REQ_ONE)).toEqual([]);
    for (const type of [READ, TRIM, CACHE, WRITE_ZEROES, FLUSH])
      expect(allowed(type, PAYLOAD_LEN)).toEqual([]);
  });

  it('tells the status of something only, and only with a context', () => {
    const rules = { style: 'structured', contexts: [0] } as const;
    expect(check({ type: BLOCK_STATUS, length: 0 }, rules)).toBe('EINVAL');
    expect(check({ type: BLOCK_STATUS, length: 512 }, { ...rules, contexts: [] })).toBe('EINVAL');
    expect(check({ type: BLOCK_STATUS, offset: SIZE - 512, length: 513 }, rules)).toBe('EINVAL');
    expect(check({ type: BLOCK_STATUS, length: 0xffffffff }, rules)).toBe('OK');
    expect(check({ type: BLOCK_STATUS, length: 100 }, { ...rules, minBlockBytes: 512 })).toBe('EINVAL');
    expect(check({ type: BLOCK_STATUS, length: 512 }, { ...rules, readOnly: true })).toBe('OK');
  });

  it('refuses a fast zero that would not be fast, and no other', () => {
    const zero = (
      flags: number,
      fastZero: RequestRules['fastZero'],
      rules: Partial<RequestRules> = {},
    ): string => check({ type: WRITE_ZEROES, flags, length: 4 * GiB - 512 }, { fastZero, ...rules });
    expect(zero(FAST_ZERO, 'always')).toBe('OK');
    expect(zero(FAST_ZERO | NO_HOLE, 'always')).toBe('OK');
    expect(zero(FAST_ZERO, 'holes')).toBe('OK');
    expect(zero(FAST_ZERO | NO_HOLE, 'holes')).toBe('ENOTSUP');
    expect(zero(FAST_ZERO, 'never')).toBe('ENOTSUP');
    expect(zero(NO_HOLE, 'never')).toBe('OK');
    expect(zero(FAST_ZERO, 'never', { readOnly: true })).toBe('EPERM');
    expect(zero(FAST_ZERO, 'never', { sizeBytes: 512 })).toBe('ENOSPC');
    expect(zero(FAST_ZERO, 'never', { minBlockBytes: 4096 })).toBe('EINVAL');
    for (const type of [READ, WRITE, TRIM, CACHE]) {
      expect(check({ type, flags: FAST_ZERO, length: 512 })).toBe('EINVAL');
    }
  });

  it('says EOVERFLOW to a READ that is too large, where the spec knows that', () => {
    for (const style of ['structured', 'extended'] as const) {
      expect(check({ type: READ, length: 64 * MiB }, { style })).toBe('OK');
      expect(check({ type: READ, length: 64 * MiB + 1 }, { style })).toBe('EOVERFLOW');
      expect(check({ type: WRITE, length: 64 * MiB + 1 }, { style })).toBe('EINVAL');
    }
  });

  it('explains every refusal in a few words, and where the range leaves the disk', () => {
    const explain = (spec: RequestSpec, rules: Partial<RequestRules> = {}) => {
      const request = new RequestHeader();
      decodeRequest(requestBytes(spec), 0, request);
      const all: RequestRules = { ...RULES, style: 'structured', ...rules };
      return explainRefusal(request, all, checkRequest(request, all));
    };
    expect(explain({ type: READ, offset: SIZE - 512, length: 1024 })).toMatchObject({ offset: SIZE });
    expect(explain({ type: READ, offset: SIZE, length: 512 }).offset).toBeUndefined();
    expect(explain({ type: READ, flags: 64, offset: SIZE - 512, length: 1024 }).offset).toBeUndefined();
    expect(explain({ type: READ, flags: 64 }).message).toContain('0x40');
    expect(explain({ type: 99 }).message).toContain('99');
    expect(explain({ type: WRITE, length: 512 }, { readOnly: true }).message).toContain('read-only');
    expect(explain({ type: READ, length: 100 }, { minBlockBytes: 512 }).message).toContain('blocks of 512');
    expect(explain({ type: BLOCK_STATUS, length: 512 }).message).toContain('meta context');
    expect(explain({ type: READ, length: 65 * MiB }).message).toContain('at most');
    expect(
      explain({ type: WRITE_ZEROES, flags: FAST_ZERO, length: 512 }, { fastZero: 'never' }).message,
    ).toContain('faster');
    fc.assert(
      fc.property(fc.nat(0xffff), fc.nat(0xffff), fc.bigInt(0n, 2n ** 64n - 1n), (type, flags, offset) => {
        const { message } = explain({ type, flags, offset, length: 0xffffffff });
        expect(message.length).toBeGreaterThan(0);
        expect(message.length).toBeLessThan(200);
      }),
    );
  });

  it('refuses commands that it does not know', () => {
    for (const type of [BLOCK_STATUS, RESIZE, 9, 255, 0xffff])
      expect(check({ type, length: 512 })).toBe('EINVAL');
    expect(check({ type: DISC })).toBe('EINVAL');
  });

  it('limits payloads, but not what has none', () => {
    for (const type of [READ, WRITE]) {
      expect(check({ type, length: 64 * MiB })).toBe('OK');
      expect(check({ type, length: 64 * MiB + 1 })).toBe('EINVAL');
      expect(check({ type, length: 0xffffffff })).toBe('EINVAL');
    }
    for (const type of [TRIM, CACHE, WRITE_ZEROES]) expect(check({ type, length: 4 * GiB - 512 })).toBe('OK');
  });

  it('refuses changes of a read-only disk with EPERM, wherever they go', () => {
    const readOnly = { readOnly: true };
    for (const type of [WRITE, TRIM, WRITE_ZEROES]) {
      expect(check({ type, length: 512 }, readOnly)).toBe('EPERM');
      expect(check({ type, offset: SIZE, length: 512 }, readOnly)).toBe('EPERM');
    }
    for (const type of [READ, CACHE]) expect(check({ type, length: 512 }, readOnly)).toBe('OK');
    expect(check({ type: FLUSH }, readOnly)).toBe('OK');
  });

  it('refuses what is not aligned to the blocks of the disk', () => {
    for (const type of RANGED) {
      expect(check({ type, offset: 4096, length: 512 }, { minBlockBytes: 512 })).toBe('OK');
      expect(check({ type, offset: 4095, length: 512 }, { minBlockBytes: 512 })).toBe('EINVAL');
      expect(check({ type, offset: 4096, length: 511 }, { minBlockBytes: 512 })).toBe('EINVAL');
    }
  });

  it('lets zero lengths pass inside the disk, its end included', () => {
    for (const type of RANGED) {
      expect(check({ type, offset: 0, length: 0 })).toBe('OK');
      expect(check({ type, offset: SIZE, length: 0 })).toBe('OK');
      expect(check({ type, offset: SIZE + 1, length: 0 })).not.toBe('OK');
    }
  });

  it('wants the reserved fields of a flush to be zero', () => {
    expect(check({ type: FLUSH })).toBe('OK');
    expect(check({ type: FLUSH, offset: 512 })).toBe('EINVAL');
    expect(check({ type: FLUSH, length: 512 })).toBe('EINVAL');
  });

  it('passes no range that leaves the disk, checked against exact arithmetic', () => {
    const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    const near = fc.bigInt({ min: BigInt(SIZE) - 2048n, max: BigInt(SIZE) + 2048n });
    const length = fc.oneof(fc.integer({ min: 0, max: 0xffffffff }), fc.nat(4096));
    fc.assert(
      fc.property(
        fc.constantFrom(TRIM, CACHE, WRITE_ZEROES),
        fc.oneof(u64, near),
        length,
        (type, offset, n) => {
          const inside = offset + BigInt(n) <= BigInt(SIZE);
          expect(check({ type, offset, length: n }) === 'OK').toBe(inside);
        },
      ),
    );
  });
});
