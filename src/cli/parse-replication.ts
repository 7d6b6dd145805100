// What the options of `serve` say of its hubs and of how it replicates, as one value. Nothing is read or dialled here.
import { resolve } from 'node:path';
import { UsageError } from '../base/errors.ts';
import {
  DEFAULT_QUEUE_BYTES,
  DIRTY_GRANULARITY_BYTES,
  KiB,
  MAX_DIRTY_GRANULARITY_BYTES,
  SECTOR_BYTES,
} from '../base/limits.ts';
import { parseDurationMs, parseSize } from '../base/size.ts';
import type { BandwidthSchedule } from '../repagent/bandwidth-schedule.ts';
import type { CompressMode } from '../repagent/compression.ts';
import type { ResyncRate } from '../repagent/resync-pace.ts';
import type { SERVE_OPTIONS } from './commands/serve.ts';
import type { RawOptions } from './option-table.ts';
import { type HubAddress, parseHubs } from './parse-address.ts';
import { parseBandwidth } from './parse-bandwidth.ts';

/** The options, as the command line or a file gave them. */
export type RawReplication = Pick<
  RawOptions<typeof SERVE_OPTIONS>,
  | 'hub'
  | 'hub-tls-dir'
  | 'hub-tls-name'
  | 'hub-bandwidth'
  | 'hub-compress'
  | 'queue-bytes'
  | 'on-hub-lag'
  | 'resync-rate'
  | 'max-delay'
  | 'dirty-granularity'
  | 'dirty-sync'
>;

export interface ReplicationConfig {
  /** Each makes a replica; none: nothing is replicated. */
  readonly hubs: readonly HubAddress[];
  /** Of the links to the hubs; undefined: no TLS. Without a name each hub's certificate must be for its host. */
  readonly hubTls: { readonly dir: string; readonly serverName: string | undefined } | undefined;
  /** Of what is sent to each hub; undefined: no limit. */
  readonly bandwidth: BandwidthSchedule | undefined;
  readonly compress: CompressMode;
  readonly queueBytes: number;
  readonly resyncRate: ResyncRate;
  /** Undefined: guests are never delayed. */
  readonly maxDelayMs: number | undefined;
  readonly dirtyGranularityBytes: number;
  readonly dirtySync: 'lazy' | 'always';
}

/** What has no meaning without a hub, and what it's about. */
const ABOUT_HUBS = {
  'hub-tls-dir': 'the link to a hub',
  'hub-bandwidth': 'the link to a hub',
  'hub-compress': 'the link to a hub',
  'resync-rate': 'replication',
  'on-hub-lag': 'replication',
} as const satisfies Partial<Record<keyof RawReplication, string>>;

/** @throws UsageError */
export function parseReplication(raw: RawReplication): ReplicationConfig {
  const hubs = parseHubs(raw.hub ?? []);
  if (hubs.length === 0) refuseAboutHubs(raw);
  const bandwidth = raw['hub-bandwidth'];
  return {
    hubs,
    hubTls: parseHubTls(raw['hub-tls-dir'], raw['hub-tls-name']),
    bandwidth: bandwidth === undefined ? undefined : parseBandwidth(bandwidth),
    compress: raw['hub-compress'] ?? 'off',
    queueBytes: parseQueueBytes(raw['queue-bytes']),
    resyncRate: parseResyncRate(raw['resync-rate']),
    maxDelayMs: parseMaxDelay(raw['on-hub-lag'], raw['max-delay']),
    dirtyGranularityBytes: parseGranularity(raw['dirty-granularity']),
    dirtySync: raw['dirty-sync'] ?? 'lazy',
  };
}

function refuseAboutHubs(raw: RawReplication): void {
  for (const name of Object.keys(ABOUT_HUBS) as Array<keyof typeof ABOUT_HUBS>) {
    if (raw[name] === undefined) continue;
    throw new UsageError(`--${name} is about ${ABOUT_HUBS[name]}: add --hub HOST[:PORT]`);
  }
}

function parseHubTls(dir: string | undefined, name: string | undefined): ReplicationConfig['hubTls'] {
  if (dir !== undefined) return { dir: resolve(dir), serverName: name };
  if (name === undefined) return undefined;
  throw new UsageError('--hub-tls-name is what the certificate of the hub is for: add --hub-tls-dir DIR');
}

/** One read of a resync a second: at less, what a hub asks for could seem to be forgotten. */
export const MIN_RESYNC_RATE = 256 * KiB;

function parseResyncRate(text = 'auto'): ResyncRate {
  if (text === 'auto') return text;
  if (!/^\d/.test(text)) {
    throw new UsageError(
      `--resync-rate: ${JSON.stringify(text)} is no rate; use auto, or bytes a second as 20M`,
    );
  }
  const bytes = parseSize(text, '--resync-rate');
  if (bytes < MIN_RESYNC_RATE)
    throw new UsageError(`--resync-rate: ${text} is less than the least, 256K a second`);
  return bytes;
}

function parseGranularity(text: string | undefined): number {
  if (text === undefined) return DIRTY_GRANULARITY_BYTES;
  const bytes = parseSize(text, '--dirty-granularity');
  const isPower = Number.isInteger(Math.log2(bytes));
  if (!isPower || bytes < DIRTY_GRANULARITY_BYTES || bytes > MAX_DIRTY_GRANULARITY_BYTES) {
    throw new UsageError('--dirty-granularity: a power of two from 64K to 16M, such as 256K');
  }
  return bytes;
}

/** A guest takes a disk for broken that does not answer for many seconds, however seldom that is. */
const MAX_DELAY_MS = 1000;
const DEFAULT_MAX_DELAY_MS = 20;

function parseMaxDelay(
  policy: 'degrade' | 'throttle' | undefined,
  text: string | undefined,
): number | undefined {
  if (policy !== 'throttle') {
    if (text === undefined) return undefined;
    throw new UsageError('--max-delay is how long a change may be delayed: add --on-hub-lag throttle');
  }
  if (text === undefined) return DEFAULT_MAX_DELAY_MS;
  const delayMs = parseDurationMs(text, '--max-delay');
  if (delayMs < 1 || delayMs > MAX_DELAY_MS)
    throw new UsageError(`--max-delay: ${text} is out of range; allowed is 1ms to 1s`);
  return delayMs;
}

function parseQueueBytes(text: string | undefined): number {
  if (text === undefined) return DEFAULT_QUEUE_BYTES;
  const bytes = parseSize(text, '--queue-bytes');
  if (bytes < SECTOR_BYTES)
    throw new UsageError(`--queue-bytes: at least ${SECTOR_BYTES} bytes, such as 64M`);
  return bytes;
}
