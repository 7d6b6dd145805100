// kill -9 of agent and hub at moments that a seed chooses, under fio, again and again: after each round the replica is
// the disk, and what was read for it is no more than the agent's map named. A few rounds here; by hand as many as
// wanted: npm run soak -- --rounds 100 --seed 7
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { KiB, MiB } from '../../src/base/limits.ts';
import { formatBytes } from '../../src/base/size.ts';
import { seededRandom } from '../../src/filter/random.ts';
import { FioLoad } from '../support/fio-load.ts';
import { type AgentCounts, MirrorPair, volumeAt } from '../support/mirror-pair.ts';
import { makeImage } from '../support/rig.ts';
import { tempDir } from '../support/temp-dir.ts';
import { testSeed } from '../support/test-seed.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 128 * MiB;
const CHUNK = Number(process.env.SOAK_GRANULARITY ?? 64) * KiB;
const CHUNKS = SIZE / CHUNK;

/** How the agent keeps its map. */
const MAP_ARGS = [
  ...['--dirty-granularity', String(CHUNK)],
  ...['--dirty-sync', process.env.SOAK_DIRTY_SYNC ?? 'lazy'],
];

/** A write of fio's touches no more. */
const CHUNKS_PER_WRITE = 2;

const ROUNDS = Number(process.env.SOAK_ROUNDS ?? 3);
const SEED = process.env.SOAK_SEED === undefined ? testSeed() : Number(process.env.SOAK_SEED);

/** For vitest: what a round may take on a busy machine. */
const ROUND_TIMEOUT_MS = 100_000;

interface Kill {
  readonly victims: readonly ('agent' | 'hub')[];
  /** Only once a guest was seen to write. */
  readonly waitsForLoad: boolean;
  /** From that moment, or from the one at which everything runs. */
  readonly afterMs: number;
  /** From the first victim to the second. */
  readonly gapMs: number;
  /** Until they are started again. */
  readonly downMs: number;
}

/** What a seed says of one round: one to three kills, the later ones while the earlier are being made good. */
function planRound(random: () => number): Kill[] {
  const upTo = (max: number): number => Math.floor(random() * max);
  const victims = [['agent'], ['hub'], ['agent', 'hub'], ['hub', 'agent']] as const;
  return Array.from({ length: 1 + upTo(3) }, (_, i) => ({
    waitsForLoad: i === 0 || upTo(3) > 0,
    victims: victims[upTo(victims.length)]!,
    afterMs: upTo(1200),
    gapMs: upTo(2) * upTo(200),
    downMs: upTo(2) * upTo(800),
  }));
}

interface Round {
  /** By guests, of which a kill may hide the last few. */
  readonly writtenBytes: number;
  /** Read of the disk for the hub, and what it may have been: what the map named, and what came before the hub followed. */
  readonly readBytes: number;
  readonly allowedBytes: number;
}

/** Counts what the hub reads of the disk beside what it may read, through all attachments of a round. */
class Ledger {
  readonly #pair: MirrorPair;
  #writtenBytes = 0;
  #readBytes = 0;
  #allowedChunks = 0;
  #from: AgentCounts;
  /** What was counted when the hub was seen to follow; undefined until it does. */
  #followed: AgentCounts | undefined;
  #isWatched = false;
  #watching: Promise<void> = Promise.resolve();

  /** @param now everything runs, the hub follows */
  constructor(pair: MirrorPair, now: AgentCounts) {
    this.#pair = pair;
    this.#from = now;
    this.#followed = now;
  }

  /** The agent, or the hub, or both, are about to be started; those that live have been told of no one. */
  async attaching(isNewAgent: boolean): Promise<void> {
    const now = isNewAgent ? NOTHING : await this.#pair.counts();
    if (!isNewAgent) this.#add(now);
    // What changes from here on and before the hub follows may be named in addition.
    this.#allowedChunks += this.#pair.namedChunks(CHUNKS);
    this.#from = now;
    this.#followed = undefined;
  }

  /** Everything runs: looks for the moment at which the hub follows. */
  watch(): void {
    this.#isWatched = true;
    this.#watching = this.#look();
  }

  /** Somebody is about to be killed, or the round is over. */
  async count(): Promise<Round> {
    this.#isWatched = false;
    await this.#watching;
    const now = await this.#pair.counts();
    const until = now.overflows > this.#from.overflows ? now : (this.#followed ?? now);
    this.#allowedChunks += CHUNKS_PER_WRITE * Math.max(0, until.changes - this.#from.changes);
    this.#add(now);
    this.#from = now;
    this.#followed ??= now;
    return {
      writtenBytes: this.#writtenBytes,
      readBytes: this.#readBytes,
      allowedBytes: this.#allowedChunks * CHUNK,
    };
  }

  #add(now: AgentCounts): void {
    this.#writtenBytes += now.writtenBytes - this.#from.writtenBytes;
    this.#readBytes += now.readBytes - this.#from.readBytes;
  }

  async #look(): Promise<void> {
    while (this.#isWatched && !this.#followed) {
      const volume = await volumeAt(this.#pair.agent);
      if (volume && volume.state !== 'degraded' && volume.state !== 'unprotected') {
        this.#followed = await this.#pair.counts();
      }
      await pause(10);
    }
  }
}

const NOTHING: AgentCounts = { readBytes: 0, changes: 0, writtenBytes: 0, overflows: 0, connections: 0 };

/** Lives one round; everything runs before and after it. */
async function liveRound(pair: MirrorPair, kills: readonly Kill[], nextLoad: () => FioLoad): Promise<Round> {
  let load = nextLoad();
  const ledger = new Ledger(pair, await pair.counts());
  for (const kill of kills) {
    if (kill.waitsForLoad) await untilWritten(pair);
    await pause(kill.afterMs);
    await ledger.count();
    for (const [i, victim] of kill.victims.entries()) {
      if (i > 0) await pause(kill.gapMs);
      await (victim === 'hub' ? pair.hub : pair.agent).kill();
    }
    await pause(kill.downMs);
    const isNewAgent = kill.victims.includes('agent');
    if (isNewAgent) await load.drop();
    await ledger.attaching(isNewAgent);
    if (kill.victims.includes('hub')) await pair.startHub();
    if (isNewAgent) {
      await pair.startAgent();
      load = nextLoad();
    }
    ledger.watch();
  }
  await load.stop();
  await pair.settled();
  return ledger.count();
}

async function untilWritten(pair: MirrorPair): Promise<void> {
  const { changes } = await pair.counts();
  await waitUntil(async () => (await pair.counts()).changes > changes, {
    what: `a guest that writes\n${pair.logs()}`,
    timeoutMs: 30_000,
  });
}

/** What lives all of it again. */
function soakCommand(): string {
  const options = { '--granularity': 'SOAK_GRANULARITY', '--dirty-sync': 'SOAK_DIRTY_SYNC' };
  const given = Object.entries(options).flatMap(([name, variable]) => {
    const value = process.env[variable];
    return value === undefined ? [] : [` ${name} ${value}`];
  });
  return `npm run soak -- --rounds ${ROUNDS} --seed ${SEED}${given.join('')}`;
}

function describeKills(kills: readonly Kill[]): string {
  return kills.map((kill) => kill.victims.join('+')).join(', ');
}

test(`killed ${ROUNDS} rounds long, nothing is lost and no volume is read again`, {
  timeout: ROUNDS * ROUND_TIMEOUT_MS,
}, async () => {
  const dir = tempDir();
  const startedAt = performance.now();
  const random = seededRandom(SEED);
  const again = soakCommand();
  let writtenBytes = 0;
  let readBytes = 0;
  try {
    makeImage(dir.file('a.img'), SIZE, [[0, SIZE / MiB]]);
    await using pair = new MirrorPair({ folder: dir.path, sizeBytes: SIZE, agentArgs: MAP_ARGS });
    await pair.start();
    await pair.settled();
    const nextLoad = (): FioLoad =>
      new FioLoad(pair.uri, {
        seed: Math.floor(random() * 2 ** 31),
        writesPerSecond: 150,
        sizeBytes: SIZE,
        folder: dir.path,
      });
    for (let round = 1; round <= ROUNDS; round += 1) {
      const kills = planRound(random);
      const what = `round ${round} of ${ROUNDS}, killed ${describeKills(kills)}`;
      const figures = await liveRound(pair, kills, nextLoad).catch((error: unknown) => {
        throw new Error(`${what}: ${String(error)}\n${again}`, { cause: error });
      });
      expect(pair.difference(), `${what}\n${again}\n${pair.logs()}`).toBe('');
      expect(figures.readBytes, `${what}\n${again}\n${pair.logs()}`).toBeLessThanOrEqual(
        figures.allowedBytes,
      );
      writtenBytes += figures.writtenBytes;
      readBytes += figures.readBytes;
      tellProgress(what, round, figures, startedAt);
    }
  } finally {
    dir.remove();
  }
  process.stdout.write(
    `  kills: ${ROUNDS} rounds, written ${formatBytes(writtenBytes)}, re-read ${formatBytes(readBytes)}` +
      ` (${(readBytes / writtenBytes).toFixed(2)} of it), where whole volumes were ` +
      `${formatBytes(ROUNDS * SIZE)}; again: ${again}\n`,
  );
  expect(readBytes).toBeGreaterThan(0);
  expect(readBytes).toBeLessThan(ROUNDS * SIZE);
});

function tellProgress(
  what: string,
  round: number,
  { writtenBytes, readBytes, allowedBytes }: Round,
  startedAt: number,
): void {
  const perRoundMs = (performance.now() - startedAt) / round;
  const leftS = Math.round(((ROUNDS - round) * perRoundMs) / 1000);
  const allowed = formatBytes(Math.min(allowedBytes, SIZE));
  process.stdout.write(
    `  ${what}: written ${formatBytes(writtenBytes)}, re-read ${formatBytes(readBytes)} of ` +
      `${formatBytes(SIZE)}, the map allowed ${allowed}; equal` +
      ` (${(perRoundMs / 1000).toFixed(1)} s a round, ${leftS} s left)\n`,
  );
}
