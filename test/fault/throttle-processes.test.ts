// A guest that writes faster than its hub takes: with delays the volume stays protected and no write waits long; without
// them it degrades. Both as processes, over a link of 4 MiB/s.
import fs from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import type { VolumeStatus } from '../../src/control/status.ts';
import { startHub, startServe } from '../support/cli.ts';
import { readStatus, waitProtected } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';

const MIB = 2 ** 20;
const BLOCK = 64 * 1024;
const WRITERS = 4;
const RUN_MS = 4000;
const MAX_DELAY_MS = 100;

let dir: TempDir;
beforeEach(() => {
  dir = tempDir();
  for (const name of ['a.img', 'a.replica']) {
    fs.writeFileSync(dir.file(name), '');
    fs.truncateSync(dir.file(name), 16 * MIB);
  }
});
afterEach(() => dir.remove());

interface Outcome {
  readonly states: ReadonlySet<string>;
  readonly last: VolumeStatus;
  /** Of one write, milliseconds. */
  readonly longestMs: number;
  readonly writtenBytes: number;
  readonly longestDelayMs: number;
}

async function flood(more: readonly string[]): Promise<Outcome> {
  await using hub = await startHub([`a=${dir.file('a.replica')}`, '--state-dir', dir.file('hub-state')]);
  await using agent = await startServe([
    ...[`a=${dir.file('a.img')}`, '--hub', `127.0.0.1:${hub.port}`, '--state-dir', dir.file('agent-state')],
    ...['--queue-bytes', '4M', '--hub-bandwidth', '4M', ...more],
  ]);
  await waitProtected(agent);
  const guest = await openNbdDevice(agent.urls[0]!, { logger: silentLogger });
  const endsAt = performance.now() + RUN_MS;
  let longestMs = 0;
  let writtenBytes = 0;
  const writer = async (number: number): Promise<void> => {
    const data = Buffer.alloc(BLOCK, number + 1);
    for (let at = 0; performance.now() < endsAt; at = (at + BLOCK) % (4 * MIB)) {
      const began = performance.now();
      await guest.write(number * 4 * MIB + at, data, false);
      longestMs = Math.max(longestMs, performance.now() - began);
      writtenBytes += BLOCK;
    }
  };
  const states = new Set<string>();
  let longestDelayMs = 0;
  let last!: VolumeStatus;
  const watch = async (): Promise<void> => {
    while (performance.now() < endsAt) {
      last = (await readStatus(agent)).volumes[0]!;
      states.add(last.state);
      longestDelayMs = Math.max(longestDelayMs, last.throttle?.delayMs ?? 0);
    }
  };
  await Promise.all([watch(), ...Array.from({ length: WRITERS }, (_, number) => writer(number))]);
  await guest.close();
  return { states, last, longestMs, writtenBytes, longestDelayMs };
}

it('degrades without delays, which is the default', async () => {
  const { states, last } = await flood([]);
  expect([...states]).toContain('degraded');
  expect(last.throttle).toBeNull();
});

it('stays protected with them, and no write waits for longer than it may', async () => {
  const throttle = ['--on-hub-lag', 'throttle', '--max-delay', `${MAX_DELAY_MS}ms`];
  const { states, last, longestMs, writtenBytes, longestDelayMs } = await flood(throttle);
  process.stdout.write(
    `throttled: ${(writtenBytes / MIB).toFixed(1)} MiB written, longest write ${longestMs.toFixed(1)} ms, longest delay told ${longestDelayMs} ms\n`,
  );
  expect([...states]).toEqual(['protected']);
  expect(longestDelayMs).toBeGreaterThan(0);
  expect(longestDelayMs).toBeLessThanOrEqual(MAX_DELAY_MS);
  expect(last.throttle).toMatchObject({ maxDelayMs: MAX_DELAY_MS });
  expect(last.throttle!.delayedChanges).toBeGreaterThan(WRITERS);
  // The rest is what a busy machine takes for its own work.
  expect(longestMs).toBeLessThan(MAX_DELAY_MS + 1500);
  // The link's 4 MiB/s, and what the queue holds.
  expect(writtenBytes).toBeLessThan((RUN_MS / 1000) * 4 * MIB + 8 * MIB);
});
