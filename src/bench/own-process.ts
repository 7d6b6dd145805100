// This package's own processes as the bench starts them: the command line program, with a runtime directory of its own.
import { OperationError } from '../base/errors.ts';
import { fileDigest } from '../base/file-digest.ts';
import { fetchStatus } from '../control/client.ts';
import { ownSocketPath } from '../control/runtime-dir.ts';
import type { VolumeStatus } from '../control/status.ts';
import type { Child, Children } from './children.ts';

const START_TIMEOUT_MS = 30_000;

export interface OwnProgram {
  readonly children: Children;
  /** The command line program of this package. */
  readonly program: string;
  /** Where control sockets go; a short path. */
  readonly runDir: string;
}

export interface OwnProcess {
  readonly child: Child;
  /** Where it listens on loopback. */
  readonly port: number;
}

/** @throws OperationError with its last words when it doesn't start */
export async function startRole(
  own: OwnProgram,
  role: 'serve' | 'hub',
  args: readonly string[],
): Promise<OwnProcess> {
  const options = ['--log-level', 'warn'];
  const child = own.children.start(process.execPath, [own.program, role, ...args, ...options], {
    env: { REPAGENT_RUNTIME_DIR: own.runDir },
  });
  const line = await child.firstLine(START_TIMEOUT_MS);
  const port = Number(/:(\d+)(?:\/|\s|$)/.exec(line)?.[1]);
  if (!(port > 0)) throw new OperationError(`repagent ${role} did not say where it listens: ${line}`);
  return { child, port };
}

/** Starts a hub. @param replicas as on its command line @param port where it listens; 0: anywhere @throws OperationError */
export function startHub(
  own: OwnProgram,
  { replicas, stateDir, port = 0 }: { replicas: readonly string[]; stateDir: string; port?: number },
): Promise<OwnProcess> {
  return startRole(own, 'hub', [...replicas, ...['--listen', `127.0.0.1:${port}`, '--state-dir', stateDir]]);
}

/** Starts a server of images, of which a hub has replicas. @param images as on its command line @throws OperationError */
export function startMirrored(
  own: OwnProgram,
  { images, stateDir, hubPort }: { images: readonly string[]; stateDir: string; hubPort: number },
): Promise<OwnProcess> {
  return startRole(own, 'serve', [
    ...[...images, '--listen', '127.0.0.1:0', '--hub', `127.0.0.1:${hubPort}`],
    ...['--vm-name', 'bench', '--state-dir', stateDir],
  ]);
}

/** What a process that was started with {@link startRole} says of its volumes. @throws OperationError */
export async function volumesOf(
  own: OwnProgram,
  role: 'serve' | 'hub',
  pid: number,
): Promise<readonly VolumeStatus[]> {
  return (await fetchStatus({ kind: 'unix', path: ownSocketPath(own.runDir, role, pid) })).volumes;
}

/** The same of its only one. @throws OperationError */
export async function onlyVolume(own: OwnProgram, role: 'serve' | 'hub', pid: number): Promise<VolumeStatus> {
  const [volume] = await volumesOf(own, role, pid);
  if (volume === undefined) throw new OperationError(`repagent ${role} has no volume`);
  return volume;
}

/** Whether the replica has everything that was written, durably. */
export function isCaughtUp({ state, sequence, ackedSequence, dirtyBytes }: VolumeStatus): boolean {
  return state === 'protected' && sequence === ackedSequence && dirtyBytes === 0;
}

/** @throws OperationError when the copy is none */
export async function compare(name: string, image: string, replica: string): Promise<void> {
  const [one, other] = [await fileDigest(image), await fileDigest(replica)];
  if (one !== other) throw new OperationError(`${name}: the replica differs from the disk after the run`);
}
