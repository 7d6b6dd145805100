// The whole chain as users run it, for a third-party client to talk to: `repagent hub` and `repagent serve` as
// processes, filters in between. At the end the replica must equal the disk, byte for byte.
import { randomFillSync } from 'node:crypto';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { parseControl } from '../../src/cli/parse-address.ts';
import { fetchStats } from '../../src/control/client.ts';
import type { ProcessStatus } from '../../src/control/status.ts';
import { type CliProcess, runCli, startHub, startServe } from './cli.ts';
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

/** `repagent wait`, as a script would use it. */
export async function reachProtected(process: CliProcess, volume: string): Promise<void> {
  const args = [
    'wait',
    '--state',
    'protected',
    '--volume',
    volume,
    '--timeout',
    '60',
    '--control',
    process.control,
  ];
  const result = await runCli(args, { timeoutMs: 90_000 });
  if (result.code !== 0) throw new Error(`repagent ${args.join(' ')}: ${result.stdout}${result.stderr}`);
}

/** `repagent status --json`. */
export async function readStatus(process: CliProcess): Promise<ProcessStatus> {
  const result = await runCli(['status', '--json', '--control', process.control]);
  if (result.code !== 0) throw new Error(`repagent status: ${result.stdout}${result.stderr}`);
  return JSON.parse(result.stdout) as ProcessStatus;
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

/** Waits until all volumes of a process are protected, as a script does, which hears nothing but that. */
export async function waitProtected(process: CliProcess, timeoutS = 40): Promise<void> {
  const { code, stderr } = await runCli([
    ...['wait', '--timeout', String(timeoutS)],
    ...['--control', process.control],
  ]);
  expect([code, stderr]).toEqual([0, '']);
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
