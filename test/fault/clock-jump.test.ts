// The wall clock of agent or hub is set, by seconds or days, while both are at work: nothing is cut, held up, read again,
// or said to be older or newer than it is.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { LagWitness } from '../support/lag-witness.ts';
import { MirrorPair, volumeAt } from '../support/mirror-pair.ts';
import { tempDir } from '../support/temp-dir.ts';
import { TestClock } from '../support/test-clock.ts';
import { waitUntil } from '../support/wait-until.ts';

const CHUNK = 64 * 1024;
const CHUNKS = 1024;
const SIZE = CHUNKS * CHUNK;
const WRITE = 4096;
const HOUR_MS = 3_600_000;

/** What was said to be older than that would be so by the clock alone: no write of this test waits so long. */
const PLAUSIBLE_MS = 60_000;

const STEPS = [
  { who: 'agent', byMs: HOUR_MS },
  { who: 'hub', byMs: -48 * HOUR_MS },
  { who: 'agent', byMs: -5 * HOUR_MS },
  { who: 'hub', byMs: 72 * HOUR_MS },
  { who: 'agent', byMs: 28 * HOUR_MS },
] as const;
const WRITES_PER_STEP = 60;

test('clocks that are set under load', async () => {
  const dir = tempDir();
  try {
    fs.writeFileSync(dir.file('a.img'), randomBytes(8 * CHUNK));
    fs.truncateSync(dir.file('a.img'), SIZE);
    const clocks = {
      agent: new TestClock(dir.file('agent.clock')),
      hub: new TestClock(dir.file('hub.clock')),
    };
    await using pair = new MirrorPair({
      folder: dir.path,
      sizeBytes: SIZE,
      agentOptions: () => clocks.agent.options,
      hubOptions: () => clocks.hub.options,
    });
    await pair.start();
    await pair.recorded(CHUNKS);
    await setUnderLoad(pair, clocks);
    await restart(pair, clocks);
    await killBoth(pair);
  } finally {
    dir.remove();
  }
});

type Clocks = Readonly<Record<'agent' | 'hub', TestClock>>;

async function setUnderLoad(pair: MirrorPair, clocks: Clocks): Promise<void> {
  const before = await pair.counts();
  using witness = new LagWitness(pair.replica);
  const guest = await openNbdDevice(pair.uri, { logger: silentLogger });
  let offset = 0;
  const write = async (): Promise<void> => {
    await witness.write(guest, offset, WRITE);
    offset += WRITE;
  };
  for (const { who, byMs } of STEPS) {
    await clocks[who].set(clocks[who].offsetMs + byMs, pair[who]);
    for (let i = 0; i < WRITES_PER_STEP; i += 1) {
      await write();
      const told = await witness.judge(() => volumeAt(pair.agent));
      expect(told.state).toBe('protected');
      expect(told.lagMs).toBeLessThan(PLAUSIBLE_MS);
    }
    // The hub learns of the agent's clock by its next PING.
    await waitUntil(
      async () => {
        await write();
        const lagMs = (await volumeAt(pair.hub))?.lagMs ?? null;
        return lagMs !== null && lagMs < PLAUSIBLE_MS;
      },
      { what: `a hub that knows its lag after the ${who}'s clock was set by ${byMs} ms`, timeoutMs: 8000 },
    );
  }
  await guest.close();
  // What guests write is still recorded by the second, whatever the second is called.
  await pair.recorded(CHUNKS);
  expect(pair.difference()).toBe('');
  const after = await pair.counts();
  process.stdout.write(`  ${STEPS.length} clocks set, lag judged ${witness.judged} times\n`);
  expect(after.connections).toBe(before.connections);
  expect(after.readBytes).toBe(before.readBytes);
  expect(after.overflows).toBe(before.overflows);
}

/** In order, under the clocks as they are by now. */
async function restart(pair: MirrorPair, clocks: Clocks): Promise<void> {
  await pair.agent.stop();
  await pair.hub.stop();
  await pair.start();
  await pair.expectEqual();
  expect((await pair.counts()).readBytes).toBe(0);
  // The clock is the one that the program goes by: otherwise nothing of this was seen.
  const startedAt = (await volumeAt(pair.agent))?.resyncs?.[0]?.startedAt;
  const asideMs = Date.parse(startedAt ?? '') - Date.now() - clocks.agent.offsetMs;
  expect(Math.abs(asideMs)).toBeLessThan(PLAUSIBLE_MS);
}

async function killBoth(pair: MirrorPair): Promise<void> {
  await pair.recorded(CHUNKS);
  const guest: BlockDevice = await openNbdDevice(pair.uri, { logger: silentLogger });
  const chunks = 20;
  for (let chunk = 0; chunk < chunks; chunk += 1) {
    await guest.write((CHUNKS - 1 - chunk) * CHUNK, randomBytes(WRITE), false);
    await pause(5);
  }
  await guest.close();
  await pair.agent.kill();
  await pair.hub.kill();
  await pair.start();
  await pair.expectEqual();
  const { readBytes } = await pair.counts();
  process.stdout.write(
    `  killed under other clocks: re-read ${readBytes / 1024} KiB, written in ${chunks} chunks\n`,
  );
  expect(readBytes).toBeLessThanOrEqual(chunks * CHUNK);
}
