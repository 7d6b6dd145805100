// This package's own server as the bench starts it: `serve`, and with mirroring a `hub` beside it. Several images are
// served by one process with workers; what they gain is seen beside the same without them.
import { EXPORT } from '../mirror-settings.ts';
import {
  compare,
  isCaughtUp,
  type OwnProgram,
  onlyVolume,
  startHub,
  startMirrored,
  startRole,
} from '../own-process.ts';
import {
  type Bed,
  exportName,
  nbdUri,
  onlyImage,
  type RunningServer,
  type ServerKind,
  until,
} from '../server.ts';
import { createEmptyImage } from '../workspace.ts';

const SYNC_TIMEOUT_MS = 120_000;

/** Filters that touch every request and change nothing. */
const PASS_THROUGH = ['stats', 'offset', 'error,rate=0'] as const;

export const repagent: ServerKind = {
  name: 'repagent',
  role: 'subject',
  describe: 'this server; with mirroring serve and hub, two processes; with -w2 two images and --workers 2',
  programs: {},
  versionArgs: [],
  suits: () => true,
  start: (bed) => (bed.cell.mirror ? startMirror(bed) : startPlain(bed, repagent.name, bed.cell.workers)),
};

export const singleProcess: ServerKind = {
  name: 'one-process',
  role: 'peer',
  describe: 'this server without --workers: all images in one process',
  programs: {},
  versionArgs: [],
  suits: (cell) => cell.workers > 0,
  start: (bed) => startPlain(bed, singleProcess.name, 0),
};

async function startPlain(bed: Bed, name: string, workers: number): Promise<RunningServer> {
  const tls = bed.tlsDir === undefined ? [] : ['--tls', 'require', '--tls-dir', bed.tlsDir];
  const filters = Array.from({ length: bed.cell.chain }, (_, i) => [
    '--filter',
    PASS_THROUGH[i % PASS_THROUGH.length]!,
  ]);
  const images = bed.images(name);
  const path = bed.cell.unix ? bed.scratch(`${name}.sock`) : undefined;
  const serve = await startRole(ownProgram(bed), 'serve', [
    ...images.map((image, i) => `${exportName(i)}=${image}`),
    ...['--listen', '127.0.0.1:0', ...(path === undefined ? [] : ['--listen', `unix:${path}`])],
    ...[...tls, ...filters.flat()],
    ...(workers === 0 ? [] : ['--workers', String(workers)]),
  ]);
  return {
    pids: [serve.child.pid],
    uris: images.map((_, i) => nbdUri(path ?? serve.port, exportName(i), bed.cell.tls)),
    stop: () => serve.child.stop(),
  };
}

async function startMirror(bed: Bed): Promise<RunningServer> {
  const [image, replica] = [onlyImage(bed, repagent.name), bed.replica(repagent.name)];
  createEmptyImage(replica, bed.sizeBytes);
  const own = ownProgram(bed);
  const hub = await startHub(own, { replicas: [`${EXPORT}=${replica}`], stateDir: bed.scratch('hub-state') });
  const stateDir = bed.scratch('agent-state');
  const serve = await startMirrored(own, { images: [`${EXPORT}=${image}`], stateDir, hubPort: hub.port });
  const hasCaughtUp = async (): Promise<boolean> =>
    isCaughtUp(await onlyVolume(own, 'serve', serve.child.pid));
  const settle = (): Promise<void> => until('repagent: the replica follows', hasCaughtUp, SYNC_TIMEOUT_MS);
  await settle();
  return {
    pids: [serve.child.pid, hub.child.pid],
    uris: [nbdUri(serve.port, EXPORT)],
    settle,
    check: () => compare(repagent.name, image, replica),
    stop: async () => {
      await serve.child.stop();
      await hub.child.stop();
    },
  };
}

function ownProgram({ children, program, scratch }: Bed): OwnProgram {
  return { children, program, runDir: scratch('run') };
}
