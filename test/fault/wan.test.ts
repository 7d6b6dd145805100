// Agent and hub on two machines, as far as the network goes: a line with delay and loss, and cuts of which nobody is
// told. Guests never wait for it, silence is noticed by its deadline, and what is read afterwards is what the map names.
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { KiB, MiB } from '../../src/base/limits.ts';
import { MirrorPair, statusOf, volumeAt } from '../support/mirror-pair.ts';
import { PacedGuest } from '../support/paced-guest.ts';
import { makeImage } from '../support/rig.ts';
import { tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';
import { WAN_ADDRESS, Wan } from '../support/wan.ts';

const CHUNK = 64 * KiB;
const CHUNKS = 1024;
const SIZE = CHUNKS * CHUNK;
/** The rest of the disk is a hole: what is copied first goes through the same line. */
const DATA_MIB = 4;
const DATA_CHUNKS = (DATA_MIB * MiB) / CHUNK;

/** A connection is given up after 10 s of silence, which is looked at every 2 s, and once more. Then there is the machine. */
const NOTICED_MS = 10_000 + 2 * 2000 + 3000;
/** A guest that waited for the network would wait for all of the silence. */
const GUEST_PATIENCE_MS = 3000;

const missing = await Wan.missing();
if (missing !== undefined) {
  process.stdout.write(`  SKIPPED, the network between two namespaces: this machine has no ${missing}\n`);
}

interface Stage {
  readonly wan: Wan;
  readonly pair: MirrorPair;
}

/** Both processes run and the volume is protected; everything is gone when `play` has ended. */
async function onStage(play: (stage: Stage) => Promise<void>): Promise<void> {
  const dir = tempDir();
  try {
    makeImage(dir.file('a.img'), SIZE, [[0, DATA_MIB]]);
    await using wan = await Wan.start(1);
    await using pair = new MirrorPair({
      folder: dir.path,
      sizeBytes: SIZE,
      hubHost: WAN_ADDRESS.hub,
      hubArgs: ['--insecure'],
      // Sockets in the file system are reached from any namespace.
      agentArgs: ['--listen', `unix:${dir.file('nbd.sock')}`],
      hubOptions: () => ({ through: wan.through('hub') }),
      agentOptions: () => ({ through: wan.through('agent') }),
    });
    await pair.start();
    await pair.recorded(CHUNKS);
    await play({ wan, pair });
  } finally {
    dir.remove();
  }
}

function guestOf(pair: MirrorPair, firstChunk: number, endChunk: number): PacedGuest {
  return new PacedGuest({ uri: pair.uri, firstChunk, endChunk, chunkBytes: CHUNK, paceMs: 10 });
}

interface Cut {
  readonly what: string;
  readonly cut: (wan: Wan) => Promise<void>;
  readonly heal: (wan: Wan) => Promise<void>;
  /** Who is the first to notice: the other may be told by it, where packets still go that way. */
  readonly said: RegExp;
}

const SILENCE = /nothing was heard of the hub for \d+ ms/;

const CUTS: readonly Cut[] = [
  {
    what: 'both ways',
    cut: (wan) => wan.both({ isCut: true }),
    heal: (wan) => wan.both({}),
    said: SILENCE,
  },
  {
    what: 'from the hub only',
    cut: (wan) => wan.line('hub', { isCut: true }),
    heal: (wan) => wan.line('hub', {}),
    said: SILENCE,
  },
  {
    what: 'from the agent only',
    cut: (wan) => wan.line('agent', { isCut: true }),
    heal: (wan) => wan.line('agent', {}),
    said: /./,
  },
  {
    what: "at the agent's network device",
    cut: (wan) => wan.link('agent', false),
    heal: (wan) => wan.link('agent', true),
    said: SILENCE,
  },
];

describe.skipIf(missing !== undefined)(
  'two namespaces, cut without a word',
  { concurrent: true, timeout: 240_000 },
  () => {
    test.for(CUTS)('$what: noticed by the deadline, guests go on, read by the map', (cut) =>
      onStage((stage) => cutAndHeal(stage, cut)),
    );

    test('delay and loss: guests do not wait for them, and a short silence costs nothing', () =>
      onStage(delayAndLoss));
  },
);

async function cutAndHeal({ wan, pair }: Stage, { what, cut, heal, said }: Cut): Promise<void> {
  const before = await pair.counts();
  await cut(wan);
  const cutAt = performance.now();
  const guest = guestOf(pair, DATA_CHUNKS, DATA_CHUNKS + 300);
  const noticed = { agent: 0, hub: 0 };
  await waitUntil(
    async () => {
      const sinceMs = performance.now() - cutAt;
      if ((await volumeAt(pair.agent))?.state === 'degraded') noticed.agent ||= sinceMs;
      if ((await volumeAt(pair.hub))?.state === 'degraded') noticed.hub ||= sinceMs;
      return noticed.agent > 0 && noticed.hub > 0;
    },
    { what: `both to notice a cut ${what}\n${pair.logs()}`, timeoutMs: NOTICED_MS, intervalMs: 20 },
  );
  expect((await statusOf(pair.agent)).link?.firstError?.text).toMatch(said);
  await heal(wan);
  const healedAt = performance.now();
  await waitUntil(async () => (await volumeAt(pair.agent))?.state === 'protected', {
    what: `protection after a cut ${what}\n${pair.logs()}`,
    timeoutMs: 30_000,
  });
  const healedMs = performance.now() - healedAt;
  await guest.stop();
  await pair.expectEqual();

  const readBytes = (await pair.counts()).readBytes - before.readBytes;
  const [resync] = (await volumeAt(pair.agent))?.resyncs ?? [];
  process.stdout.write(
    `  cut ${what}: noticed by the agent after ${(noticed.agent / 1000).toFixed(1)} s, by the hub after ` +
      `${(noticed.hub / 1000).toFixed(1)} s; re-read ${readBytes / KiB} KiB of ${SIZE / KiB}, written in ` +
      `${guest.chunks.size} chunks of 64 KiB; protected ${(healedMs / 1000).toFixed(1)} s after it; the guest's longest ` +
      `write took ${guest.longestMs.toFixed(1)} ms\n`,
  );
  expect(resync?.reason).toBe('link-lost');
  expect(readBytes).toBeGreaterThan(0);
  expect(readBytes).toBeLessThanOrEqual(guest.chunks.size * CHUNK);
  expect(guest.longestMs).toBeLessThan(GUEST_PATIENCE_MS);
}

async function delayAndLoss({ wan, pair }: Stage): Promise<void> {
  const before = await pair.counts();
  const oneWayMs = 50;
  await wan.both({ delayMs: oneWayMs, loss: 0.01 });
  const guest = guestOf(pair, DATA_CHUNKS, DATA_CHUNKS + 300);
  await waitUntil(() => guest.latenciesMs.length >= 200, { what: 'writes', timeoutMs: 30_000 });
  const lagMs = await waitUntil(
    async () => {
      const told = (await volumeAt(pair.agent))?.lagMs ?? 0;
      return told >= oneWayMs && told;
    },
    { what: 'a lag of the way there' },
  );
  const lossy = await wan.counts();

  // Shorter than the deadline: TCP brings what was lost, and nobody has to know.
  await wan.both({ isCut: true });
  await pause(2000);
  await wan.both({ delayMs: oneWayMs });
  await waitUntil(() => guest.latenciesMs.length >= 400, { what: 'writes', timeoutMs: 30_000 });
  await guest.stop();
  await pair.expectEqual();

  const after = await pair.counts();
  process.stdout.write(
    `  ${2 * oneWayMs} ms there and back, 1 % lost: ${lossy.agent.lost + lossy.hub.lost} packets of ` +
      `${lossy.agent.passed + lossy.hub.passed}; lag ${lagMs} ms; a write of the guest took ` +
      `${guest.medianMs.toFixed(1)} ms (median), ${guest.longestMs.toFixed(1)} ms at most\n`,
  );
  expect(lossy.agent.lost + lossy.hub.lost).toBeGreaterThan(0);
  expect(guest.medianMs, 'a guest that waited would take 100 ms').toBeLessThan(oneWayMs);
  expect(guest.longestMs).toBeLessThan(GUEST_PATIENCE_MS);
  expect(after.readBytes).toBe(before.readBytes);
  expect(after.connections).toBe(before.connections);
}
