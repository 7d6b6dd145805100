// What a bench run found: plain data, as `--json` prints it. Ratios and means derive from the rounds.
import type { Machine } from './machine.ts';
import { type Cell, cellId } from './matrix.ts';
import type { Role } from './server.ts';
import { geometricMean, median, spread } from './statistics.ts';

/** One server in one round of one cell. */
export interface Round {
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly ios: number;
  readonly bytes: number;
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
  readonly serverCpuSeconds: number;
  readonly clientCpuSeconds: number;
  readonly serverPeakBytes: number;
}

/** One server in one cell. */
export interface CellFigures {
  readonly server: string;
  readonly iops: number;
  readonly bytesPerSecond: number;
  /** (largest - smallest) / median of the rounds' IOPS. */
  readonly spread: number;
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
  /** CPU seconds of the server's processes and of fio. */
  readonly serverCpuPerGib: number;
  readonly clientCpuPerGib: number;
  readonly serverCpuPerMillionIos: number;
  readonly clientCpuPerMillionIos: number;
  readonly peakBytes: number;
  readonly rounds: readonly Round[];
}

export interface CellResult {
  readonly id: string;
  readonly cell: Cell;
  readonly servers: readonly CellFigures[];
}

export interface MemoryFigures {
  /** With what sets it apart from the same server with fewer processes. */
  readonly server: string;
  /** Started, nobody connected. */
  readonly restBytes: number;
  /** The most that was seen under load. */
  readonly peakBytes: number;
  /** What each connection that does nothing adds. */
  readonly idleConnectionBytes: number | undefined;
}

export interface ServerInfo {
  readonly name: string;
  readonly role: Role;
  readonly describe: string;
  readonly version: string;
}

export interface LeftOut {
  readonly server: string;
  /** The cells or groups of cells that it is missing from. */
  readonly where: string;
  readonly why: string;
}

export interface BenchResult {
  readonly repagentVersion: string;
  /** When it began, ISO 8601. */
  readonly date: string;
  readonly machine: Machine;
  readonly rounds: number;
  readonly seconds: number;
  readonly sizeBytes: number;
  readonly servers: readonly ServerInfo[];
  readonly leftOut: readonly LeftOut[];
  readonly cells: readonly CellResult[];
  readonly memory: readonly MemoryFigures[];
  readonly summary: readonly PeerSummary[];
}

/** Our server against one other over all cells that both were in. */
export interface PeerSummary {
  readonly server: string;
  readonly mirror: boolean;
  readonly cells: number;
  readonly geometricMean: number;
  readonly worst: CellRatio;
  /** Where ours was slower by more than the rounds of both lie apart. */
  readonly slower: readonly CellRatio[];
}

export interface CellRatio {
  readonly id: string;
  /** How many times as fast ours was. */
  readonly ratio: number;
}

const GIB = 2 ** 30;
const SUBJECT = 'repagent';

/** @param rounds at least one */
export function cellFigures(server: string, rounds: readonly Round[]): CellFigures {
  const total = (of: (round: Round) => number): number => rounds.reduce((sum, one) => sum + of(one), 0);
  const middle = (of: (round: Round) => number | undefined): number | undefined => {
    const known = rounds.map(of).filter((value) => value !== undefined);
    return known.length === 0 ? undefined : median(known);
  };
  // Ticks of 10 ms: over all rounds together they are fine enough.
  const [gib, millions] = [total((one) => one.bytes) / GIB, total((one) => one.ios) / 1e6];
  const [serverCpu, clientCpu] = [total((one) => one.serverCpuSeconds), total((one) => one.clientCpuSeconds)];
  const iops = rounds.map((one) => one.iops);
  return {
    server,
    iops: median(iops),
    bytesPerSecond: median(rounds.map((one) => one.bytesPerSecond)),
    spread: spread(iops),
    p50Us: middle((one) => one.p50Us),
    p99Us: middle((one) => one.p99Us),
    serverCpuPerGib: serverCpu / gib,
    clientCpuPerGib: clientCpu / gib,
    serverCpuPerMillionIos: serverCpu / millions,
    clientCpuPerMillionIos: clientCpu / millions,
    peakBytes: Math.max(...rounds.map((one) => one.serverPeakBytes)),
    rounds,
  };
}

/** How many times as fast as `server` ours was; undefined when one of them was not in the cell. */
export function ratioTo(result: CellResult, server: string, subject = SUBJECT): number | undefined {
  const ours = result.servers.find((one) => one.server === subject);
  const theirs = result.servers.find((one) => one.server === server);
  return ours && theirs ? ours.iops / theirs.iops : undefined;
}

/** Whether ours was slower by more than half of what lies between the rounds of either together. */
function isSlower(result: CellResult, server: string): boolean {
  const ratio = ratioTo(result, server);
  const spreads = result.servers.filter((one) => one.server === server || one.server === SUBJECT);
  return ratio !== undefined && 1 - ratio > spreads.reduce((sum, one) => sum + one.spread / 2, 0);
}

function ratioOf({ id, ratio }: CellRatio): CellRatio {
  return { id, ratio };
}

/** One line for each other server, and for cells with and without mirroring apart. */
export function summarize(cells: readonly CellResult[], servers: readonly ServerInfo[]): PeerSummary[] {
  const lines: PeerSummary[] = [];
  for (const { name } of servers.filter(({ role }) => role !== 'subject')) {
    for (const mirror of [false, true]) {
      const ratios = cells.flatMap((result) => {
        const ratio = result.cell.mirror === mirror ? ratioTo(result, name) : undefined;
        return ratio === undefined ? [] : [{ id: cellId(result.cell), ratio, result }];
      });
      const [first] = ratios;
      if (first === undefined) continue;
      lines.push({
        server: name,
        mirror,
        cells: ratios.length,
        geometricMean: geometricMean(ratios.map(({ ratio }) => ratio)),
        worst: ratioOf(ratios.reduce((worst, one) => (one.ratio < worst.ratio ? one : worst), first)),
        slower: ratios.filter((one) => isSlower(one.result, name)).map(ratioOf),
      });
    }
  }
  return lines;
}
