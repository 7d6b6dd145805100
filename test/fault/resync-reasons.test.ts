// Why a hub had to read: both sides must name the same reason, and it must be the true one.
import { afterEach, expect, it } from 'vitest';
import type { ResyncRecord } from '../../src/base/resync-log.ts';
import { pattern } from '../support/disk-model.ts';
import { World, type WorldVolume } from '../support/replication-world.ts';
import { waitUntil } from '../support/wait-until.ts';

const KIB = 1024;
const CHUNK = 64 * KIB;
let world: World;

afterEach(() => world.close());

async function begin(queueBytes = 4 * KIB * KIB): Promise<WorldVolume> {
  world = await World.create({ sizes: { a: 512 * KIB }, jumble: null, queueBytes });
  await world.heal();
  return world.volumes[0]!;
}

function write(volume: WorldVolume, offset: number, length: number): void {
  world.change(volume, { kind: 'write', offset, data: pattern(length, offset + 1), fua: false });
}

interface Both {
  readonly agent: ResyncRecord;
  readonly hub: ResyncRecord;
}

/** The newest resync as each side tells it, once both say that it is done. */
async function newest(volume: WorldVolume): Promise<Both> {
  await world.heal();
  const both = (): Both => ({
    agent: world.status(volume).resyncs![0]!,
    hub: world.hubStatus(volume)!.resyncs![0]!,
  });
  const isDone = (): boolean => both().agent.outcome === 'done' && both().hub.outcome === 'done';
  await waitUntil(isDone, { what: 'the resync to be done', timeoutMs: 5000, intervalMs: 1 });
  return both();
}

it('the first start', async () => {
  const { agent, hub } = await newest(await begin());
  for (const one of [agent, hub]) {
    expect(one).toMatchObject({
      reason: 'start',
      readBytes: 512 * KIB,
      comparedBytes: 0,
      furtherReasons: [],
    });
    expect(Math.abs(Date.parse(one.startedAt) - Date.now())).toBeLessThan(60_000);
  }
});

it('a lost link, with what guests wrote meanwhile and what was read for it', async () => {
  const volume = await begin();
  world.proxy.refuses = true;
  world.proxy.cut();
  await waitUntil(() => world.status(volume).state === 'degraded', { what: 'the loss', timeoutMs: 5000 });
  for (const at of [0, 4096, 4096, 3 * CHUNK]) write(volume, at, 4096);
  const { agent, hub } = await newest(volume);
  const expected = { reason: 'link-lost', changedBytes: 4 * 4096, readBytes: 2 * CHUNK };
  expect(agent).toMatchObject(expected);
  expect(hub).toMatchObject(expected);
  expect(agent.detail).toMatch(/\w/);
  expect(hub.detail).toMatch(/the (agent|connection)/);
  expect(world.status(volume).resyncs).toHaveLength(2);
});

it('a full queue', async () => {
  const volume = await begin(64 * KIB);
  world.proxy.stall('up');
  for (let at = 0; at < 4 * CHUNK; at += 16 * KIB) write(volume, at, 16 * KIB);
  expect(world.status(volume).state).toBe('degraded');
  world.proxy.goOn();
  const { agent, hub } = await newest(volume);
  expect(agent.reason).toBe('queue-full');
  expect(hub.reason).toBe('queue-full');
  expect(agent.changedBytes).toBe(hub.changedBytes);
  expect(agent.changedBytes).toBeGreaterThan(0);
  expect(agent.changedBytes).toBeLessThanOrEqual(4 * CHUNK);
});

it('another hub, which knows nothing', async () => {
  const volume = await begin();
  await world.stopHub();
  await world.startHub();
  const { agent, hub } = await newest(volume);
  expect(agent).toMatchObject({ reason: 'other-hub', readBytes: 512 * KIB });
  expect(hub).toMatchObject({ reason: 'other-hub', readBytes: 512 * KIB });
});

it('a replica that could not be stored', async () => {
  const volume = await begin();
  world.image(volume).commitFaults = ['EIO'];
  write(volume, 0, 4096);
  await waitUntil(() => world.hubStatus(volume)?.state === 'failed', {
    what: 'the failure',
    timeoutMs: 5000,
  });
  const { agent, hub } = await newest(volume);
  expect(agent.reason).toBe('hub-storage');
  expect(hub).toMatchObject({ reason: 'hub-storage', readBytes: 4096 });
  expect(hub.detail).toMatch(/\w/);
});

it("a change that failed at the guest's own disk", async () => {
  const volume = await begin();
  volume.disk.failNext = 1;
  write(volume, CHUNK, 4096);
  const { agent, hub } = await newest(volume);
  expect(agent.reason).toBe('write-failed');
  expect(hub).toMatchObject({ reason: 'write-failed', readBytes: 4096 });
});

it('a resync that is cut short is one of its own, and the next one says why it was', async () => {
  const volume = await begin();
  world.proxy.refuses = true;
  world.proxy.cut();
  await waitUntil(() => world.status(volume).state === 'degraded', { what: 'the loss', timeoutMs: 5000 });
  write(volume, 0, 4096);
  volume.disk.failReads = Number.POSITIVE_INFINITY;
  world.proxy.refuses = false;
  const states = (): string[] => [world.status(volume).state, world.hubStatus(volume)!.state];
  await waitUntil(() => states().join() === 'resync,resync', { what: 'a resync', timeoutMs: 5000 });
  world.proxy.cut();
  await newest(volume);
  const outcomes = (records: readonly ResyncRecord[] | undefined): string[] =>
    records!.map(({ reason, outcome }) => `${reason} ${outcome}`);
  const expected = ['link-lost done', 'link-lost cut-short', 'start done'];
  expect(outcomes(world.status(volume).resyncs)).toEqual(expected);
  expect(outcomes(world.hubStatus(volume)!.resyncs)).toEqual(expected);
});
