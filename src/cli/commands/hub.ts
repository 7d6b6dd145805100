// `repagent hub`: its options and what they mean. The body is in run/hub.ts.
import { resolve } from 'node:path';
import { UsageError } from '../../base/errors.ts';
import { KiB, MiB } from '../../base/limits.ts';
import type { LogLevel } from '../../base/log.ts';
import { parseSize } from '../../base/size.ts';
import type { ControlAddress } from '../../control/address.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable, RawOptions } from '../option-table.ts';
import {
  checkExposure,
  DEFAULT_HUB_LISTEN,
  type HostPort,
  parseControl,
  parseHostPort,
} from '../parse-address.ts';
import { type NamedSource, parsePairs } from '../parse-image.ts';
import { hubStateDir, parsePositiveTimeout } from '../parse-values.ts';
import { insecureOption, listenControlOption, logLevelOption } from './shared-options.ts';

export const HUB_OPTIONS = {
  volume: {
    type: 'text',
    repeatable: true,
    positional: 'NAME=PATH',
    describe: 'pairs the volume NAME with an existing recovery image',
  },
  listen: { type: 'text', describe: 'where agents dial: HOST:PORT', fallback: DEFAULT_HUB_LISTEN },
  store: { type: 'text', describe: 'keep replicas of every volume that agents report under this directory' },
  'state-dir': {
    type: 'text',
    describe: 'durable records of this hub',
    fallback: "repagent/hub in the user's state folder",
  },
  'verify-every': {
    type: 'text',
    describe: 'compare each replica with its volume so often, while both are in use: 24h, 168h',
    fallback: 'only when asked to',
  },
  'verify-rate': {
    type: 'text',
    describe: 'bytes a second that such a comparison reads of a volume at most',
    fallback: '32M',
  },
  'on-difference': {
    type: 'text',
    describe:
      'what is done about ranges that differ: resync: read them anew from the agent; report: only tell',
    choices: ['resync', 'report'],
    fallback: 'resync',
  },
  'undo-bytes': {
    type: 'text',
    describe:
      'most bytes that are kept, while a replica is overwritten, to go back to its last consistent state (`repagent recover`), for each volume; 0 keeps none',
    fallback: "twice the volume's size, which it never reaches",
  },
  'undo-full': {
    type: 'text',
    choices: ['hold', 'release'],
    describe:
      'when there is no room for it; hold: the replica stays at that state until there is, release: it is synchronised without a way back',
    fallback: 'hold',
  },
  'tls-dir': {
    type: 'text',
    describe:
      'let in only agents with a certificate: directory of ca-cert.pem, server-cert.pem, server-key.pem',
  },
  'tls-any-name': {
    type: 'flag',
    describe: 'let an agent replicate any machine, not only those that its certificate names',
  },
  control: listenControlOption,
  once: {
    type: 'flag',
    describe: 'exit 0 once every volume was replicated and its agent shut down gracefully',
  },
  'log-level': logLevelOption,
  insecure: insecureOption,
} as const satisfies OptionTable;

export interface HubConfig {
  readonly pairs: readonly NamedSource[];
  readonly storeDir: string | undefined;
  readonly listen: HostPort;
  readonly stateDir: string;
  /** Absolute; undefined: no TLS. */
  readonly tlsDir: string | undefined;
  readonly tlsAnyName: boolean;
  /** Undefined: only when asked to. */
  readonly verify:
    | {
        readonly everyMs: number;
        readonly bytesPerSecond: number;
        readonly onDifference: 'resync' | 'report';
      }
    | undefined;
  readonly undo: { readonly maxBytes: number | undefined; readonly whenFull: 'hold' | 'release' };
  readonly control: ControlAddress | undefined;
  readonly once: boolean;
  readonly logLevel: LogLevel;
}

/** Gives the options their meaning. @throws UsageError */
export function resolveHub(raw: RawOptions<typeof HUB_OPTIONS>): HubConfig {
  const pairs = parsePairs(raw.volume ?? []);
  if (pairs.length === 0 && raw.store === undefined) {
    throw new UsageError(
      'say where replicas are kept: repagent hub NAME=PATH for each volume, or --store DIR for all',
    );
  }
  const listen = parseHostPort(raw.listen ?? DEFAULT_HUB_LISTEN, '--listen');
  const tlsDir = raw['tls-dir'];
  const tlsAnyName = raw['tls-any-name'] ?? false;
  if (tlsAnyName && tlsDir === undefined) {
    throw new UsageError('--tls-any-name is about the names in certificates: add --tls-dir DIR');
  }
  const accepted = (raw.insecure ?? false) || tlsDir !== undefined;
  checkExposure([{ kind: 'tcp', ...listen }], accepted, "agents' connections", 'demand TLS with --tls-dir');
  return {
    pairs,
    storeDir: raw.store === undefined ? undefined : resolve(raw.store),
    listen,
    stateDir: hubStateDir(raw['state-dir']),
    tlsDir: tlsDir === undefined ? undefined : resolve(tlsDir),
    tlsAnyName,
    verify: parseVerify(raw),
    undo: { maxBytes: parseUndoBytes(raw['undo-bytes']), whenFull: raw['undo-full'] ?? 'hold' },
    control: raw.control === undefined ? undefined : parseControl(raw.control),
    once: raw.once ?? false,
    logLevel: raw['log-level'] ?? 'info',
  };
}

const DEFAULT_VERIFY_RATE = 32 * MiB;

/** At less, one range of 256 KiB would take longer than four seconds. */
const MIN_VERIFY_RATE = 64 * KiB;

function parseVerify(raw: RawOptions<typeof HUB_OPTIONS>): HubConfig['verify'] {
  const everyMs = parsePositiveTimeout(raw['verify-every'], '--verify-every');
  const rate = raw['verify-rate'];
  const onDifference = raw['on-difference'];
  if (everyMs === undefined) {
    if (rate === undefined && onDifference === undefined) return undefined;
    const option = rate === undefined ? '--on-difference' : '--verify-rate';
    throw new UsageError(`${option} is about scheduled verifications: add --verify-every DURATION`);
  }
  const bytesPerSecond = rate === undefined ? DEFAULT_VERIFY_RATE : parseSize(rate, '--verify-rate');
  if (bytesPerSecond < MIN_VERIFY_RATE) {
    throw new UsageError(`--verify-rate: ${rate} is less than the least, 64K a second`);
  }
  return { everyMs, bytesPerSecond, onDifference: onDifference ?? 'resync' };
}

/** That less than one batch fits in would only show at the worst moment. */
const MIN_UNDO_BYTES = 2 * MiB;

function parseUndoBytes(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const bytes = parseSize(text, '--undo-bytes');
  if (bytes === 0 || bytes >= MIN_UNDO_BYTES) return bytes;
  throw new UsageError(`--undo-bytes: ${text} holds nothing; use 0 for none, or at least 2M`);
}

export const hubCommand = defineCommand({
  name: 'hub',
  describe: 'Accept agents and keep a replica of each volume',
  options: HUB_OPTIONS,
  examples: [
    ['hub disk=replica.img', 'keeps a replica of the volume `disk`, listening on 127.0.0.1:9010'],
    ['hub --store /srv/replicas', 'keeps every reported volume as /srv/replicas/VM/VOLUME'],
    [
      'hub --store /srv/replicas --listen 0.0.0.0:9010 --tls-dir /etc/repagent/tls',
      'for agents on other machines, which prove who they are; see docs/TLS.md',
    ],
    [
      'hub disk=replica.img --listen 0.0.0.0:9010 --insecure',
      'for agents on other machines, in a trusted network',
    ],
    [
      'hub --store /srv/replicas --verify-every 168h --on-difference report',
      'compares every replica once a week, and only tells what differs',
    ],
    ['hub disk=replica.img --once', 'for scripts: ends when the agent has shut down after a full copy'],
  ],
  configFile: true,
  run: async (raw) => {
    const config = resolveHub(raw);
    const { runHub } = await import('../run/hub.ts');
    return runHub(config);
  },
});
