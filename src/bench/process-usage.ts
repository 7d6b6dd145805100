// CPU time and memory of running processes, as Linux tells them. Only reads; a process that has gone counts nothing.
import { readFileSync } from 'node:fs';

/** USER_HZ, which Linux fixes for what it shows to programs. */
const TICKS_PER_SECOND = 100;

export interface CpuSeconds {
  readonly user: number;
  readonly system: number;
}

/** CPU time in one line of /proc/PID/stat: of the process, and of its children that have ended and were waited for. */
export function parseStatCpu(stat: string): CpuSeconds {
  // The name in parentheses may hold anything; the fields behind it are numbered from 3.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticks = (field: number): number => Number(fields[field - 3]);
  return {
    user: (ticks(14) + ticks(16)) / TICKS_PER_SECOND,
    system: (ticks(15) + ticks(17)) / TICKS_PER_SECOND,
  };
}

/** The resident set in /proc/PID/status, bytes. */
export function parseStatusRss(status: string): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0) * 1024;
}

/** CPU seconds of these processes and all below them since they began. */
export function cpuSecondsOf(pids: readonly number[]): number {
  let seconds = 0;
  for (const pid of withDescendants(pids)) {
    const stat = readProc(pid, 'stat');
    if (stat === undefined) continue;
    const { user, system } = parseStatCpu(stat);
    seconds += user + system;
  }
  return seconds;
}

/** @returns what tells the shares of one processor that each of these took since this was called */
export function watchCpu(pids: readonly number[]): () => number[] {
  const [beganMs, before] = [performance.now(), pids.map((pid) => cpuSecondsOf([pid]))];
  return () => {
    const seconds = (performance.now() - beganMs) / 1000;
    return pids.map((pid, at) => (cpuSecondsOf([pid]) - before[at]!) / seconds);
  };
}

/** Resident bytes of these processes and all below them; memory that they share counts several times. */
export function residentBytesOf(pids: readonly number[]): number {
  let bytes = 0;
  for (const pid of withDescendants(pids)) bytes += parseStatusRss(readProc(pid, 'status') ?? '');
  return bytes;
}

function withDescendants(pids: readonly number[]): Set<number> {
  const found = new Set<number>(pids);
  // A set that grows while it is walked is walked to its new end.
  for (const pid of found) {
    for (const child of (readProc(pid, `task/${pid}/children`) ?? '').split(' ')) {
      if (child !== '') found.add(Number(child));
    }
  }
  return found;
}

function readProc(pid: number, file: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    return undefined;
  }
}
