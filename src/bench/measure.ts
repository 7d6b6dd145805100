// One measurement: fio against one server, and what the server's processes spent meanwhile.
import { OperationError } from '../base/errors.ts';
import { type FioFigures, nbdLoadArgs, parseFioReport, verifyArgs } from './fio.ts';
import type { FioClient } from './fio-client.ts';
import type { Cell } from './matrix.ts';
import { cpuSecondsOf, residentBytesOf } from './process-usage.ts';
import type { Round } from './result.ts';
import type { RunningServer } from './server.ts';

/** How long a run of fio may take beyond its load. */
const FIO_GRACE_MS = 30_000;
const VERIFY_TIMEOUT_MS = 60_000;
const MEMORY_INTERVAL_MS = 200;

/** Runs the cell's load once. @throws OperationError when fio fails, reports errors, or reports no I/O */
export async function measure(
  server: RunningServer,
  cell: Cell,
  sizeBytes: number,
  seconds: number,
  client: FioClient,
): Promise<Round> {
  const args = server.load?.(cell, seconds) ?? nbdLoadArgs(cell, urisOf(server), sizeBytes, seconds);
  let serverPeakBytes = residentBytesOf(server.pids);
  const timer = setInterval(() => {
    serverPeakBytes = Math.max(serverPeakBytes, residentBytesOf(server.pids));
  }, MEMORY_INTERVAL_MS);
  const cpuBefore = cpuSecondsOf(server.pids);
  let figures: FioFigures;
  try {
    const report = await client.run(args, seconds * 1000 + FIO_GRACE_MS);
    figures = parseFioReport(report, server.countJob);
  } finally {
    clearInterval(timer);
  }
  // What a mirror still has to copy belongs to what it was asked to do, and must not disturb who comes next.
  await server.settle?.();
  const { cpuSeconds, ...rest } = figures;
  return {
    ...rest,
    serverCpuSeconds: cpuSecondsOf(server.pids) - cpuBefore,
    clientCpuSeconds: cpuSeconds,
    serverPeakBytes,
  };
}

/** Has fio write, read back and compare checksums. @throws OperationError when the server lost or changed something */
export async function verify(server: RunningServer, sizeBytes: number, client: FioClient): Promise<void> {
  for (const uri of server.uris)
    parseFioReport(await client.run(verifyArgs(uri, sizeBytes), VERIFY_TIMEOUT_MS));
}

function urisOf({ uris }: RunningServer): readonly string[] {
  if (uris.length === 0) throw new OperationError('a server without a URI needs a load of its own');
  return uris;
}
