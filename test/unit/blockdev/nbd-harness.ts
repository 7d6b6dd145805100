// Opens devices for the client's tests and closes everything afterwards, and keeps what was logged.
import { pino } from 'pino';
import { afterEach, expect } from 'vitest';
import type { Logger } from '../../../src/base/log.ts';
import {
  type NbdDevice,
  type OpenNbdOptions,
  openNbdDevice,
} from '../../../src/blockdev/nbd-client/index.ts';
import { FakeNbdServer, type FakeServerOptions } from './nbd-fake-server.ts';

const cleanups: Array<() => Promise<void>> = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

/** Runs after the test, in reverse order. */
export function later(cleanup: () => Promise<void>): void {
  cleanups.push(cleanup);
}

export interface LogLine {
  readonly level: number;
  readonly msg: string;
}

/** A logger, and what it was told at `info` and above. */
export function capture(): { logger: Logger; lines: LogLine[] } {
  const lines: LogLine[] = [];
  const logger = pino({ level: 'info' }, { write: (line) => lines.push(JSON.parse(line) as LogLine) });
  return { logger, lines };
}

export async function startServer(options: FakeServerOptions = {}): Promise<FakeNbdServer> {
  const server = await new FakeNbdServer(options).start();
  later(() => server.stop());
  return server;
}

export interface Opened {
  readonly device: NbdDevice;
  readonly lines: LogLine[];
}

/** Opens with short pauses and deadlines, so that a test that waits for one doesn't wait long. */
export async function open(uri: string, options: Partial<OpenNbdOptions> = {}): Promise<Opened> {
  const { logger, lines } = capture();
  const device = await openNbdDevice(uri, {
    logger,
    connectTimeoutMs: 2000,
    closeTimeoutMs: 1000,
    backoff: { firstMs: 2, maxMs: 20 },
    ...options,
  });
  later(async () => {
    await device.close().catch(() => {});
  });
  return { device, lines };
}

/** The error with which `promise` rejects. */
export async function rejection(promise: unknown): Promise<Error & { code?: string; hint?: string }> {
  try {
    await promise;
  } catch (error) {
    expect(error).toBeInstanceOf(Error);
    return error as Error;
  }
  return expect.fail('it did not reject');
}
