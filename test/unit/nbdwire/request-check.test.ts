// Which request is refused with which error: the spec's "Error values", line by line.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GiB, MiB } from '../../../src/base/limits.ts';
import { NBD_CMD, NBD_ERROR, nameOf } from '../../../src/nbdwire/constants.ts';
import { decodeRequest, RequestHeader } from '../../../src/nbdwire/request.ts';
import { checkRequest, type RequestRules } from '../../../src/nbdwire/request-check.ts';
import { type RequestSpec, requestBytes } from '../../support/raw-nbd-client.ts';

const SIZE = 8 * GiB;
const RULES: RequestRules = { sizeBytes: SIZE, readOnly: false, minBlockBytes: 1, maxPayloadBytes: 64 * MiB };
const { READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS, RESIZE } = NBD_CMD;
const FUA = 1;
const NO_HOLE = 2;
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
      for (let bit = 2; bit < 16; bit += 1) expect(check({ type, flags: 2 ** bit })).toBe('EINVAL');
    }
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
