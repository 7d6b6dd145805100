// `repagent serve`: its options and what they mean. The body is in run/serve.ts.
import { UsageError } from '../../base/errors.ts';
import { SECTOR_BYTES } from '../../base/limits.ts';
import type { LogLevel } from '../../base/log.ts';
import { parseSize } from '../../base/size.ts';
import type { ControlAddress } from '../../control/address.ts';
import type { SocketPermissions } from '../../nbd/socket-file.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable, RawOptions } from '../option-table.ts';
import { DEFAULT_NBD_LISTEN, type ListenAddress, parseControl, parseListen } from '../parse-address.ts';
import { type ExportSettings, parseExports } from '../parse-export.ts';
import { isNbdUri, type NamedSource, parseImages } from '../parse-image.ts';
import { parseReplication, type ReplicationConfig } from '../parse-replication.ts';
import { parseSocketPermissions } from '../parse-socket.ts';
import { checkNbdExposure, checkTlsRules, parseTls, TLS_OPTIONS, type TlsConfig } from '../parse-tls.ts';
import { agentStateDir, parseCount, parsePositiveTimeout, parseVmName } from '../parse-values.ts';
import { parseWorkers } from '../parse-workers.ts';
import { insecureOption, listenControlOption, logLevelOption } from './shared-options.ts';

export const SERVE_OPTIONS = {
  image: {
    type: 'text',
    repeatable: true,
    positional: 'IMAGE',
    describe: 'PATH, NAME=PATH or NAME=nbd://HOST/EXPORT; the first is also the default export',
  },
  format: {
    type: 'text',
    describe: 'image format: raw, or one that a local qemu-nbd opens (qcow2, vmdk, vhdx...)',
    fallback: 'raw',
  },
  create: { type: 'text', describe: 'create a missing raw image, sparse, of this size (64M, 20G)' },
  listen: {
    type: 'text',
    repeatable: true,
    describe: 'NBD address, repeatable: HOST:PORT, [IPV6]:PORT or unix:PATH',
    fallback: `${DEFAULT_NBD_LISTEN}, or the sockets that systemd passes`,
  },
  stdio: {
    type: 'flag',
    describe:
      'serve one client on standard input and output, and end when it leaves; the log goes to standard error',
  },
  'socket-mode': {
    type: 'text',
    describe: 'permissions of unix sockets, such as 0660',
    fallback: 'by the umask',
  },
  'socket-owner': {
    type: 'text',
    describe: 'USER, USER:GROUP or :GROUP that unix sockets belong to',
    fallback: 'whoever runs this',
  },
  hub: {
    type: 'text',
    repeatable: true,
    alias: 'repagent',
    describe: 'replicate to this hub, repeatable: HOST[:PORT], or NAME=HOST[:PORT] to call it so',
    fallback: 'none: a plain NBD server',
  },
  'hub-tls-dir': {
    type: 'text',
    describe:
      'encrypt the link to the hub, with proof on both sides: directory of ca-cert.pem, client-cert.pem, client-key.pem',
  },
  'hub-tls-name': {
    type: 'text',
    describe: 'the name that the certificate of every hub must be for',
    fallback: 'the host in each --hub',
  },
  'hub-bandwidth': {
    type: 'text',
    describe:
      "bytes a second that are sent to each hub at most: 20M, or by local time 'mon-fri 08:00-18:00 20M, sat+sun 50M, else unlimited'",
    fallback: 'unlimited',
  },
  'hub-compress': {
    type: 'text',
    describe:
      'compress what is sent to each hub; auto: only while a slow link or --hub-bandwidth is what everything waits for',
    choices: ['off', 'auto', 'always'],
    fallback: 'off',
  },
  'vm-name': { type: 'text', describe: 'how the hub shows this machine', fallback: 'the host name' },
  filter: {
    type: 'text',
    repeatable: true,
    describe: 'name,key=value,... repeatable, outermost first; `repagent filters` lists them',
  },
  export: {
    type: 'text',
    repeatable: true,
    describe:
      'NAME,key=value,... for one image, repeatable: read-only, hidden, rotational, description=TEXT, worker=NUMBER, allow=NETWORK+..., allow-cert=NAME+..., allow-psk=USER+...',
  },
  allow: {
    type: 'text',
    repeatable: true,
    describe:
      'who may use exports without an allow of their own: addresses and NETWORK/PREFIX joined by +, unix for local sockets',
    fallback: 'everybody who can connect',
  },
  ...TLS_OPTIONS,
  control: listenControlOption,
  'read-only': { type: 'flag', describe: 'refuse writes' },
  oldstyle: {
    type: 'flag',
    describe: 'speak as before NBD had options, for clients of 2012: the first image only',
  },
  'upstream-connections': {
    type: 'text',
    describe: 'connections to each nbd:// image whose server allows several',
    fallback: '1',
  },
  workers: {
    type: 'text',
    describe:
      'processes that the images are spread over, each with its own clients, hub links and share of the limits',
    fallback: '1: all in this process',
  },
  'max-connections': {
    type: 'text',
    describe: 'NBD connections at a time',
    fallback: '1024, or two for each image where that is more',
  },
  'max-connections-per-address': {
    type: 'text',
    describe: 'the same for each client address (IPv6: each /64)',
    fallback: '512, or two for each image where that is more',
  },
  'handshake-timeout': {
    type: 'text',
    describe: 'time for a client to choose an export: seconds, or 500ms, 2m',
    fallback: '10',
  },
  'idle-timeout': {
    type: 'text',
    describe: 'send a client away that neither asks nor is answered for so long: seconds, or 10m, 1h',
    fallback: 'never',
  },
  'queue-bytes': {
    type: 'text',
    describe: 'memory for changes that wait for each hub; beyond it they are only marked dirty',
    fallback: '64M',
  },
  'on-hub-lag': {
    type: 'text',
    describe:
      "what happens while that memory fills; degrade: nothing until it is full; throttle: guests' changes are delayed, a bounded time each, and it degrades only if that is not enough",
    choices: ['degrade', 'throttle'],
    fallback: 'degrade',
  },
  'resync-rate': {
    type: 'text',
    describe:
      'bytes a second that are read of the disks for syncs and verifications at most, all hubs together: 20M; auto gives way to guests instead',
    fallback: 'auto',
  },
  'max-delay': {
    type: 'text',
    describe: 'the longest that throttle may delay a change, from 1ms to 1s',
    fallback: '20ms',
  },
  'state-dir': {
    type: 'text',
    describe: 'durable records of this agent; no two agents may share it',
    fallback: "one of its own in the user's state folder",
  },
  'dirty-granularity': {
    type: 'text',
    describe: 'bytes of disk that one bit of the kept dirty map stands for, a power of two from 64K to 16M',
    fallback: '64K',
  },
  'dirty-sync': {
    type: 'text',
    describe:
      'when bits of the dirty map are made durable; always: ahead of their data, exact after a power failure',
    choices: ['lazy', 'always'],
    fallback: 'lazy',
  },
  'log-level': logLevelOption,
  insecure: insecureOption,
} as const satisfies OptionTable;

export interface ServeConfig extends ReplicationConfig {
  readonly images: readonly NamedSource[];
  readonly format: string;
  /** Size for a missing image, bytes; undefined refuses one. */
  readonly createSizeBytes: number | undefined;
  /** Empty when nothing was asked for. */
  readonly listen: readonly ListenAddress[];
  /** One client on standard input and output, and no listener. */
  readonly stdio: boolean;
  /** Of every unix socket of `listen`. */
  readonly socketPermissions: SocketPermissions | undefined;
  readonly vmName: string;
  readonly filters: readonly string[];
  /** One for every image, by name. */
  readonly exports: ReadonlyMap<string, ExportSettings>;
  readonly tls: TlsConfig;
  readonly control: ControlAddress | undefined;
  readonly oldstyle: boolean;
  /** For each worker the names of its images; of one alone there is no worker but this process. */
  readonly placement: readonly (readonly string[])[];
  readonly upstreamConnections: number | undefined;
  readonly maxConnections: number | undefined;
  readonly maxConnectionsPerAddress: number | undefined;
  readonly handshakeTimeoutMs: number | undefined;
  readonly idleTimeoutMs: number | undefined;
  readonly stateDir: string;
  readonly logLevel: LogLevel;
  readonly insecure: boolean;
}

/** Most connections to one upstream server. */
const MAX_UPSTREAM_CONNECTIONS = 16;

const MAX_CONNECTIONS_LIMIT = 65_536;

/** Gives the options their meaning. @throws UsageError */
export function resolveServe(raw: RawOptions<typeof SERVE_OPTIONS>): ServeConfig {
  const images = parseImages(raw.image ?? []);
  const format = parseFormat(raw.format ?? 'raw');
  const listen = (raw.listen ?? []).map((text) => parseListen(text));
  const vmName = parseVmName(raw['vm-name']);
  const tls = parseTls(raw);
  checkNbdExposure(listen, tls, raw.insecure ?? false);
  const exports = parseExports(
    raw.export ?? [],
    images.map((image) => image.name),
    { allow: raw.allow, readOnly: raw['read-only'] ?? false },
  );
  checkTlsRules(exports, tls);
  const socketPermissions = parseSocketPermissions(raw['socket-mode'], raw['socket-owner']);
  checkListening(listen, raw.stdio ?? false, socketPermissions !== undefined);
  return {
    images,
    format,
    createSizeBytes: parseCreate(raw.create, format, images),
    listen,
    stdio: raw.stdio ?? false,
    socketPermissions,
    ...parseReplication(raw),
    vmName,
    filters: raw.filter ?? [],
    exports,
    tls,
    control: raw.control === undefined ? undefined : parseControl(raw.control),
    oldstyle: raw.oldstyle ?? false,
    placement: parseWorkers(raw, exports),
    upstreamConnections: parseUpstream(raw['upstream-connections'], images),
    maxConnections: parseConnections(raw['max-connections'], '--max-connections'),
    maxConnectionsPerAddress: parseConnections(
      raw['max-connections-per-address'],
      '--max-connections-per-address',
    ),
    handshakeTimeoutMs: parsePositiveTimeout(raw['handshake-timeout'], '--handshake-timeout'),
    idleTimeoutMs: parsePositiveTimeout(raw['idle-timeout'], '--idle-timeout'),
    stateDir: agentStateDir(raw['state-dir'], vmName, images[0]!.source),
    logLevel: raw['log-level'] ?? 'info',
    insecure: raw.insecure ?? false,
  };
}

function checkListening(listen: readonly ListenAddress[], stdio: boolean, hasPermissions: boolean): void {
  if (stdio && listen.length > 0) {
    throw new UsageError('--stdio serves one client and listens nowhere; leave --listen out');
  }
  if (hasPermissions && !listen.some((address) => address.kind === 'unix')) {
    throw new UsageError('--socket-mode and --socket-owner are for unix sockets; add --listen unix:PATH');
  }
}

function parseUpstream(text: string | undefined, images: readonly NamedSource[]): number | undefined {
  if (text === undefined) return undefined;
  if (!images.some((image) => isNbdUri(image.source))) {
    throw new UsageError(
      '--upstream-connections is about images that are NBD servers (nbd://), and none is here',
    );
  }
  return parseCount(text, '--upstream-connections', MAX_UPSTREAM_CONNECTIONS);
}

function parseConnections(text: string | undefined, label: string): number | undefined {
  return text === undefined ? undefined : parseCount(text, label, MAX_CONNECTIONS_LIMIT);
}

function parseFormat(text: string): string {
  if (!/^[a-z0-9_-]{1,32}$/i.test(text)) {
    throw new UsageError(
      `--format: ${JSON.stringify(text)} is no format; use raw, or one of qemu-nbd's such as qcow2`,
    );
  }
  return text;
}

function parseCreate(
  text: string | undefined,
  format: string,
  images: readonly NamedSource[],
): number | undefined {
  if (text === undefined) return undefined;
  const bytes = parseSize(text, '--create');
  if (bytes === 0 || bytes % SECTOR_BYTES !== 0) {
    throw new UsageError(`--create: ${text} is no multiple of ${SECTOR_BYTES} bytes above 0`);
  }
  if (format !== 'raw') {
    throw new UsageError(
      `--create makes raw images only; for ${format} run: qemu-img create -f ${format} FILE ${text}`,
    );
  }
  if (images.every((image) => isNbdUri(image.source))) {
    throw new UsageError('--create makes image files, and every image here is an NBD server');
  }
  return bytes;
}

export const serveCommand = defineCommand({
  name: 'serve',
  describe: 'Expose disk images over NBD, and replicate them when there is a hub',
  options: SERVE_OPTIONS,
  examples: [
    ['serve disk.img', 'an NBD server for one raw image, on 127.0.0.1:10809'],
    ['serve disk.img --hub 192.0.2.7', 'the same, and every change goes to the hub'],
    [
      'serve disk.img --hub 192.0.2.7 --hub-bandwidth "mon-fri 08:00-18:00 20M, else unlimited"',
      'leaves room for others',
    ],
    ['serve disk.img --hub near=192.0.2.7 --hub far=198.51.100.7', 'two hubs, each keeps a replica'],
    ['serve root=a.img data=b.img --listen unix:/run/vm.sock', 'two exports on a unix socket'],
    ['serve vm.qcow2 --format qcow2 --hub 127.0.0.1', 'any format that qemu-nbd opens'],
    ['serve new.img --create 20G --filter log --filter delay,write=5ms', 'a new disk below two filters'],
    [
      'serve disk.img --listen unix:/run/vm.sock --socket-mode 0660 --socket-owner :kvm',
      'for the group kvm of this machine',
    ],
    [
      'serve a.img b.img c.img d.img --workers 2 --hub 192.0.2.7',
      'two processes, each with two of the images',
    ],
    ['serve disk.img --stdio', 'for a program that starts us with a socket or two pipes, as nbdkit -s'],
    ['serve disk.img --export disk,read-only,allow=10.1.0.0/16+unix', 'for some clients, to read only'],
    [
      'serve disk.img --listen 0.0.0.0:10809 --tls-dir /etc/pki/nbd --tls-verify-peer',
      'for other machines, encrypted, and only those with a certificate; see docs/TLS.md',
    ],
    ['serve --config /etc/repagent/vm.yaml', 'everything from a file; options win over it'],
  ],
  configFile: true,
  run: async (raw, reread) => {
    const config = resolveServe(raw);
    const { runServe } = await import('../run/serve.ts');
    return runServe(config, () => resolveServe(reread()), raw);
  },
});
