// filter stats: counts calls, bytes and errors by operation, with their durations. Read it as the chain's status, or
// in the log when the chain closes.
import type { Logger } from '../base/log.ts';
import { formatBytes } from '../base/size.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import { type Call, ObservingFilter, OPERATIONS, type Operation } from './around-filter.ts';
import type { FilterStatus } from './context.ts';
import { defineFilter } from './define-filter.ts';
import { LatencyHistogram } from './latency-histogram.ts';

export const statsFilter = defineFilter({
  name: 'stats',
  summary: 'Counts calls, bytes, errors and latencies by operation',
  options: {
    quiet: {
      kind: 'boolean',
      default: false,
      description: "don't write the figures to the log when the export is closed",
    },
  },
  examples: [{ spec: 'stats', text: 'Logs what was done to the disk when it is closed' }],
  create(below, { quiet }, { logger }) {
    return new StatsFilter(below, quiet ? undefined : logger);
  },
});

/** The figures of one operation. Latencies are microseconds; percentiles are bounds, at most twice the true value. */
export interface OperationStats {
  readonly calls: number;
  readonly bytes: number;
  readonly errors: number;
  readonly meanUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
  readonly maxUs: number;
  readonly latencyUs: ReadonlyArray<{ lessThanUs: number | null; count: number }>;
}

class Counter {
  bytes = 0;
  errors = 0;
  readonly latency = new LatencyHistogram();

  figures(): OperationStats {
    const { latency } = this;
    return {
      calls: latency.count,
      bytes: this.bytes,
      errors: this.errors,
      meanUs: round(latency.meanUs),
      p50Us: round(latency.quantileUs(0.5)),
      p99Us: round(latency.quantileUs(0.99)),
      maxUs: round(latency.maxUs),
      latencyUs: latency.buckets(),
    };
  }
}

class StatsFilter extends ObservingFilter {
  readonly #counters = new Map<Operation, Counter>();
  readonly #report: Logger | undefined;

  constructor(below: BlockDevice, report: Logger | undefined) {
    super(below);
    this.#report = report;
  }

  /** The figures by operation; operations that were never called are left out. */
  status(): FilterStatus {
    const status: Partial<Record<Operation, OperationStats>> = {};
    for (const operation of OPERATIONS) {
      const counter = this.#counters.get(operation);
      if (counter) status[operation] = counter.figures();
    }
    return status;
  }

  protected override answered(call: Call, _token: number, durationMs: number, error?: unknown): void {
    let counter = this.#counters.get(call.operation);
    if (!counter) {
      counter = new Counter();
      this.#counters.set(call.operation, counter);
    }
    counter.latency.add(durationMs * 1000);
    if (error === undefined) counter.bytes += call.length;
    else counter.errors += 1;
  }

  override async close(): Promise<void> {
    try {
      await super.close();
    } finally {
      this.#log();
    }
  }

  #log(): void {
    for (const [operation, counter] of this.#counters) {
      const figures = counter.figures();
      const { calls, bytes, errors, meanUs, p99Us, maxUs } = figures;
      this.#report?.info(
        { operation, ...figures },
        `${operation}: ${calls} calls, ${formatBytes(bytes)}, ${errors} errors, ` +
          `mean ${meanUs}us, p99 ${p99Us}us, max ${maxUs}us`,
      );
    }
  }
}

function round(us: number): number {
  return Math.round(us * 10) / 10;
}
