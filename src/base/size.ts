// Sizes and durations as people write them, and back.
import { UsageError } from './errors.ts';

const UNITS: Readonly<Record<string, number>> = {
  '': 1,
  b: 1,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
  t: 2 ** 40,
  p: 2 ** 50,
};

/**
 * Parses a byte count such as `4096`, `64M`, `1.5G`, `20GiB` (powers of 1024, as qemu-img reads them).
 * @param what names the option in the error
 * @returns bytes, a non-negative safe integer
 * @throws UsageError when it is not such a number
 */
export function parseSize(text: string, what = 'size'): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?$/i.exec(text.trim());
  const unit = match ? UNITS[match[2]!.toLowerCase()] : undefined;
  const bytes = match && unit !== undefined ? Number(match[1]) * unit : Number.NaN;
  if (!Number.isSafeInteger(bytes)) {
    throw new UsageError(
      `${what}: ${JSON.stringify(text)} is not a size; use whole bytes or 64K, 32M, 20G, 1T`,
    );
  }
  return bytes;
}

const DURATION_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/**
 * Parses a duration such as `250ms`, `5s`, `2m`, `1h`; a bare number is seconds.
 * @returns milliseconds, non-negative and finite
 * @throws UsageError when it is not such a number
 */
export function parseDurationMs(text: string, what = 'duration'): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h)?$/i.exec(text.trim());
  if (!match)
    throw new UsageError(`${what}: ${JSON.stringify(text)} is not a duration; use 250ms, 5s, 2m or 1h`);
  return Number(match[1]) * DURATION_UNITS[(match[2] ?? 's').toLowerCase()]!;
}

/** `1536` -> `1.5 KiB`; at most one decimal. */
export function formatBytes(bytes: number): string {
  const names = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let index = 0;
  while (value >= 1024 && index < names.length - 1) {
    value /= 1024;
    index += 1;
  }
  return `${Number(value.toFixed(value < 10 && index > 0 ? 1 : 0))} ${names[index]!}`;
}

/** Milliseconds -> `250ms`, `4s`, `2m10s`, `3h05m`. */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) return 'unknown';
  if (ms < 1000) return `${Math.round(ms)}ms`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}m${String(seconds % 60).padStart(2, '0')}s`;
  return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, '0')}m`;
}
