// This package's own server as the bench starts it: `serve`, and with mirroring a `hub` beside it.

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
import { type Bed, nbdUri, type RunningServer, type ServerKind, until } from '../server.ts';
import { createEmptyImage } from '../workspace.ts';

const SYNC_TIMEOUT_MS = 120_000;

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
  const serve = await startRole(ownProgram(bed), 'serve', [
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
    uri: nbdUri(serve.port, EXPORT, undefined),
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
