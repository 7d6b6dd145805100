import { describe, expect, test } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { formatBytes, formatDuration, parseDurationMs, parseSize } from '../../../src/base/size.ts';

describe('sizes', () => {
  test.each([
    ['0', 0],
    ['512', 512],
    ['4096b', 4096],
    ['64K', 65_536],
    ['64k', 65_536],
    ['64KiB', 65_536],
    ['64kb', 65_536],
    ['1.5G', 1_610_612_736],
    ['20g', 21_474_836_480],
    ['16T', 17_592_186_044_416],
    [' 1M ', 1_048_576],
  ])('%s is %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each(['', 'x', '-1', '1.2.3', '1X', '0x10', '1e3', 'K', '1.3', '9999999P', 'Infinity'])(
    '%j is refused',
    (text) => {
      expect(() => parseSize(text, '--create')).toThrow(UsageError);
      expect(() => parseSize(text, '--create')).toThrow('--create');
    },
  );

  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1536, '1.5 KiB'],
    [65_536, '64 KiB'],
    [2 ** 40, '1 TiB'],
  ])('%d prints as %s', (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });
});

describe('durations', () => {
  test.each([
    ['250ms', 250],
    ['5s', 5000],
    ['5', 5000],
    ['1.5s', 1500],
    ['2m', 120_000],
    ['1h', 3_600_000],
  ])('%s is %d ms', (text, ms) => {
    expect(parseDurationMs(text)).toBe(ms);
  });

  test.each(['', 'ms', '-1s', '1d', '1 2'])('%j is refused', (text) => {
    expect(() => parseDurationMs(text)).toThrow(UsageError);
  });

  test.each([
    [12.4, '12ms'],
    [4000, '4s'],
    [59_600, '1m00s'],
    [130_000, '2m10s'],
    [11_100_000, '3h05m'],
    [Number.NaN, 'unknown'],
    [Number.POSITIVE_INFINITY, 'unknown'],
  ])('%d ms prints as %s', (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });
});
