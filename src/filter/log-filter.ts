// filter log: one line for each call, to the log or to a file. Trouble with the file is told once and must never
// reach the guest.
import { closeSync, openSync, writeSync } from 'node:fs';
import { BlockError, errorMessage, OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import { type Call, ObservingFilter } from './around-filter.ts';
import { defineFilter } from './define-filter.ts';

export const logFilter = defineFilter({
  name: 'log',
  summary: 'Writes one line for each call: offset, length, flags, result and duration',
  options: {
    file: {
      kind: 'string',
      description:
        'append the lines to this file instead of the log; they are written as the calls are answered',
    },
    start: {
      kind: 'boolean',
      default: false,
      description: 'also write a line when a call begins, to see those that are never answered',
    },
  },
  examples: [
    { spec: 'log', text: 'Logs every call' },
    { spec: 'log,file=/tmp/calls.txt,start', text: 'Writes the begin and the end of every call to a file' },
  ],
  create(below, { file, start }, { logger, exportName }) {
    const sink = file === undefined ? toLogger(logger) : toFile(file, exportName, logger);
    return new LogFilter(below, sink, start);
  },
});

/** Where lines go. Neither function throws. */
interface LineSink {
  line(text: string, fields: Record<string, unknown>): void;
  close(): void;
}

class LogFilter extends ObservingFilter {
  readonly #sink: LineSink;
  readonly #logsStart: boolean;
  #lastId = 0;

  constructor(below: BlockDevice, sink: LineSink, logsStart: boolean) {
    super(below);
    this.#sink = sink;
    this.#logsStart = logsStart;
    const { sizeBytes } = below;
    sink.line(`open size=${sizeBytes}`, { operation: 'open', sizeBytes });
  }

  protected override started(call: Call): number {
    this.#lastId += 1;
    const id = this.#lastId;
    if (this.#logsStart) this.#sink.line(`#${id} ${callText(call)} ...`, { id, ...call });
    return id;
  }

  protected override answered(call: Call, id: number, durationMs: number, error?: unknown): void {
    const durationUs = Math.round(durationMs * 1000);
    const failure = error === undefined ? undefined : failureText(error);
    this.#sink.line(`#${id} ${callText(call)} ${failure ?? 'ok'} ${durationUs}us`, {
      id,
      ...call,
      durationUs,
      ...(failure === undefined ? {} : { error: failure }),
    });
  }

  override async close(): Promise<void> {
    this.#sink.line('close', { operation: 'close' });
    try {
      await super.close();
    } finally {
      this.#sink.close();
    }
  }
}

function callText(call: Call): string {
  const range = call.operation === 'flush' ? '' : ` offset=${call.offset} length=${call.length}`;
  return `${call.operation}${range}${call.fua ? ' fua' : ''}${call.mayTrim ? ' may-trim' : ''}`;
}

function failureText(error: unknown): string {
  const message = JSON.stringify(errorMessage(error));
  return error instanceof BlockError ? `${error.code} ${message}` : `failed ${message}`;
}

function toLogger(logger: Logger): LineSink {
  return {
    line: (text, fields) => logger.info(fields, text),
    close: () => {},
  };
}

function toFile(path: string, exportName: string, logger: Logger): LineSink {
  let fd: number | undefined = openForAppend(path);
  return {
    line(text) {
      if (fd === undefined) return;
      try {
        writeSync(fd, `${new Date().toISOString()} ${exportName} ${text}\n`);
      } catch (error) {
        logger.error({ err: error, file: path }, `can't write to ${path}; no more calls are logged`);
        closeSync(fd);
        fd = undefined;
      }
    },
    close() {
      if (fd !== undefined) closeSync(fd);
      fd = undefined;
    },
  };
}

function openForAppend(path: string): number {
  try {
    return openSync(path, 'a', 0o600);
  } catch (error) {
    throw new OperationError(`can't open ${path}: ${errorMessage(error)}`, {
      cause: error,
      hint: 'give file= a path in a directory that exists and may be written to',
    });
  }
}
