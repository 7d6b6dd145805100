// fio's command lines and reports. Pure. A report that tells of an error, or of no work at all, is never a figure.
import { OperationError } from '../base/errors.ts';
import { type Cell, cellId } from './matrix.ts';

/** What one run of fio showed. */
export interface FioFigures {
  readonly ios: number;
  readonly bytes: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  /** Completion latency, microseconds: of all jobs the worst; undefined when fio doesn't tell. */
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
  /** CPU seconds of fio's jobs, user and system. */
  readonly cpuSeconds: number;
}

/** A load of writes that is no cell. */
export interface SteadyLoad {
  readonly access: 'randwrite' | 'write';
  readonly blockBytes: number;
  /** Requests in flight. */
  readonly depth: number;
  /** A second; undefined: as many as there can be. */
  readonly iops: number | undefined;
}

/** fio's own name for its output format, and no state files. */
const COMMON = ['--output-format=json', '--eta=never', '--randrepeat=0', '--verify_state_save=0'];

/** The load of a cell on NBD exports, on all of them at a time. @param sizeBytes of each */
export function nbdLoadArgs(
  cell: Cell,
  uris: readonly string[],
  sizeBytes: number,
  seconds: number,
): string[] {
  return [
    ...[...loadArgs(cell, sizeBytes, seconds), '--ioengine=nbd'],
    ...uris.flatMap((uri) => [`--name=${cellId(cell)}`, `--uri=${uri}`]),
  ];
}

/**
 * The same load on the file itself, without any server: what storage alone allows. Of a cold file as many readers at a
 * time as there would be requests.
 */
export function fileLoadArgs(cell: Cell, path: string, sizeBytes: number, seconds: number): string[] {
  const isCold = cell.cache === 'cold' && cell.access === 'randread';
  const load = isCold ? { ...cell, depth: 1, connections: cell.depth * cell.connections } : cell;
  return [
    ...[...loadArgs(load, sizeBytes, seconds), ...(isCold ? ['--thread'] : [])],
    ...['--ioengine=psync', `--filename=${path}`, '--allow_file_create=0', `--name=${cellId(cell)}`],
  ];
}

/**
 * Blocks of the cell's size over a loopback TCP connection between two processes that do nothing with them: there and
 * back at depth 1, in one direction otherwise.
 */
export function loopbackLoadArgs(cell: Cell, port: number, seconds: number): string[] {
  return [
    ...COMMON,
    ...['--ioengine=net', '--protocol=tcp', '--nodelay=1', `--port=${port}`, `--bs=${cell.blockBytes}`],
    ...['--size=1T', '--time_based', `--pingpong=${cell.depth === 1 ? 1 : 0}`],
    // The receiver is listening before the sender begins.
    ...['--name=receiver', '--listen', '--rw=read', `--runtime=${milliseconds(seconds + 1)}`],
    ...[
      '--name=sender',
      '--hostname=127.0.0.1',
      '--rw=write',
      '--startdelay=300ms',
      `--runtime=${milliseconds(seconds)}`,
    ],
  ];
}

/** A load that goes on until it is interrupted, or for `seconds`, at a rate if it has one. */
export function steadyLoadArgs(load: SteadyLoad, uri: string, sizeBytes: number, seconds: number): string[] {
  return [
    ...[
      '--name=steady',
      ...COMMON,
      `--rw=${load.access}`,
      `--bs=${load.blockBytes}`,
      `--iodepth=${load.depth}`,
    ],
    ...[`--size=${sizeBytes}`, '--norandommap', '--time_based', `--runtime=${milliseconds(seconds)}`],
    ...(load.iops === undefined ? [] : [`--rate_iops=${load.iops}`]),
    ...['--ioengine=nbd', `--uri=${uri}`],
  ];
}

/** The same on several exports at a time, reported as one. */
export function steadyLoadsArgs(
  { access, blockBytes, depth, iops }: SteadyLoad,
  uris: readonly string[],
  sizeBytes: number,
  seconds: number,
): string[] {
  return [
    ...[...COMMON, '--thread', '--group_reporting', '--ioengine=nbd', `--rw=${access}`, `--bs=${blockBytes}`],
    ...[`--iodepth=${depth}`, `--size=${sizeBytes}`, '--norandommap', '--time_based'],
    ...[`--runtime=${milliseconds(seconds)}`, ...(iops === undefined ? [] : [`--rate_iops=${iops}`])],
    ...uris.flatMap((uri, at) => [`--name=steady${at}`, `--uri=${uri}`]),
  ];
}

/** Has fio note when each request was answered, after how long, and where it was: a line each in `logPath(prefix)`. */
export function requestLogArgs(prefix: string): string[] {
  return [
    ...[`--write_lat_log=${prefix}`, '--log_offset=1', '--log_unix_epoch=1'],
    ...['--disable_clat=1', '--disable_slat=1'],
  ];
}

/** Where the only job of a run puts what {@link requestLogArgs} asks for. */
export function requestLogPath(prefix: string): string {
  return `${prefix}_lat.1.log`;
}

/** Writes random blocks all over the export and reads them back, checking their checksums. */
export function verifyArgs(uri: string, sizeBytes: number): string[] {
  return [
    ...['--name=verify', ...COMMON, '--ioengine=nbd', `--uri=${uri}`, `--size=${sizeBytes}`],
    ...['--rw=randwrite', '--bsrange=4k-256k', '--iodepth=16', '--io_size=8M'],
    ...['--verify=crc32c', '--verify_fatal=1', '--do_verify=1'],
  ];
}

function loadArgs(cell: Cell, sizeBytes: number, seconds: number): string[] {
  const { connections, blockBytes } = cell;
  // Sequential jobs each have a part of their own: side by side through the same blocks they would help each other.
  const apart = connections > 1 && !cell.access.startsWith('rand');
  const partBytes = apart ? Math.floor(sizeBytes / connections / blockBytes) * blockBytes : sizeBytes;
  return [
    ...[...COMMON, `--rw=${cell.access}`, `--bs=${blockBytes}`],
    ...[`--iodepth=${cell.depth}`, `--numjobs=${connections}`, `--size=${partBytes}`],
    ...['--norandommap', '--time_based', `--runtime=${milliseconds(seconds)}`],
    ...(apart ? [`--offset_increment=${partBytes}`] : []),
  ];
}

function milliseconds(seconds: number): string {
  return `${Math.round(seconds * 1000)}ms`;
}

interface FioDirection {
  readonly total_ios: number;
  readonly io_bytes: number;
  readonly iops: number;
  readonly bw_bytes: number;
  readonly clat_ns?: { readonly percentile?: Readonly<Record<string, number>> };
}

interface FioJob {
  readonly jobname: string;
  readonly error: number;
  readonly usr_cpu: number;
  readonly sys_cpu: number;
  /** Milliseconds. */
  readonly job_runtime: number;
  readonly read: FioDirection;
  readonly write: FioDirection;
}

/**
 * Reads a report in fio's JSON format.
 * @param countJob which jobs' transfers count (all by default); errors and CPU count of every job
 * @throws OperationError when a job failed, did nothing, or the report is none
 */
export function parseFioReport(text: string, countJob: (name: string) => boolean = () => true): FioFigures {
  const jobs = jobsOf(text);
  const failed = jobs.find((job) => job.error !== 0);
  if (failed) throw new OperationError(`fio reports error ${failed.error} in job ${failed.jobname}`);
  const counted = jobs.filter((job) => countJob(job.jobname));
  const idle = counted.find((job) => job.read.total_ios + job.write.total_ios === 0);
  if (idle || counted.length === 0) throw new OperationError('fio reports no I/O at all');
  const directions = counted.flatMap((job) => [job.read, job.write]).filter((one) => one.total_ios > 0);
  const sum = (of: (direction: FioDirection) => number): number =>
    directions.reduce((total, direction) => total + of(direction), 0);
  return {
    ios: sum((one) => one.total_ios),
    bytes: sum((one) => one.io_bytes),
    iops: sum((one) => one.iops),
    bytesPerSecond: sum((one) => one.bw_bytes),
    p50Us: worst(directions, '50.000000'),
    p99Us: worst(directions, '99.000000'),
    cpuSeconds: jobs.reduce(
      (total, job) => total + (((job.usr_cpu + job.sys_cpu) / 100) * job.job_runtime) / 1000,
      0,
    ),
  };
}

function worst(directions: readonly FioDirection[], percentile: string): number | undefined {
  const values = directions.flatMap((one) => one.clat_ns?.percentile?.[percentile] ?? []);
  return values.length === 0 ? undefined : Math.max(...values) / 1000;
}

/** fio prints notes before the report. */
function jobsOf(text: string): readonly FioJob[] {
  let report: unknown;
  try {
    report = JSON.parse(text.slice(Math.max(0, text.indexOf('{'))));
  } catch (cause) {
    throw new OperationError(`fio printed no report: ${text.slice(0, 200)}`, { cause });
  }
  const jobs = (report as { jobs?: unknown } | null)?.jobs;
  if (!Array.isArray(jobs) || jobs.length === 0 || !jobs.every(isJob)) {
    throw new OperationError('the report of fio has no jobs, or jobs of another form');
  }
  return jobs;
}

function isJob(value: unknown): value is FioJob {
  const job = value as Partial<FioJob> | null;
  const numbers = [job?.error, job?.usr_cpu, job?.sys_cpu, job?.job_runtime];
  return numbers.every(Number.isFinite) && isDirection(job?.read) && isDirection(job?.write);
}

function isDirection(value: unknown): boolean {
  const direction = value as Partial<FioDirection> | undefined;
  const numbers = [direction?.total_ios, direction?.io_bytes, direction?.iops, direction?.bw_bytes];
  return numbers.every(Number.isFinite);
}
