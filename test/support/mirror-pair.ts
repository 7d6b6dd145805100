// One agent and one hub as processes that keep their places (images, state directories, the hub's port) through all
// the lives that a test gives them. Asks them by their control sockets: no process is started for a look.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { parseControl } from '../../src/cli/parse-address.ts';
import { fetchStats, fetchStatus } from '../../src/control/client.ts';
import type { ProcessStatus, VolumeStatus } from '../../src/control/status.ts';
import type { OperationStats } from '../../src/filter/stats-filter.ts';
import { BITS_OFFSET } from '../../src/repagent/sidecar-head.ts';
import { type CliOptions, type CliProcess, startHub, startServe } from './cli.ts';
import { waitUntil } from './wait-until.ts';

const LOOPBACK = '127.0.0.1';

export interface MirrorPairOptions {
  /** Holds everything that isn't told to be elsewhere. */
  readonly folder: string;
  /** Of a new replica; the disk must be there. */
  readonly sizeBytes: number;
  /** The hub's folder of replicas; a pair of images unless given. */
  readonly store?: string;
  readonly agentState?: string;
  readonly hubState?: string;
  readonly hubArgs?: readonly string[];
  readonly agentArgs?: readonly string[];
  /** Where the agent dials, when something stands between it and the hub. @param hubPort where the hub listens */
  readonly dialPort?: (hubPort: number) => number;
  /** Where the hub listens, and the agent dials it; 127.0.0.1 unless given. */
  readonly hubHost?: string;
  /** How each process is started, each time anew. */
  readonly hubOptions?: () => CliOptions;
  readonly agentOptions?: () => CliOptions;
}

/** What an agent's process has done so far. */
export interface AgentCounts {
  /** Bytes of the disk that the hub asked for, digests not counted. */
  readonly readBytes: number;
  /** Requests of guests that may change the disk, and the bytes that they wrote. */
  readonly changes: number;
  readonly writtenBytes: number;
  readonly overflows: number;
  /** To its hub, one after the other. */
  readonly connections: number;
}

export class MirrorPair {
  readonly disk: string;
  readonly replica: string;
  readonly #options: MirrorPairOptions;
  #hub: CliProcess | undefined;
  #agent: CliProcess | undefined;
  #hubPort = 0;

  /** The replica of a pair is made when it isn't there: empty, of the right size. */
  constructor(options: MirrorPairOptions) {
    this.#options = options;
    this.disk = join(options.folder, 'a.img');
    this.replica = options.store ? join(options.store, 'vm', 'a') : join(options.folder, 'a.replica');
    if (!options.store && !fs.existsSync(this.replica)) {
      fs.writeFileSync(this.replica, '');
      fs.truncateSync(this.replica, options.sizeBytes);
    }
  }

  get hub(): CliProcess {
    if (!this.#hub) throw new Error('the hub was never started');
    return this.#hub;
  }

  /** Where it listens, once it did. */
  get hubPort(): number {
    return this.#hubPort;
  }

  get agent(): CliProcess {
    if (!this.#agent) throw new Error('the agent was never started');
    return this.#agent;
  }

  /** nbd://... of the disk, at the present agent. */
  get uri(): string {
    return this.agent.urls[0]!;
  }

  get mapFile(): string {
    return join(this.#options.agentState ?? join(this.#options.folder, 'agent-state'), 'maps', 'a.map');
  }

  async startHub(): Promise<void> {
    const { folder, hubState, store, hubArgs = [], hubHost = LOOPBACK, hubOptions } = this.#options;
    const args = [
      ...(store ? ['--store', store] : [`a=${this.replica}`]),
      ...['--listen', `${hubHost}:${this.#hubPort}`, '--state-dir', hubState ?? join(folder, 'hub-state')],
      ...hubArgs,
    ];
    this.#hub = await startHub(args, hubOptions?.());
    this.#hubPort = this.#hub.port;
  }

  async startAgent(): Promise<void> {
    const { folder, agentState, agentArgs = [], dialPort, hubHost = LOOPBACK, agentOptions } = this.#options;
    const port = dialPort?.(this.#hubPort) ?? this.#hubPort;
    const args = [
      ...[`a=${this.disk}`, '--hub', `${hubHost}:${port}`, '--vm-name', 'vm'],
      ...['--state-dir', agentState ?? join(folder, 'agent-state'), '--filter', 'stats,quiet=on'],
      ...agentArgs,
    ];
    this.#agent = await startServe(args, agentOptions?.());
  }

  /** Both, for whoever wants no life of one alone. */
  async start(): Promise<void> {
    await this.startHub();
    await this.startAgent();
  }

  /** Kills whatever lives. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent?.kill();
    await this.#hub?.kill();
  }

  /**
   * Waits until the volume is protected and everything was acknowledged, in the words of each side that was started.
   * Guests must be at rest.
   */
  async settled(timeoutMs = 60_000): Promise<void> {
    let seen: unknown;
    try {
      await waitUntil(
        async () => {
          const atAgent = this.#agent && (await volumeAt(this.#agent));
          const atHub = this.#hub && (await volumeAt(this.#hub));
          seen = { atAgent, atHub };
          const isHubContent = atHub?.state === 'protected' && atHub.dirtyBytes === 0;
          return (!this.#agent || isAtRest(atAgent)) && (!this.#hub || isHubContent);
        },
        { what: 'a protected volume', timeoutMs, intervalMs: 50 },
      );
    } catch (error) {
      throw new Error(`${String(error)}; last seen ${JSON.stringify(seen)}\n${this.logs()}`, {
        cause: error,
      });
    }
  }

  /** settled(), and then disk and replica are the same. @param what is wrong when they are not */
  async expectEqual(what?: string): Promise<void> {
    await this.settled();
    expect(this.difference(), what).toBe('');
  }

  /** What each side wrote to its log last. */
  logs(): string {
    return [this.#agent, this.#hub].map((one) => one?.logs().slice(-4000)).join('\n-- hub:\n');
  }

  /** The first difference between disk and replica, in the words of cmp; '' when there is none. */
  difference(): string {
    const { stdout, stderr } = spawnSync('cmp', [this.disk, this.replica]);
    return `${stdout.toString()}${stderr.toString()}`;
  }

  async counts(): Promise<AgentCounts> {
    const stats = (await fetchStats(parseControl(this.agent.control))) as {
      filters: { a: { stats: Record<string, OperationStats | undefined> } };
      agent: { remoteReadBytes: number; overflows: number; connections: number };
    };
    const operations = stats.filters.a.stats;
    const calls = (name: string): number => operations[name]?.calls ?? 0;
    return {
      readBytes: stats.agent.remoteReadBytes,
      writtenBytes: operations.write?.bytes ?? 0,
      changes: calls('write') + calls('writeZeroes') + calls('trim'),
      overflows: stats.agent.overflows,
      connections: stats.agent.connections,
    };
  }

  /** Waits until the hub has recorded where it is, and the file of the agent's map names nothing any more. */
  async recorded(chunks: number): Promise<void> {
    await this.settled();
    await waitUntil(() => this.namedChunks(chunks) === 0, { what: 'an empty map', timeoutMs: 30_000 });
  }

  /** Chunks that the file of the agent's map names, whether the agent lives or not. @param chunks of the volume */
  namedChunks(chunks: number): number {
    return countNamed(fs.readFileSync(this.mapFile), chunks);
  }
}

/** Whether the file of a map names a chunk; one that was given up is empty, and means everything. */
export function isNamed(map: Buffer, chunk: number): boolean {
  return ((map[BITS_OFFSET + Math.floor(chunk / 8)] ?? 0xff) >> (chunk % 8)) % 2 === 1;
}

/** @param chunks of the volume */
export function countNamed(map: Buffer, chunks: number): number {
  let named = 0;
  for (let chunk = 0; chunk < chunks; chunk += 1) named += isNamed(map, chunk) ? 1 : 0;
  return named;
}

/** What a process tells of itself. */
export function statusOf(process: CliProcess): Promise<ProcessStatus> {
  return fetchStatus(parseControl(process.control));
}

/** The volume as a process tells it. */
export async function volumeAt(process: CliProcess): Promise<VolumeStatus | undefined> {
  return (await statusOf(process)).volumes[0];
}

function isAtRest(volume: VolumeStatus | undefined): boolean {
  return (
    volume?.state === 'protected' &&
    volume.queuedBytes === 0 &&
    volume.dirtyBytes === 0 &&
    volume.sequence === volume.ackedSequence
  );
}
