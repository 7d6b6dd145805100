// The whole chain as users run it, for a third-party client to talk to: `repagent hub` and `repagent serve` as
// processes, filters in between. At the end the replica must equal the disk, byte for byte.
import { randomFillSync } from 'node:crypto';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OperationError } from '../../src/base/errors.ts';
import { MiB } from '../../src/base/limits.ts';
import { parseControl } from '../../src/cli/parse-address.ts';
import { judge } from '../../src/cli/run/wait.ts';
import { fetchStats, fetchStatus } from '../../src/control/client.ts';
import type { ProcessStatus } from '../../src/control/status.ts';
import { type CliProcess, startHub, startServe } from './cli.ts';
import { runPeerOk } from './peers.ts';
import { waitUntil } from './wait-until.ts';

/** Every request passes these on its way to the mirroring filter; `align` makes any byte range acceptable. */
const FILTERS = ['log', 'stats', 'align'];

export interface RigVolume {
  readonly name: string;
  readonly sizeBytes: number;
  /** What `serve` opens; a new raw image unless given. */
  readonly source?: string;
  /** The disk as `qemu-img compare` can open it, when it is no raw file at `image`. */
  readonly image?: string;
  readonly imageFormat?: 'raw' | 'qcow2';
}

export interface RigOptions {
  readonly volumes: readonly RigVolume[];
  readonly filters?: readonly string[];
  /** More arguments of `serve`. */
  readonly serveArgs?: readonly string[];
}

export interface Rig {
  readonly folder: string;
  readonly serve: CliProcess;
  readonly hub: CliProcess;
  /** nbd://... of an export, or of the default one. */
  uri(name?: string): string;
  /** The disk image behind an export, and the hub's copy of it. */
  image(name: string): string;
  replica(name: string): string;
  /** Waits until every volume is protected and everything is acknowledged; compares. Everything keeps running. */
  settle(): Promise<void>;
  /** settle(), then stops both processes as an operator would, and compares again. */
  finish(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** A folder for one test file's images, on the disk that holds the temporary files. */
export function makeFolder(): { path: string; [Symbol.dispose](): void } {
  const path = mkdtempSync(join(tmpdir(), 'repagent-interop-'));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

/** A file of `sizeBytes`: random data in the runs [from, to) of MiB given, holes elsewhere. */
export function makeImage(
  path: string,
  sizeBytes: number,
  dataRuns: ReadonlyArray<readonly [number, number]>,
): void {
  const file = openSync(path, 'w');
  ftruncateSync(file, sizeBytes);
  const block = Buffer.allocUnsafe(MiB);
  for (const [from, to] of dataRuns) {
    for (let at = from * MiB; at < to * MiB; at += MiB) {
      randomFillSync(block);
      writeSync(file, block, 0, Math.min(MiB, sizeBytes - at), at);
    }
  }
  closeSync(file);
}

/** Starts hub and agent. The hub's images begin full of junk: what the initial sync leaves out would show. */
export async function startRig(options: RigOptions): Promise<Rig> {
  const folder = makeFolder();
  const imageOf = (name: string): string => join(folder.path, `${name}.img`);
  const replicaOf = (name: string): string => join(folder.path, `${name}.replica`);
  const started: CliProcess[] = [];

  async function dispose(): Promise<void> {
    for (const process of started.reverse()) await process.kill();
    folder[Symbol.dispose]();
  }

  try {
    for (const volume of options.volumes) {
      makeImage(replicaOf(volume.name), volume.sizeBytes, [[0, Math.ceil(volume.sizeBytes / MiB)]]);
      if (volume.source === undefined) makeImage(imageOf(volume.name), volume.sizeBytes, []);
    }
    const hub = await startHub([
      ...options.volumes.map(({ name }) => `${name}=${replicaOf(name)}`),
      ...['--state-dir', join(folder.path, 'hub-state')],
    ]);
    started.push(hub);
    const serve = await startServe([
      ...options.volumes.map(({ name, source }) => `${name}=${source ?? imageOf(name)}`),
      ...['--hub', `127.0.0.1:${hub.port}`],
      ...(options.filters ?? FILTERS).flatMap((filter) => ['--filter', filter]),
      ...(options.serveArgs ?? []),
    ]);
    started.push(serve);
    return assemble(options.volumes, folder.path, serve, hub, imageOf, replicaOf, dispose);
  } catch (error) {
    await dispose();
    throw error;
  }
}

function assemble(
  volumes: readonly RigVolume[],
  folder: string,
  serve: CliProcess,
  hub: CliProcess,
  imageOf: (name: string) => string,
  replicaOf: (name: string) => string,
  dispose: () => Promise<void>,
): Rig {
  async function compare(afterStop: boolean): Promise<void> {
    for (const { name, image, imageFormat = 'raw' } of volumes) {
      if (imageFormat === 'raw') {
        await runPeerOk('cmp', [image ?? imageOf(name), replicaOf(name)]);
      } else if (afterStop) {
        await runPeerOk('qemu-img', ['compare', '-f', imageFormat, '-F', 'raw', image!, replicaOf(name)]);
      }
    }
  }

  async function settle(): Promise<void> {
    try {
      for (const { name } of volumes) await reachProtected(serve, name);
      await waitUntil(async () => isSettled(await readStatus(serve), volumes.length), {
        what: 'everything written to be acknowledged by the hub',
        timeoutMs: 30_000,
        intervalMs: 100,
      });
      await compare(false);
    } catch (error) {
      throw new Error(`${String(error)}\nagent's log:\n${tail(serve)}\nhub's log:\n${tail(hub)}`, {
        cause: error,
      });
    }
  }

  async function finish(): Promise<void> {
    await settle();
    for (const process of [serve, hub]) {
      const exit = await process.stop();
      if (exit.code !== 0)
        throw new Error(`SIGTERM ended it with ${exit.code ?? exit.signal}:\n${tail(process)}`);
    }
    await compare(true);
  }

  return {
    folder,
    serve,
    hub,
    uri: (name = '') => `nbd://127.0.0.1:${serve.port}/${name}`,
    image: imageOf,
    replica: replicaOf,
    settle,
    finish,
    [Symbol.asyncDispose]: dispose,
  };
}

/** Waits for one volume, or for all, at one hub or at every one: what `repagent wait` does, without a process for it. */
export async function waitReached(
  process: CliProcess,
  { volume, hub, timeoutS = 40 }: { volume?: string; hub?: string; timeoutS?: number } = {},
): Promise<void> {
  let why = 'nobody was asked';
  const isReached = async (): Promise<boolean> => {
    try {
      const judged = judge(await readStatus(process), 'protected', volume, hub);
      if (judged === 'reached') return true;
      why = judged.why;
    } catch (error) {
      if (!(error instanceof OperationError)) throw error;
      why = error.message;
    }
    return false;
  };
  try {
    await waitUntil(isReached, { what: 'protected', timeoutMs: timeoutS * 1000, intervalMs: 20 });
  } catch (error) {
    throw new Error(`not protected after ${timeoutS} s: ${why}`, { cause: error });
  }
}

/** Waits until a volume is protected. */
export function reachProtected(process: CliProcess, volume: string): Promise<void> {
  return waitReached(process, { volume, timeoutS: 60 });
}

/** What `repagent status --json` prints, without a process for it. */
export function readStatus(process: CliProcess): Promise<ProcessStatus> {
  return fetchStatus(parseControl(process.control));
}

/** What a process tells at `/stats`. */
export function readStats(process: CliProcess): Promise<unknown> {
  return fetchStats(parseControl(process.control));
}

/** Bytes that the agent's hub had read from its disks since the agent began. */
export async function remoteReadBytes(agent: CliProcess): Promise<number> {
  const stats = (await readStats(agent)) as { agent: { remoteReadBytes: number } };
  return stats.agent.remoteReadBytes;
}

/** Waits until all volumes of a process are protected. */
export function waitProtected(process: CliProcess, timeoutS = 40): Promise<void> {
  return waitReached(process, { timeoutS });
}

/** Whether the hub has everything, durably. */
export function isSettled(status: ProcessStatus, volumes: number): boolean {
  return (
    status.volumes.length === volumes &&
    status.volumes.every(
      (volume) =>
        volume.state === 'protected' && volume.queuedBytes === 0 && volume.sequence === volume.ackedSequence,
    )
  );
}

function tail(process: CliProcess): string {
  return process.logs().slice(-4000);
}
