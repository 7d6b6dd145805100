// What a failover would give, told at every moment of a replica's life, and what keeps it so: the undo log of a resync,
// with room and without, and a replica that is put back under a hub that waits.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FailoverTo } from '../../src/control/status.ts';
import type { HubOptions } from '../../src/rephub/hub.ts';
import { pattern } from '../support/disk-model.ts';
import { FakeAgent, filledDisk } from '../support/fake-agent.ts';
import {
  checkAcks,
  closeHub,
  expectSame,
  SMALL_CHUNKS,
  type TestHub,
  testHub,
  waitForState,
} from '../support/hub-harness.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { UndoImages } from '../support/undo-images.ts';
import { waitUntil } from '../support/wait-until.ts';

const KIB = 1024;
const SIZE = 256 * KIB;
const BLOCK = 4 * KIB;
const ROOM = 16 * BLOCK;

let dir: TempDir;
let test: TestHub;
let images: UndoImages;
const agents: FakeAgent[] = [];

beforeEach(() => {
  dir = tempDir();
});
afterEach(async () => {
  for (const agent of agents.splice(0)) agent.drop();
  await closeHub(test);
  dir.remove();
});

/** A hub, and an agent that is protected at it. */
async function protectedAgent(options: Partial<HubOptions> = {}): Promise<FakeAgent> {
  images = new UndoImages({ disk: SIZE });
  test = await testHub({ disk: SIZE }, { images, stateDir: dir.path, ...withSmallChunks(options) });
  // The harness looks at images of its own unless it is told.
  test = { ...test, images, image: (name = 'disk') => images.image(name) };
  const agent = new FakeAgent({ volumes: { disk: filledDisk(SIZE) }, chunkBytes: BLOCK });
  agents.push(agent);
  checkAcks(agent, (name) => images.image(name));
  await agent.connect(test.port);
  agent.write('disk', 0, pattern(512, 7));
  await agent.waitAcked();
  return agent;
}

function withSmallChunks(options: Partial<HubOptions>): Partial<HubOptions> {
  return { ...options, tuning: { sync: SMALL_CHUNKS, ...options.tuning } };
}

const failover = (): FailoverTo | null | undefined => test.hub.status()[0]!.failoverTo;

/** The queue of the agent was full while these blocks were written; the hub asks for them, and gets no answer yet. */
async function miss(agent: FakeAgent, blocks: number, seed = 100): Promise<void> {
  agent.overflow('disk');
  for (let block = 0; block < blocks; block += 1) {
    agent.write('disk', block * BLOCK, pattern(BLOCK, seed + block));
  }
  agent.holdReads = true;
  agent.endOverflow('disk');
  await waitUntil(() => agent.reads.length > 0, { what: 'reads' });
}

function answerAll(agent: FakeAgent): void {
  agent.holdReads = false;
  while (agent.reads.length > 0) agent.answerRead();
}

/** Answers one read after the other until there is no way back. */
async function answerUntilNone(agent: FakeAgent): Promise<void> {
  await waitUntil(
    () => {
      if (failover() === null) return true;
      if (agent.reads.length > 0) agent.answerRead();
      return false;
    },
    { what: 'the point to be given up', intervalMs: 2 },
  );
}

async function untilFailover(
  what: string,
  is: (to: FailoverTo | null | undefined) => boolean,
): Promise<void> {
  await waitUntil(() => is(failover()), { what, intervalMs: 2 });
}

describe('what a failover would give', () => {
  it('is nothing in an initial sync, the replica while it follows, and its last point while it is overwritten', async () => {
    images = new UndoImages({ disk: SIZE });
    test = await testHub({ disk: SIZE }, { images, stateDir: dir.path, tuning: { sync: SMALL_CHUNKS } });
    expect(failover()).toBeNull();
    const agent = new FakeAgent({ volumes: { disk: filledDisk(SIZE) }, chunkBytes: BLOCK });
    agents.push(agent);
    agent.holdReads = true;
    await agent.connect(test.port);
    await waitUntil(() => agent.reads.length > 0, { what: 'reads' });
    expect(failover()).toBeNull();
    expect(images.undo('disk').bytes).toBeUndefined();
    answerAll(agent);
    await agent.waitFor('protected');
    const beforeMs = Date.now();
    const last = agent.write('disk', 0, pattern(512, 1));
    await agent.waitAcked();
    expect(failover()).toEqual({ by: 'replica', sequence: last, timeMs: expect.any(Number), isExact: true });
    expect(failover()!.timeMs).toBeGreaterThanOrEqual(beforeMs);

    await miss(agent, 20);
    // Nothing was overwritten yet.
    expect(failover()).toMatchObject({ by: 'replica', sequence: last, isExact: true });
    const point = Buffer.from(images.image('disk').visible);
    agent.answerRead();
    await untilFailover('a point', (to) => to?.by === 'recover');
    expect(failover()).toMatchObject({ sequence: last, isExact: true });
    expect(failover()!.timeMs).toBeGreaterThanOrEqual(beforeMs - 1);
    expect(failover()!.timeMs).toBeLessThanOrEqual(Date.now());
    // The stream goes on, and is no part of the point.
    agent.write('disk', 40 * BLOCK, pattern(BLOCK, 9));
    await waitUntil(
      () =>
        images
          .image('disk')
          .visible.subarray(40 * BLOCK, 41 * BLOCK)
          .equals(pattern(BLOCK, 9)),
      {
        what: 'the write',
      },
    );
    expect(failover()).toMatchObject({ by: 'recover', sequence: last, isExact: true });
    await expect(images.recover('disk', dir.path)).rejects.toThrow('in use');
    await test.hub.close();
    expect(await images.recover('disk', dir.path)).toMatchObject({
      point: { sequence: last, isExact: true },
    });
    expectSame(images.image('disk').visible, point, 'what was put back');
    expectSame(images.image('disk').durable, point, 'what is durable of it');
  });

  it('is the replica again once it is one, and stays it when the agent is gone', async () => {
    const agent = await protectedAgent();
    await miss(agent, 20);
    answerAll(agent);
    await agent.waitAcked();
    const last = agent.write('disk', 3 * BLOCK, pattern(512, 3));
    await agent.waitAcked();
    expect(failover()).toMatchObject({ by: 'replica', sequence: last, isExact: true });
    expect(images.undo('disk').bytes, 'the log').toBeUndefined();
    agent.drop();
    await waitForState(test, 'degraded');
    expect(failover()).toMatchObject({ by: 'replica', sequence: last, isExact: true });
    await test.hub.close();
    const { point, bytes } = await images.recover('disk', dir.path);
    expect([point.sequence, point.isExact, bytes]).toEqual([last, true, 0]);
    expectSame(images.image('disk').visible, agent.volume().disk, 'the replica');
  });

  it('is less than all after the storage failed: what was acknowledged, and parts of what came then', async () => {
    const agent = await protectedAgent();
    const { ackedSequence } = agent.volume();
    images.image('disk').commitFaults = ['EIO'];
    images.image('disk').openFaults = Array.from({ length: 500 }, () => 'EIO' as const);
    agent.write('disk', 5 * BLOCK, pattern(BLOCK, 5));
    await waitForState(test, 'failed');
    expect(failover()).toMatchObject({ by: 'replica', sequence: ackedSequence, isExact: false });
    images.image('disk').openFaults = [];
    await agent.waitAcked();
    expect(failover()).toMatchObject({ by: 'replica', isExact: true });
  });
});

describe('an undo log without room', () => {
  it('holds the replica at its last point until there is, and no guest waits', async () => {
    const agent = await protectedAgent();
    const point = Buffer.from(images.image('disk').visible);
    const { ackedSequence } = agent.volume();
    images.undo('disk').roomBytes = ROOM;
    await miss(agent, 40);
    answerAll(agent);
    await agent.waitFor('failed');
    const { lastError } = test.hub.status()[0]!;
    expect(lastError).toMatch(/held at its last point.*no room.*make room.*--undo-full release/);
    expect(failover()).toMatchObject({ by: 'recover', sequence: ackedSequence, isExact: true });
    for (let i = 0; i < 50; i += 1) agent.write('disk', (i % 64) * BLOCK, pattern(BLOCK, 1000 + i));
    await waitUntil(() => test.hub.status()[0]!.sequence === agent.sequence, { what: 'all to be taken in' });
    expect(agent.volume().ackedSequence, 'nothing new is acknowledged').toBe(ackedSequence);
    const undone = Buffer.from(images.image('disk').visible);
    expect(undone.equals(point)).toBe(false);
    images.undo('disk').roomBytes = Number.POSITIVE_INFINITY;
    await agent.waitAcked();
    expectSame(images.image('disk').visible, agent.volume().disk, 'the replica');
    expect(images.undo('disk').bytes).toBeUndefined();
  });

  it('is put back to the point also then', async () => {
    const agent = await protectedAgent();
    const point = Buffer.from(images.image('disk').visible);
    images.undo('disk').roomBytes = ROOM;
    await miss(agent, 40);
    answerAll(agent);
    await agent.waitFor('failed');
    await test.hub.close();
    expect((await images.recover('disk', dir.path)).point.isExact).toBe(true);
    expectSame(images.image('disk').visible, point, 'what was put back');
  });

  it('is given up with --undo-full release, which `status` and `recover` say', async () => {
    const agent = await protectedAgent({ undo: { whenFull: 'release' } });
    images.undo('disk').roomBytes = ROOM;
    await miss(agent, 40);
    await answerUntilNone(agent);
    expect(test.hub.status()[0]!.state).toBe('resync');
    expect(images.undo('disk').bytes!.visible.length, 'the space is let go').toBeLessThan(ROOM);
    answerAll(agent);
    await agent.waitAcked();
    expect(failover()).toMatchObject({ by: 'replica', isExact: true });
    expectSame(images.image('disk').visible, agent.volume().disk, 'the replica');
    // And once more, with the hub's end in the middle.
    await miss(agent, 40, 200);
    await answerUntilNone(agent);
    await test.hub.close();
    await expect(images.recover('disk', dir.path)).rejects.toThrow(/can't be put back: .*no room/);
  });

  it('is not even begun with --undo-bytes 0, and nothing is promised', async () => {
    const agent = await protectedAgent({ undo: { maxBytes: 0, whenFull: 'hold' } });
    expect(failover()).toMatchObject({ by: 'replica', isExact: true });
    await miss(agent, 20);
    agent.answerRead();
    await untilFailover('none', (to) => to === null);
    agent.holdReads = true;
    await test.hub.close();
    await expect(images.recover('disk', dir.path)).rejects.toThrow('--undo-bytes 0');
  });
});

describe('a replica that is put back under a hub that waits', () => {
  it('is begun with anew: nothing that the hub had stored since counts', async () => {
    const agent = await protectedAgent();
    images.undo('disk').roomBytes = ROOM;
    await miss(agent, 40);
    answerAll(agent);
    await agent.waitFor('failed');
    const starts = agent.volume().starts.length;
    // The hub has the image for a moment each time that it tries.
    await waitUntil(
      async () =>
        images.recover('disk', dir.path).then(
          () => true,
          () => false,
        ),
      { what: 'the image to be put back', intervalMs: 1 },
    );
    await waitUntil(() => agent.peer?.isClosed ?? true, { what: 'the hub to end the connection' });
    images.undo('disk').roomBytes = Number.POSITIVE_INFINITY;
    await agent.connect(test.port);
    await agent.waitAcked();
    expect(agent.volume().starts.slice(starts)).toEqual([null]);
    expectSame(images.image('disk').visible, agent.volume().disk, 'the replica');
  });
});
