// Values that several commands share: log levels, counts, names, directories.
import { createHash } from 'node:crypto';
import { homedir, hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { UsageError } from '../base/errors.ts';
import { MAX_NAME_BYTES } from '../base/limits.ts';
import type { LogLevel } from '../base/log.ts';
import { parseDurationMs } from '../base/size.ts';

/** Written out here because loading the logger would slow every `--help`; a test compares it with the logger's own list. */
export const LOG_LEVEL_CHOICES = [
  'trace',
  'debug',
  'info',
  'warn',
  'error',
  'fatal',
  'silent',
] as const satisfies readonly LogLevel[];

type Environment = Readonly<Record<string, string | undefined>>;

/** A whole number of at least 1. @throws UsageError */
export function parseCount(text: string, label: string, max: number): number {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= 1 && value <= max)) {
    throw new UsageError(`${label}: ${JSON.stringify(text)} is not a whole number from 1 to ${max}`);
  }
  return value;
}

/** Longest wait that a timer can measure, milliseconds. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Seconds, or a duration with its unit; undefined when not given. @throws UsageError */
export function parseTimeout(text: string | undefined, label: string): number | undefined {
  if (text === undefined) return undefined;
  const ms = parseDurationMs(text, label);
  if (ms > MAX_TIMEOUT_MS) throw new UsageError(`${label}: at most 24 days`);
  return ms;
}

/** The same, but not 0, which would end everything at once. @throws UsageError */
export function parsePositiveTimeout(text: string | undefined, label: string): number | undefined {
  const ms = parseTimeout(text, label);
  if (ms === 0) throw new UsageError(`${label}: must be longer than 0`);
  return ms;
}

/** The name that a hub shows a machine by. @throws UsageError */
export function parseVmName(text: string | undefined): string {
  const name = text ?? hostname();
  const length = Buffer.byteLength(name);
  if (length < 1 || length > MAX_NAME_BYTES || /[\p{Cc}/]/u.test(name) || name === '.' || name === '..') {
    throw new UsageError(
      `--vm-name: ${JSON.stringify(name)} is no machine name; use 1 to ${MAX_NAME_BYTES} bytes without slashes`,
    );
  }
  return name;
}

/**
 * The given directory, or one in the user's state folder. Two agents must never share one, so a machine's disks have
 * a directory of their own.
 * @param firstImage as it was given; the further ones may come and go
 */
export function agentStateDir(
  text: string | undefined,
  vmName: string,
  firstImage: string,
  env: Environment = process.env,
): string {
  if (text !== undefined) return resolve(text);
  const place = firstImage.includes('://') ? firstImage : resolve(firstImage);
  const hash = createHash('sha256').update(`${vmName}\0${place}`).digest('hex').slice(0, 16);
  return join(stateFolder(env), 'agents', hash);
}

/** The given directory, or one in the user's state folder. */
export function hubStateDir(text: string | undefined, env: Environment = process.env): string {
  return text === undefined ? join(stateFolder(env), 'hub') : resolve(text);
}

function stateFolder(env: Environment): string {
  return join(env.XDG_STATE_HOME || join(homedir(), '.local', 'state'), 'repagent');
}
