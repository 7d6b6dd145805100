// One logger for the whole process: JSON lines on standard error, readable text when that is a terminal.
import { destination, type Logger as PinoLogger, pino } from 'pino';
import { build as pretty } from 'pino-pretty';
import { MiB } from './limits.ts';

export type Logger = PinoLogger;

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Log bytes that may wait for a slow reader of standard error; beyond it lines are dropped, never the guest stalled. */
const MAX_PENDING_LOG_BYTES = 4 * MiB;

/** A logger on standard error. Standard output stays free for the one line that scripts wait for. */
export function createLogger(level: LogLevel, name: string): Logger {
  const base = { name, pid: process.pid };
  if (process.stderr.isTTY) {
    return pino(
      { level, base },
      pretty({ destination: 2, sync: true, colorize: true, ignore: 'pid,hostname' }),
    );
  }
  const sink = destination({ fd: 2, sync: false, maxLength: MAX_PENDING_LOG_BYTES });
  process.on('exit', () => {
    try {
      sink.flushSync();
    } catch {
      // Standard error is gone; there is nobody left to tell.
    }
  });
  return pino({ level, base }, sink);
}

/** Says nothing: for tests and for embedding. */
export const silentLogger: Logger = pino({ level: 'silent' });
