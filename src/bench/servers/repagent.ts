// This package's own server as the bench starts it: `serve`, and with mirroring a `hub` beside it.
import { OperationError } from '../../base/errors.ts';
import { fileDigest } from '../../base/file-digest.ts';
import { fetchStatus } from '../../control/client.ts';
import { ownSocketPath } from '../../control/runtime-dir.ts';
import type { Child } from '../children.ts';
import { type Bed, nbdUri, type RunningServer, type ServerKind, until } from '../server.ts';
import { createEmptyImage } from '../workspace.ts';

const START_TIMEOUT_MS = 30_000;
const SYNC_TIMEOUT_MS = 120_000;
const EXPORT = 'disk';

/** Filters that touch every request and change nothing. */
const PASS_THROUGH = ['stats', 'offset', 'error,rate=0'] as const;

export const repagent: ServerKind = {
  name: 'repagent',
  role: 'subject',
  describe: 'this server; with mirroring serve and hub, two processes',
  programs: {},
  versionArgs: [],
  suits: () => true,
  start: (bed) => (bed.cell.mirror ? startMirror(bed) : startPlain(bed)),
};

async function startPlain(bed: Bed): Promise<RunningServer> {
  const tls = bed.tlsDir === undefined ? [] : ['--tls', 'require', '--tls-dir', bed.tlsDir];
  const filters = Array.from({ length: bed.cell.chain }, (_, i) => [
    '--filter',
    PASS_THROUGH[i % PASS_THROUGH.length]!,
  ]);
  const serve = await startRole(bed, 'serve', [
    `${EXPORT}=${bed.image(repagent.name)}`,
    ...['--listen', '127.0.0.1:0', ...tls, ...filters.flat()],
  ]);
  return {
    pids: [serve.child.pid],
    uri: nbdUri(serve.port, EXPORT, bed.tlsDir),
    stop: () => serve.child.stop(),
  };
}

async function startMirror(bed: Bed): Promise<RunningServer> {
  const [image, replica] = [bed.image(repagent.name), bed.replica(repagent.name)];
  createEmptyImage(replica, bed.sizeBytes);
  const hub = await startRole(bed, 'hub', [
    `${EXPORT}=${replica}`,
    ...['--listen', '127.0.0.1:0', '--state-dir', bed.scratch('hub-state')],
  ]);
  const serve = await startRole(bed, 'serve', [
    ...[`${EXPORT}=${image}`, '--listen', '127.0.0.1:0', '--hub', `127.0.0.1:${hub.port}`],
    ...['--vm-name', 'bench', '--state-dir', bed.scratch('agent-state')],
  ]);
  const control = {
    kind: 'unix',
    path: ownSocketPath(bed.scratch('run'), 'serve', serve.child.pid),
  } as const;
  const isCaughtUp = async (): Promise<boolean> => {
    const [volume] = (await fetchStatus(control)).volumes;
    return (
      volume?.state === 'protected' && volume.sequence === volume.ackedSequence && volume.dirtyBytes === 0
    );
  };
  const settle = (): Promise<void> => until('repagent: the replica follows', isCaughtUp, SYNC_TIMEOUT_MS);
  await settle();
  return {
    pids: [serve.child.pid, hub.child.pid],
    uri: nbdUri(serve.port, EXPORT, undefined),
    settle,
    check: () => compare(repagent.name, image, replica),
    stop: async () => {
      await serve.child.stop();
      await hub.child.stop();
    },
  };
}

/** @throws OperationError when the copy is none */
export async function compare(name: string, image: string, replica: string): Promise<void> {
  const [one, other] = [await fileDigest(image), await fileDigest(replica)];
  if (one !== other) throw new OperationError(`${name}: the replica differs from the disk after the run`);
}

async function startRole(
  bed: Bed,
  role: 'serve' | 'hub',
  args: readonly string[],
): Promise<{ child: Child; port: number }> {
  const options = ['--log-level', 'warn'];
  const child = bed.children.start(process.execPath, [bed.program, role, ...args, ...options], {
    REPAGENT_RUNTIME_DIR: bed.scratch('run'),
  });
  const line = await child.firstLine(START_TIMEOUT_MS);
  const port = Number(/:(\d+)(?:\/|\s|$)/.exec(line)?.[1]);
  if (!(port > 0)) throw new OperationError(`repagent ${role} did not say where it listens: ${line}`);
  return { child, port };
}
