// A logger whose lines the test can read.
import { pino } from 'pino';
import type { Logger } from '../../src/base/log.ts';

export interface CapturedLog {
  readonly logger: Logger;
  /** Every line so far, parsed. */
  lines(): Array<Record<string, unknown> & { level: number; msg: string }>;
  /** The messages at error level and above. */
  errors(): string[];
  /** All lines as they were written, JSON. */
  text(): string;
}

/** Keeps everything from trace level up. */
export function captureLog(): CapturedLog {
  const texts: string[] = [];
  const logger = pino({ level: 'trace' }, { write: (text: string) => void texts.push(text) });
  const lines = (): ReturnType<CapturedLog['lines']> => texts.map((text) => JSON.parse(text));
  return {
    logger,
    lines,
    text: () => texts.join(''),
    errors: () =>
      lines()
        .filter((line) => line.level >= 50)
        .map((line) => line.msg),
  };
}
