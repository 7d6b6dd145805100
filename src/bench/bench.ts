// Runs the bench: for each group of cells every server is started, then measured in turn, round after round. A server
// that is missing or can't take part is named in the result; only ours must not be missing.
import { errorMessage, OperationError } from '../base/errors.ts';
import { sleep } from '../base/sleep.ts';
import { type DiskRunOptions, runCleanly } from './bench-run.ts';
import { type Children, findProgram } from './children.ts';
import { plainFioClient, tlsFioClient } from './fio-client.ts';
import { withIdleConnections } from './idle-connections.ts';
import { thisMachine } from './machine.ts';
import { type Cell, cellId, imageBytes } from './matrix.ts';
import { measure, verify } from './measure.ts';
import { orderOfRound } from './order.ts';
import { type BedPlan, bedSeconds, measureSeconds, planBeds, takesPart, WARM_UP_SECONDS } from './plan.ts';
import { residentBytesOf } from './process-usage.ts';
import {
  type BenchResult,
  type CellResult,
  cellFigures,
  type LeftOut,
  type MemoryFigures,
  type Round,
  type ServerInfo,
  summarize,
} from './result.ts';
import { type Bed, exportName, type RunningServer, type ServerKind } from './server.ts';
import { makeTlsDir } from './tls-dir.ts';
import { createImage, type Workspace } from './workspace.ts';

const IDLE_CONNECTIONS = 32;
const VERSION_TIMEOUT_MS = 10_000;
const DROP_TIMEOUT_MS = 60_000;
/** For what a closed connection leaves behind, such as a process that ends. */
const REST_MS = 100;

export interface BenchOptions extends DiskRunOptions {
  readonly cells: readonly Cell[];
  readonly servers: readonly ServerKind[];
  readonly rounds: number;
  /** Of load in each round. */
  readonly seconds: number;
  /** A server is left out. */
  readonly onLeftOut: (one: LeftOut) => void;
}

/**
 * Measures. Whatever happens, no process and no file is left.
 * @throws OperationError when our server or fio doesn't work, or the run was aborted
 */
export function runBench(options: BenchOptions): Promise<BenchResult> {
  return runCleanly(options, (children, workspace) => new Bench(options, children, workspace).run());
}

/** Mirroring and workers are more processes: their memory is told apart. */
function memoryName(server: string, { mirror, workers }: Cell | Bed['cell']): string {
  return `${server}${mirror ? ' (mirroring)' : ''}${workers > 0 ? ` (${workers} images)` : ''}`;
}

interface Entry {
  readonly kind: ServerKind;
  readonly server: RunningServer;
}

class Bench {
  readonly #options: BenchOptions;
  readonly #children: Children;
  readonly #workspace: Workspace;
  readonly #leftOut: LeftOut[] = [];
  readonly #memory = new Map<string, MemoryFigures>();
  #secondsLeft = 0;

  constructor(options: BenchOptions, children: Children, workspace: Workspace) {
    this.#options = options;
    this.#children = children;
    this.#workspace = workspace;
  }

  async run(): Promise<BenchResult> {
    const { cells, rounds, seconds, sizeBytes, repagentVersion } = this.#options;
    const machine = thisMachine();
    const date = new Date().toISOString();
    const kinds = this.#options.servers.filter((kind) => this.#isInstalled(kind));
    const servers: ServerInfo[] = [];
    for (const kind of kinds.filter((one) => cells.some((cell) => one.suits(cell)))) {
      const { name, role, describe } = kind;
      servers.push({ name, role, describe, version: await this.#versionOf(kind) });
    }
    const beds = planBeds(cells, kinds);
    this.#secondsLeft = beds.reduce((sum, bed) => sum + bedSeconds(bed, rounds, seconds), 0);
    const results: CellResult[] = [];
    for (const bed of beds) results.push(...(await this.#runBed(bed)));
    return {
      ...{ repagentVersion, date, machine, rounds, seconds, sizeBytes, servers },
      leftOut: this.#leftOut,
      cells: results,
      memory: [...this.#memory.values()],
      summary: summarize(results, servers),
    };
  }

  #isInstalled(kind: ServerKind): boolean {
    const missing = Object.entries(kind.programs).filter(([program]) => findProgram(program) === undefined);
    if (missing.length === 0) return true;
    const programs = missing.map(([program]) => program).join(', ');
    const packages = missing.map(([, debian]) => debian).join(' ');
    this.#leaveOut(kind.name, 'every cell', `${programs} is not installed (apt-get install ${packages})`);
    return false;
  }

  #leaveOut(server: string, where: string, why: string): void {
    const one = { server, where, why };
    this.#leftOut.push(one);
    this.#options.onLeftOut(one);
  }

  async #versionOf(kind: ServerKind): Promise<string> {
    const [program] = Object.keys(kind.programs);
    if (program === undefined) return kind.role === 'subject' ? this.#options.repagentVersion : '';
    // nbd-server tells its version with status 1.
    const child = this.#children.start(program, kind.versionArgs);
    const timer = setTimeout(() => void child.stop(), VERSION_TIMEOUT_MS);
    await child.exited;
    clearTimeout(timer);
    return /\d+(?:\.\d+)+/.exec(child.tail())?.[0] ?? 'unknown';
  }

  async #runBed(plan: BedPlan): Promise<CellResult[]> {
    this.#progress(`${plan.key}: preparing images`);
    const bed = await this.#makeBed(plan);
    const entries: Entry[] = [];
    const results: CellResult[] = [];
    try {
      for (const kind of plan.kinds) {
        const server = await this.#start(kind, bed, plan);
        if (server) entries.push({ kind, server });
      }
      for (const cell of plan.cells) results.push(await this.#runCell(cell, bed, entries));
      for (const { kind, server } of entries) {
        this.#progress(`${plan.key}: checking ${kind.name}`);
        await this.#guarded(kind, plan.key, new Set(), async () => server.check?.());
      }
    } finally {
      for (const { server } of entries.reverse()) await server.stop().catch(() => {});
      this.#workspace.remove();
    }
    return results;
  }

  async #makeBed({ cells, kinds }: BedPlan): Promise<Bed> {
    const cell = cells[0]!;
    const { program } = this.#options;
    const sizeBytes = imageBytes(cell, this.#options.sizeBytes);
    const workspace = this.#workspace;
    const suffix = (server: string): string => (cell.mirror || cell.workers > 0 ? `-${server}` : '');
    const images = (server: string): string[] =>
      Array.from({ length: Math.max(1, cell.workers) }, (_, i) =>
        workspace.path(cell.storage, `${exportName(i)}${suffix(server)}.img`),
      );
    const scratch = (name: string): string => workspace.path('tmpfs', name);
    const served = kinds.filter((kind) => kind.role !== 'floor' || !cell.mirror);
    for (const path of new Set(served.flatMap((kind) => images(kind.name)))) createImage(path, sizeBytes);
    const children = this.#children;
    const tlsDir = cell.tls ? await makeTlsDir(scratch('tls'), children) : undefined;
    return {
      ...{ cell, sizeBytes, images, scratch, workspace, program, children, tlsDir },
      replica: (server) => workspace.path(cell.storage, `replica-${server}.img`),
      client:
        tlsDir === undefined ? plainFioClient(children) : tlsFioClient(children, scratch('client'), tlsDir),
    };
  }

  /** @returns undefined when a server other than ours can't be started, or fails verification: it is left out */
  async #start(kind: ServerKind, bed: Bed, plan: BedPlan): Promise<RunningServer | undefined> {
    this.#progress(`${plan.key}: starting ${kind.name}`);
    let server: RunningServer | undefined;
    try {
      server = await kind.start(bed);
      const restBytes = residentBytesOf(server.pids);
      if (kind.name !== 'null') await verify(server, bed.sizeBytes, bed.client);
      await server.settle?.();
      await this.#lookAtMemory(kind, server, bed, restBytes);
      return server;
    } catch (error) {
      await server?.stop().catch(() => {});
      if (kind.role === 'subject' || this.#options.aborted.aborted) throw error;
      this.#leaveOut(kind.name, plan.key, errorMessage(error));
      return undefined;
    }
  }

  /** Once for each server, where it is by itself. */
  async #lookAtMemory(kind: ServerKind, server: RunningServer, bed: Bed, restBytes: number): Promise<void> {
    const name = memoryName(kind.name, bed.cell);
    const [uri] = server.uris;
    if (kind.role === 'floor' || this.#memory.has(name) || uri === undefined) return;
    await sleep(REST_MS);
    const before = residentBytesOf(server.pids);
    const port = Number(new URL(uri).port);
    const idle =
      bed.cell.tls || bed.cell.unix
        ? undefined
        : await withIdleConnections(port, 'disk', IDLE_CONNECTIONS, async () => {
            await sleep(REST_MS);
            return Math.max(0, residentBytesOf(server.pids) - before) / IDLE_CONNECTIONS;
          });
    this.#memory.set(name, {
      ...{ server: name, restBytes, peakBytes: before },
      idleConnectionBytes: idle,
    });
  }

  async #runCell(cell: Cell, bed: Bed, all: readonly Entry[]): Promise<CellResult> {
    const { rounds, seconds } = this.#options;
    const { sizeBytes, client } = bed;
    const entries = all.filter(({ kind }) => kind.suits(cell));
    const id = cellId(cell);
    const broken = new Set<string>();
    const found = new Map<string, Round[]>(entries.map(({ kind }) => [kind.name, []]));
    for (const { kind, server } of entries.filter((one) => one.kind.role !== 'floor')) {
      this.#progress(`${id}: warming up ${kind.name}`);
      await this.#guarded(kind, id, broken, async () => {
        await measure(server, cell, sizeBytes, WARM_UP_SECONDS, client);
      });
      this.#secondsLeft -= measureSeconds(kind, WARM_UP_SECONDS);
    }
    for (let round = 0; round < rounds; round += 1) {
      for (const { kind, server } of orderOfRound(entries, round)) {
        if (broken.has(kind.name) || !takesPart(kind, cell, round)) continue;
        this.#progress(`${id}: round ${round + 1} of ${rounds}, ${kind.name}`);
        if (cell.cache === 'cold') await this.#dropFromCache(bed.images(kind.name));
        await this.#guarded(kind, id, broken, async () => {
          found.get(kind.name)!.push(await measure(server, cell, sizeBytes, seconds, client));
        });
        this.#secondsLeft -= measureSeconds(kind, seconds);
      }
    }
    const whole = entries.filter(({ kind }) => !broken.has(kind.name));
    const servers = whole.map(({ kind }) => cellFigures(kind.name, found.get(kind.name)!));
    for (const { server, peakBytes } of servers) this.#notePeak(memoryName(server, cell), peakBytes);
    return { id, cell, servers };
  }

  /** Another server's failure costs it the cell; ours ends the run, since its figures would be worth nothing. */
  async #guarded(
    kind: ServerKind,
    id: string,
    broken: Set<string>,
    work: () => Promise<void>,
  ): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (kind.role === 'subject' || this.#options.aborted.aborted) throw error;
      broken.add(kind.name);
      this.#leaveOut(kind.name, id, errorMessage(error));
    }
  }

  #notePeak(server: string, peakBytes: number): void {
    const known = this.#memory.get(server);
    if (known && known.peakBytes < peakBytes) this.#memory.set(server, { ...known, peakBytes });
  }

  /** dd's way to posix_fadvise(DONTNEED) for a whole file; only these images, not the machine's whole cache. */
  async #dropFromCache(paths: readonly string[]): Promise<void> {
    const flags = ['oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none'];
    for (const path of paths) await this.#children.run('dd', [`of=${path}`, ...flags], DROP_TIMEOUT_MS);
  }

  #progress(what: string): void {
    if (this.#options.aborted.aborted) throw new OperationError('the bench was stopped');
    this.#options.onProgress(what, Math.max(0, this.#secondsLeft));
  }
}
