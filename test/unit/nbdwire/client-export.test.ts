// What a server may say of an export, and what is refused of it.
import { describe, expect, it } from 'vitest';
import { GiB, KiB, MAX_DISK_BYTES, MAX_REQUEST_BYTES, MiB } from '../../../src/base/limits.ts';
import { HandshakeError } from '../../../src/nbdwire/client-error.ts';
import { checkExport, type RawExport } from '../../../src/nbdwire/client-export.ts';

const FLAGS = 0x6d;

function raw(over: Partial<RawExport> = {}): RawExport {
  return { size: 1n << 30n, flags: FLAGS, blockSizes: undefined, ...over };
}

function sizes(minBlockBytes: number, preferredBlockBytes: number, maxPayloadBytes: number): RawExport {
  return raw({ blockSizes: { minBlockBytes, preferredBlockBytes, maxPayloadBytes } });
}

function refusal(export_: RawExport): HandshakeError {
  try {
    checkExport(export_);
  } catch (error) {
    expect(error).toBeInstanceOf(HandshakeError);
    return error as HandshakeError;
  }
  return expect.fail('it was accepted');
}

describe('checkExport', () => {
  it('takes sectors and 32 MiB where the server tells no block sizes', () => {
    expect(checkExport(raw())).toEqual({
      sizeBytes: GiB,
      flags: FLAGS,
      minBlockBytes: 512,
      preferredBlockBytes: 4096,
      maxPayloadBytes: MAX_REQUEST_BYTES,
    });
  });

  it('takes the largest disk, and refuses a larger one by its exact size', () => {
    expect(checkExport(raw({ size: BigInt(MAX_DISK_BYTES) })).sizeBytes).toBe(MAX_DISK_BYTES);
    for (const size of [BigInt(MAX_DISK_BYTES) + 512n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
      const error = refusal(raw({ size }));
      expect(error.kind).toBe('unsuitable');
      expect(error.message).toContain(String(size));
      expect(error.message).toContain(String(MAX_DISK_BYTES));
    }
  });

  it('refuses a size that is no multiple of 512, and says which would do', () => {
    expect(refusal(raw({ size: 1000n })).message).toMatch(/1000 bytes.*512.*make it 1024 bytes/);
  });

  it('refuses a size that is no multiple of the minimum block', () => {
    expect(refusal({ ...sizes(4096, 4096, MiB), size: 5120n }).message).toContain('minimum block size 4096');
  });

  it.each([0, 3, 1000, 2 ** 17, 2 ** 32 - 1])('refuses a minimum block of %d bytes', (minimum) => {
    expect(refusal(sizes(minimum, 2 ** 20, MiB)).message).toContain(`${minimum} bytes; it must be a power`);
  });

  it.each([1, 512, 4 * KiB, 64 * KiB])('takes a minimum block of %d bytes', (minimum) => {
    expect(checkExport(sizes(minimum, 64 * KiB, MiB)).minBlockBytes).toBe(minimum);
  });

  it.each([0, 1, 511])('refuses requests of at most %d bytes', (maximum) => {
    expect(refusal(sizes(1, 512, maximum)).message).toContain(`at most ${maximum} bytes`);
  });

  it('cuts the largest request to whole blocks and to its own limit', () => {
    expect(checkExport(sizes(1, 4096, 2 ** 32 - 1)).maxPayloadBytes).toBe(MAX_REQUEST_BYTES);
    expect(checkExport(sizes(4096, 4096, 10_000)).maxPayloadBytes).toBe(8192);
    expect(checkExport(sizes(1, 4096, 1_000_000)).maxPayloadBytes).toBe(999_936);
  });

  it('replaces a preferred size that makes no sense', () => {
    const preferred = (min: number, value: number): number =>
      checkExport(sizes(min, value, MiB)).preferredBlockBytes;
    expect(preferred(512, 64 * KiB)).toBe(64 * KiB);
    expect(preferred(4096, 512)).toBe(4096);
    expect(preferred(512, 0)).toBe(4096);
    expect(preferred(512, 3000)).toBe(4096);
    expect(preferred(64 * KiB, 3000)).toBe(64 * KiB);
    expect(preferred(1, 2 ** 31)).toBe(MAX_REQUEST_BYTES);
  });

  it('believes no flag unless the server says that it has flags', () => {
    expect(checkExport(raw({ flags: 0x6c })).flags).toBe(0);
  });
});
