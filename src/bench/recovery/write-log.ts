// What a guest wrote, when and where, by the client's own log: nothing of it comes from what is measured. Pure.
import { OperationError } from '../../base/errors.ts';

/** A stretch of time, Unix milliseconds; both ends belong to it. */
export interface Period {
  readonly fromMs: number;
  readonly toMs: number;
}

export interface LatencyFigures {
  readonly writes: number;
  /** Microseconds; undefined when there were no writes. */
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
  readonly maxUs: number | undefined;
}

interface LoggedWrite {
  readonly startedAtMs: number;
  readonly endedAtMs: number;
  readonly latencyUs: number;
  readonly offset: number;
  readonly length: number;
}

/** In fio's log: when it was answered, after how many nanoseconds, direction, length, offset, and more. */
const WRITE = '1';

export class WriteLog {
  readonly #writes: readonly LoggedWrite[];

  private constructor(writes: readonly LoggedWrite[]) {
    this.#writes = writes;
  }

  /** Reads a latency log of fio with offsets and Unix time. @throws OperationError when it is none, or empty */
  static parse(text: string): WriteLog {
    const writes: LoggedWrite[] = [];
    for (const line of text.split('\n')) {
      if (line === '') continue;
      const [time, nanoseconds, direction, length, offset] = line.split(/,\s*/);
      const write = {
        startedAtMs: Number(time) - Number(nanoseconds) / 1e6,
        endedAtMs: Number(time),
        latencyUs: Number(nanoseconds) / 1000,
        offset: Number(offset),
        length: Number(length),
      };
      if (!Object.values(write).every(Number.isFinite)) {
        throw new OperationError(`the log of fio has a line of another form: ${line}`);
      }
      if (direction === WRITE) writes.push(write);
    }
    if (writes.length === 0) throw new OperationError('the log of fio has no writes');
    return new WriteLog(writes);
  }

  /** Bytes of all writes that began and ended in the period, each time counted. */
  writtenBytes(period: Period): number {
    return this.#during(period).reduce((sum, { length }) => sum + length, 0);
  }

  /** Bytes of the disk's chunks that such writes touched, each chunk once. @param sizeBytes of the disk */
  chunkBytes(period: Period, granularityBytes: number, sizeBytes: number): number {
    const chunks = new Set<number>();
    for (const { offset, length } of this.#during(period)) {
      const end = Math.ceil((offset + length) / granularityBytes);
      for (let chunk = Math.floor(offset / granularityBytes); chunk < end; chunk += 1) chunks.add(chunk);
    }
    let bytes = chunks.size * granularityBytes;
    const last = Math.floor((sizeBytes - 1) / granularityBytes);
    if (chunks.has(last)) bytes -= (last + 1) * granularityBytes - sizeBytes;
    return bytes;
  }

  /** Of the writes that were answered in the period. */
  latency({ fromMs, toMs }: Period): LatencyFigures {
    const found = this.#writes.filter(({ endedAtMs }) => endedAtMs >= fromMs && endedAtMs <= toMs);
    const sorted = Float64Array.from(found, ({ latencyUs }) => latencyUs).sort();
    return {
      writes: sorted.length,
      p50Us: rank(sorted, 0.5),
      p99Us: rank(sorted, 0.99),
      maxUs: sorted.at(-1),
    };
  }

  #during({ fromMs, toMs }: Period): LoggedWrite[] {
    return this.#writes.filter(({ startedAtMs, endedAtMs }) => startedAtMs >= fromMs && endedAtMs <= toMs);
  }
}

/** The nearest rank; undefined for no values. @param sorted ascending @param share above 0, at most 1 */
export function rank(sorted: Float64Array, share: number): number | undefined {
  return sorted[Math.ceil(share * sorted.length) - 1];
}
