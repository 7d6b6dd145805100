// Commits that take their time while rounds, connections and lives of agents come and go: each stands for what it
// covered when it began, and for nothing else.
import { afterEach, describe, expect, it } from 'vitest';
import { pattern } from '../support/disk-model.ts';
import { FakeAgent, type FakeAgentOptions, filledDisk } from '../support/fake-agent.ts';
import {
  checkAcks,
  closeHub,
  expectSame,
  SMALL_CHUNKS,
  type TestHub,
  testHub,
  waitForState,
} from '../support/hub-harness.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 64 * 1024;
let test: TestHub;
let opens: Array<() => void> = [];
const agents: FakeAgent[] = [];

function agentOf(options: Partial<FakeAgentOptions> = {}): FakeAgent {
  const agent = new FakeAgent({ volumes: { disk: filledDisk(SIZE) }, chunkBytes: 4096, ...options });
  checkAcks(agent, (name) => test.image(name));
  agents.push(agent);
  return agent;
}

/** Every commit from now on waits until it is opened, in order. */
function holdCommits(): void {
  opens = [];
  test.image().commitGate = () => new Promise<void>((resolve) => opens.push(resolve));
}

function openCommits(): void {
  test.image().commitGate = undefined;
  for (const open of opens.splice(0)) open();
}

const settleDown = () => new Promise((resolve) => setTimeout(resolve, 20));
const state = () => test.hub.status()[0]!.state;

afterEach(async () => {
  test.image().appendGate = undefined;
  openCommits();
  for (const agent of agents.splice(0)) agent.drop();
  await closeHub(test);
});

async function protectedAgent(): Promise<FakeAgent> {
  test = await testHub({ disk: SIZE }, { tuning: { sync: SMALL_CHUNKS } });
  const agent = agentOf();
  await agent.connect(test.port);
  await agent.waitAcked();
  return agent;
}

describe('a commit that is still under way', () => {
  it('when a range becomes unread settles nothing before that is read, too', async () => {
    const agent = await protectedAgent();
    holdCommits();
    agent.failedWrite('disk', 0, pattern(4096, 1));
    await waitForState(test, 'converging');
    await waitUntil(() => opens.length === 1, { what: 'the commit' });
    // Taken in, but the append of what came with it is not over when the commit ends.
    let store!: () => void;
    const gate = new Promise<void>((resolve) => {
      store = resolve;
    });
    test.image().appendGate = () => gate;
    agent.holdReads = true;
    agent.holdStream = true;
    agent.write('disk', 8192, pattern(512, 2));
    agent.failedWrite('disk', 16_384, pattern(4096, 3));
    agent.peer!.send(Buffer.concat(agent.stream.splice(0).flat()));
    agent.holdStream = false;
    await waitUntil(() => test.image().isBusy, { what: 'the append' });
    opens.shift()!();
    await settleDown();
    expect(agent.volume().state).not.toBe('protected');
    test.image().appendGate = undefined;
    store();
    await waitForState(test, 'resync');
    openCommits();
    agent.holdReads = false;
    agent.endOverflow('disk');
    await agent.waitAcked();
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('when the next round is read settles nothing of that', async () => {
    const agent = await protectedAgent();
    holdCommits();
    agent.failedWrite('disk', 0, pattern(4096, 1));
    await waitForState(test, 'converging');
    await waitUntil(() => opens.length === 1, { what: 'the commit' });
    let store!: () => void;
    const gate = new Promise<void>((resolve) => {
      store = resolve;
    });
    agent.holdReads = true;
    agent.failedWrite('disk', 16_384, pattern(4096, 3));
    await waitForState(test, 'resync');
    await waitUntil(() => agent.reads.length === 1, { what: 'its read' });
    // Everything is read, but not stored yet, when the commit of the round before ends.
    test.image().appendGate = () => gate;
    agent.answerRead();
    await waitUntil(() => test.image().isBusy, { what: 'its data' });
    opens.shift()!();
    await settleDown();
    expect(state()).not.toBe('protected');
    test.image().appendGate = undefined;
    store();
    openCommits();
    await agent.waitAcked();
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('when another life of the agent has been read makes that one not protected', async () => {
    const first = await protectedAgent();
    for (let i = 0; i < 20; i += 1) first.write('disk', i * 512, pattern(512, i + 1));
    await first.waitAcked();
    holdCommits();
    first.failedWrite('disk', 0, pattern(4096, 1));
    await waitForState(test, 'converging');
    await waitUntil(() => opens.length === 1, { what: 'the commit' });
    first.drop();
    await waitForState(test, 'degraded');
    const second = agentOf({ id: first.id, volumes: { disk: filledDisk(SIZE, 5) } });
    await second.connect(test.port);
    await waitForState(test, 'converging');
    opens.shift()!();
    await waitUntil(() => opens.length === 1, { what: 'the next commit' });
    await settleDown();
    expect([state(), second.volume().ackedSequence]).toEqual(['converging', 0]);
    openCommits();
    await second.waitAcked();
    expectSame(test.image().durable, second.volume().disk, 'durable replica');
  });

  it('when the agent is back settles nothing of what it told then', async () => {
    const agent = await protectedAgent();
    holdCommits();
    agent.failedWrite('disk', 0, pattern(4096, 1));
    await waitForState(test, 'converging');
    await waitUntil(() => opens.length === 1, { what: 'the commit' });
    agent.drop();
    await waitForState(test, 'degraded');
    agent.write('disk', 32_768, pattern(4096, 2));
    await agent.connect(test.port);
    await waitForState(test, 'converging');
    opens.shift()!();
    await waitUntil(() => opens.length === 1, { what: 'the next commit' });
    await settleDown();
    expect(state()).toBe('converging');
    openCommits();
    await agent.waitAcked();
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('when the agent said goodbye finishes the replica only when it has ended', async () => {
    const agent = await protectedAgent();
    let isCompleted = false;
    void test.hub.completed.then(() => {
      isCompleted = true;
    });
    holdCommits();
    agent.write('disk', 0, pattern(512, 1));
    await waitUntil(() => opens.length === 1, { what: 'the commit' });
    agent.write('disk', 512, pattern(512, 2));
    await waitUntil(() => test.hub.status()[0]!.sequence === agent.sequence, { what: 'the second write' });
    await agent.goodbye();
    opens.shift()!();
    await waitUntil(() => opens.length === 1, { what: 'the next commit' });
    await settleDown();
    expect([isCompleted, state()]).toEqual([false, 'protected']);
    openCommits();
    await test.hub.completed;
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('when the agent said goodbye and another one begins: the goodbye comes to nothing', async () => {
    const agent = await protectedAgent();
    let isCompleted = false;
    void test.hub.completed.then(() => {
      isCompleted = true;
    });
    holdCommits();
    agent.write('disk', 0, pattern(512, 1));
    await waitUntil(() => opens.length === 1, { what: 'the commit' });
    await agent.goodbye();
    const next = agentOf({ volumes: { disk: filledDisk(SIZE, 5) } });
    await next.connect(test.port);
    await waitUntil(() => next.volume().starts.length === 1, { what: 'the start' });
    openCommits();
    await next.waitAcked();
    expect(isCompleted).toBe(false);
    await next.goodbye();
    await test.hub.completed;
    expectSame(test.image().durable, next.volume().disk, 'durable replica');
  });

  it('when the agent said goodbye and it fails: the replica is not finished', async () => {
    const agent = await protectedAgent();
    holdCommits();
    test.image().commitFaults = ['EIO'];
    agent.write('disk', 0, pattern(4096, 1));
    await waitUntil(() => opens.length === 1, { what: 'the commit' });
    await agent.goodbye();
    opens.shift()!();
    await waitForState(test, 'failed');
    openCommits();
    const next = agentOf();
    await next.connect(test.port);
    await next.waitAcked();
    expectSame(test.image().durable, next.volume().disk, 'durable replica');
  });
});
