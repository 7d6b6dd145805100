// `repagent hub`: its options and what they mean. The body is in run/hub.ts.
import { resolve } from 'node:path';
import { UsageError } from '../../base/errors.ts';
import type { LogLevel } from '../../base/log.ts';
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
import { hubStateDir } from '../parse-values.ts';
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
    control: raw.control === undefined ? undefined : parseControl(raw.control),
    once: raw.once ?? false,
    logLevel: raw['log-level'] ?? 'info',
  };
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
    ['hub disk=replica.img --once', 'for scripts: ends when the agent has shut down after a full copy'],
  ],
  configFile: true,
  run: async (raw) => {
    const config = resolveHub(raw);
    const { runHub } = await import('../run/hub.ts');
    return runHub(config);
  },
});
