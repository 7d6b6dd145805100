// Moments that random lives meet seldom: ends and beginnings that overlap with a commit under way, and hubs that hang.
import { afterEach, describe, expect, it } from 'vitest';
import { deferred } from '../../src/base/lifecycle.ts';
import { pattern } from '../support/disk-model.ts';
import { World, type WorldOptions, type WorldVolume } from '../support/replication-world.ts';
import { waitUntil } from '../support/wait-until.ts';

const KIB = 1024;
let world: World;
const gates: Array<() => void> = [];

async function begin(options: Partial<WorldOptions> = {}): Promise<WorldVolume> {
  world = await World.create({
    sizes: { a: 256 * KIB },
    jumble: null,
    queueBytes: 4 * KIB * KIB,
    ...options,
  });
  await world.heal();
  return world.volumes[0]!;
}

afterEach(async () => {
  for (const open of gates.splice(0)) open();
  await world.close();
});

/** Commits of the volume's image wait until the returned function is called. */
function holdCommits(volume: WorldVolume): () => void {
  const image = world.image(volume);
  const { promise, open } = gate();
  const letGo = (): void => {
    image.commitGate = undefined;
    open();
  };
  image.commitGate = () => promise;
  gates.push(letGo);
  return letGo;
}

/** What is appended to the volume's image waits until the returned function is called. */
function holdAppends(volume: WorldVolume): () => void {
  const image = world.image(volume);
  const { promise, open } = gate();
  const letGo = (): void => {
    image.appendGate = undefined;
    open();
  };
  image.appendGate = () => promise;
  gates.push(letGo);
  return letGo;
}

function gate(): { readonly promise: Promise<void>; readonly open: () => void } {
  const { promise, resolve } = deferred<void>();
  return { promise, open: () => resolve() };
}

function write(volume: WorldVolume, offset: number, length: number, seed: number): void {
  world.change(volume, { kind: 'write', offset, data: pattern(length, seed), fua: false });
}

const until = (what: string, condition: () => unknown) =>
  waitUntil(condition, { what, timeoutMs: 20_000, intervalMs: 1 });

describe('a commit that takes long', () => {
  it('is under way when the agent says goodbye and another one begins', async () => {
    const volume = await begin();
    const letGo = holdCommits(volume);
    write(volume, 4096, 4096, 1);
    await world.replaceAgent(false);
    await until('the new agent to be followed', () => world.status(volume).state === 'initial-sync');
    letGo();
    await world.heal();
  });

  it('settles nothing of a later round', async () => {
    const volume = await begin({ jumble: 7 });
    const image = world.image(volume);
    // A round whose settling commit is under way ...
    const letGo = holdCommits(volume);
    volume.disk.failNext = 1;
    write(volume, 0, 4096, 2);
    await until('converging', () => world.hubStatus(volume)?.state === 'converging');
    await until('its commit', () => image.log.at(-1) === 'commit begins');
    // ... while another one is read and stored.
    const store = holdAppends(volume);
    volume.disk.failNext = 1;
    write(volume, 65_536, 4096, 3);
    await until('its data', () => image.isBusy);
    letGo();
    await world.turns(20);
    expect(world.hubStatus(volume)?.state).not.toBe('protected');
    store();
    await world.heal();
  });

  it('settles nothing after a cut', async () => {
    const volume = await begin();
    const image = world.image(volume);
    const letGo = holdCommits(volume);
    volume.disk.failNext = 1;
    write(volume, 0, 4096, 2);
    await until('converging', () => world.hubStatus(volume)?.state === 'converging');
    await until('its commit', () => image.log.at(-1) === 'commit begins');
    const store = holdAppends(volume);
    world.proxy.refuses = true;
    world.proxy.cut();
    await until('the cut', () => world.hubStatus(volume)?.state === 'degraded');
    world.proxy.refuses = false;
    await until('the next round', () => world.status(volume).state === 'converging');
    write(volume, 131_072, 4096, 5);
    await until('its change', () => image.isBusy);
    letGo();
    await world.turns(20);
    expect(world.hubStatus(volume)?.state).not.toBe('protected');
    store();
    await world.heal();
  });

  it('lets guests go on, and acknowledges nothing', async () => {
    const volume = await begin();
    const letGo = holdCommits(volume);
    const before = world.status(volume).ackedSequence;
    for (let i = 0; i < 50; i += 1) write(volume, i * 4096, 4096, i + 1);
    await world.guestsAnswered();
    await until(
      'the hub to have all',
      () => world.hubStatus(volume)?.sequence === world.status(volume).sequence,
    );
    world.check();
    expect(world.status(volume).ackedSequence).toBe(before);
    letGo();
    await world.heal();
  });
});

describe('an answer that overtakes the stream', () => {
  it('does not make the replica protected before the stream has caught up', async () => {
    const volume = await begin({ sizes: { a: 640 * KIB }, queueBytes: 64 * KIB * KIB });
    const { proxy } = world;
    const { remoteReads } = world.agent.stats;
    // The hub wants to read a chunk; its request is held up.
    proxy.stall('down');
    volume.disk.failNext = 1;
    write(volume, 0, 4096, 1);
    await until('the next round', () => world.hubStatus(volume)?.state === 'resync');
    // Meanwhile the stream fills every buffer on its way, and the chunk changes last of all.
    proxy.stall('up');
    for (let i = 0; i < 400; i += 1) write(volume, 65_536 + (i % 9) * 65_536, 65_536, i + 2);
    write(volume, 0, 4096, 1000);
    await until('a full way', () => world.agent.stats.queuedBytes > 4 * KIB * KIB);
    const last = world.status(volume).sequence;
    proxy.goOn('down');
    await until('the read', () => world.agent.stats.remoteReads > remoteReads);
    proxy.delayMs = 1;
    proxy.pieceBytes = 256 * KIB;
    proxy.goOn('up');
    let looks = 0;
    await until('the stream to arrive', () => {
      looks += 1;
      if (looks % 16 === 0) world.check();
      const status = world.hubStatus(volume)!;
      if (status.sequence < last) expect(status.state).not.toBe('protected');
      return status.sequence >= last && status.state === 'protected';
    });
    expect(looks).toBeGreaterThan(20);
    await world.heal();
  });
});
