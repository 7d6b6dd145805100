// Other people's NBD servers, each with the settings that its own documentation would have one use for this.
import { readFileSync, writeFileSync } from 'node:fs';
import { OperationError } from '../../base/errors.ts';
import type { Child } from '../children.ts';
import { cpuSecondsOf } from '../process-usage.ts';
import {
  type Bed,
  freePort,
  type ListensAt,
  nbdUri,
  onlyImage,
  type RunningServer,
  type ServerKind,
  socketTarget,
  until,
  untilAccepts,
} from '../server.ts';

const LOOPBACK = '127.0.0.1';
const DAEMON_TIMEOUT_MS = 10_000;

export const nbdkit: ServerKind = {
  name: 'nbdkit',
  role: 'peer',
  describe: 'nbdkit with its file plugin; a chain of its nofilter filter; a process for each image',
  programs: { nbdkit: 'nbdkit' },
  versionArgs: ['--version'],
  suits: (cell) => !cell.mirror,
  start: (bed) =>
    listening(bed, 'nbdkit', (at, image) => [
      ...['--foreground', '--exit-with-parent'],
      ...(typeof at === 'string' ? ['--unix', at] : ['--ipaddr', LOOPBACK, '--port', String(at)]),
      ...(bed.tlsDir === undefined ? [] : ['--tls', 'require', `--tls-certificates=${bed.tlsDir}`]),
      ...Array.from({ length: bed.cell.chain }, () => '--filter=nofilter'),
      ...['file', image],
    ]),
};

export const qemuNbd: ServerKind = {
  name: 'qemu-nbd',
  role: 'peer',
  describe: 'qemu-nbd on the raw image, cache=writeback',
  programs: { 'qemu-nbd': 'qemu-utils' },
  versionArgs: ['--version'],
  suits: (cell) => !cell.mirror && cell.chain === 0 && cell.workers === 0,
  start: (bed) =>
    listening(bed, 'qemu-nbd', (at, image) => [
      ...['--format', 'raw', '--cache', 'writeback', '--discard', 'unmap', '--persistent', '--shared', '0'],
      ...(typeof at === 'string' ? ['--socket', at] : ['--bind', LOOPBACK, '--port', String(at)]),
      ...['--export-name', 'disk'],
      ...(bed.tlsDir === undefined
        ? []
        : [
            '--object',
            `tls-creds-x509,id=t,endpoint=server,dir=${bed.tlsDir},verify-peer=off`,
            '--tls-creds',
            't',
          ]),
      image,
    ]),
};

export const nbdServer: ServerKind = {
  name: 'nbd-server',
  role: 'peer',
  describe: 'the reference server of the NBD project, a process per connection',
  programs: { 'nbd-server': 'nbd-server' },
  versionArgs: ['--version'],
  suits: (cell) => !cell.mirror && cell.chain === 0 && cell.workers === 0,
  start: startNbdServer,
};

async function listening(
  bed: Bed,
  program: string,
  args: (at: ListensAt, image: string) => readonly string[],
): Promise<RunningServer> {
  const running: Array<{ readonly child: Child; readonly uri: string }> = [];
  for (const [index, image] of bed.images(program).entries()) {
    const at = bed.cell.unix ? bed.scratch(`${program}${index}.sock`) : await freePort();
    const child = bed.children.start(program, args(at, image));
    await untilAccepts(program, socketTarget(at), child);
    running.push({ child, uri: nbdUri(at, 'disk', bed.cell.tls) });
  }
  return {
    pids: running.map(({ child }) => child.pid),
    uris: running.map(({ uri }) => uri),
    stop: async () => {
      for (const { child } of running) await child.stop();
    },
  };
}

/** It serves several clients only as a daemon, which is ended by the pid that it writes down. */
async function startNbdServer(bed: Bed): Promise<RunningServer> {
  const port = await freePort();
  const [config, pidFile] = [bed.scratch('nbd-server.conf'), bed.scratch('nbd-server.pid')];
  const socket = bed.scratch('nbd-server.sock');
  writeFileSync(config, nbdServerConfig(bed, port, socket));
  const starter: Child = bed.children.start('nbd-server', ['-C', config, '-p', pidFile]);
  const exit = await starter.exited;
  if (exit.code !== 0) throw new OperationError(`nbd-server did not start: ${starter.tail()}`);
  await until('nbd-server writes its pid', async () => readPid(pidFile) !== undefined, DAEMON_TIMEOUT_MS);
  const pid = readPid(pidFile)!;
  const withdraw = bed.children.onKill(() => signal(pid, 'SIGKILL'));
  // With a unix socket it listens there only.
  const at = bed.cell.unix ? socket : port;
  await untilAccepts('nbd-server', socketTarget(at), { ...starter, hasExited: false });
  return {
    pids: [pid],
    uris: [nbdUri(at, 'disk', bed.cell.tls)],
    // The process of a connection hands its CPU time to the daemon when it ends.
    settle: async () => void cpuSecondsOf([pid]),
    stop: async () => {
      signal(pid, 'SIGTERM');
      await until('nbd-server ends', async () => !signal(pid, 0), DAEMON_TIMEOUT_MS).catch(() =>
        signal(pid, 'SIGKILL'),
      );
      withdraw();
    },
  };
}

function nbdServerConfig(bed: Bed, port: number, socket: string): string {
  const tls = bed.tlsDir;
  const tlsLines = ['cacertfile', 'certfile', 'keyfile'].map(
    (key, i) => `${key} = ${tls}/${['ca-cert', 'server-cert', 'server-key'][i]}.pem`,
  );
  const lines = [
    ...['[generic]', `listenaddr = ${LOOPBACK}`, `port = ${port}`],
    ...(bed.cell.unix ? [`unixsock = ${socket}`] : []),
    ...(tls === undefined ? [] : [...tlsLines, 'force_tls = true']),
    ...[
      '[disk]',
      `exportname = ${onlyImage(bed, 'nbd-server')}`,
      'flush = true',
      'fua = true',
      'trim = true',
    ],
  ];
  return `${lines.join('\n')}\n`;
}

function readPid(file: string): number | undefined {
  try {
    const pid = Number(readFileSync(file, 'utf8'));
    return pid > 1 ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** @returns whether there is such a process */
function signal(pid: number, name: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, name);
    return true;
  } catch {
    return false;
  }
}
