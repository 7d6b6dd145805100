// `repagent status`: asks a process and shows its answer, once or each second.
import type { ControlAddress } from '../../control/address.ts';
import { fetchStatus } from '../../control/client.ts';
import type { ProcessStatus } from '../../control/status.ts';
import { statusLine, statusTable } from '../view/status-table.ts';
import { lookOf } from '../view/terminal.ts';
import { findControl } from './find-control.ts';
import { watchSignals } from './signals.ts';
import { sleep } from './sleep.ts';

export interface StatusRequest {
  readonly control: ControlAddress | undefined;
  readonly json: boolean;
  readonly watch: boolean;
}

const WATCH_INTERVAL_MS = 1000;

export async function runStatus(request: StatusRequest): Promise<number> {
  const address = await findControl(request.control);
  if (request.watch) return watch(address, request.json);
  const status = await fetchStatus(address);
  if (request.json) print([JSON.stringify(status)]);
  else print(statusTable(status, lookOf(process.stdout)));
  return 0;
}

/** Until a signal, which is how one leaves it: exit status 0. */
async function watch(address: ControlAddress, json: boolean): Promise<number> {
  const signals = watchSignals();
  let drawn = 0;
  try {
    while (signals.received === undefined) {
      drawn = draw(await fetchStatus(address), json, drawn);
      await sleep(WATCH_INTERVAL_MS, signals.aborted);
    }
  } finally {
    signals.dispose();
  }
  return 0;
}

/** @returns how many lines the next drawing goes over */
function draw(status: ProcessStatus, json: boolean, before: number): number {
  if (json) {
    print([JSON.stringify(status)]);
    return 0;
  }
  if (!process.stdout.isTTY) {
    const now = new Date().toISOString();
    print(status.volumes.map((volume) => `${now} ${statusLine(volume)}`));
    return 0;
  }
  const look = lookOf(process.stdout);
  const lines = statusTable(status, look).slice(0, Math.max(1, (process.stdout.rows || 24) - 1));
  const up = before > 0 ? `\x1b[${before}A` : '';
  process.stdout.write(`${up}\r\x1b[J${lines.join('\n')}\n`);
  return lines.length;
}

function print(lines: readonly string[]): void {
  for (const line of lines) process.stdout.write(`${line}\n`);
}
