// A replica's storage that fails, is slow, or loses what it was given: nothing is acknowledged that is not durable, other
// volumes don't notice, and the replica heals by itself.
import { afterEach, describe, expect, it } from 'vitest';
import type { BlockErrorCode } from '../../src/base/errors.ts';
import { pattern } from '../support/disk-model.ts';
import { FakeAgent, type FakeAgentOptions, filledDisk } from '../support/fake-agent.ts';
import {
  checkAcks,
  checkPrefix,
  closeHub,
  expectSame,
  SMALL_CHUNKS,
  type TestHub,
  testHub,
  waitForState,
} from '../support/hub-harness.ts';
import { waitUntil } from '../support/wait-until.ts';

const MIB = 1024 * 1024;
const SMALL = { tuning: { sync: SMALL_CHUNKS } };
let test: TestHub;
const agents: FakeAgent[] = [];

function agentOf(options: Partial<FakeAgentOptions> = {}): FakeAgent {
  const agent = new FakeAgent({ volumes: { disk: filledDisk(MIB) }, chunkBytes: 4096, ...options });
  checkAcks(agent, (name) => test.image(name));
  agents.push(agent);
  return agent;
}

afterEach(async () => {
  for (const agent of agents.splice(0)) agent.drop();
  await closeHub(test);
});

/** A promise, and what lets it go. */
function gate(): { readonly wait: () => Promise<void>; open(): void } {
  let open!: () => void;
  const promise = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { wait: () => promise, open };
}

describe('acknowledgements', () => {
  it('never come before the commit that covers them', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitAcked();
    const before = agent.volume().ackedSequence;
    const commit = gate();
    test.image().commitGate = commit.wait;
    const first = agent.write('disk', 0, pattern(512, 1));
    await waitUntil(() => test.image().log.at(-1) === 'commit begins', { what: 'a commit' });
    const second = agent.write('disk', 4096, pattern(512, 2));
    await waitUntil(() => test.hub.status()[0]!.sequence === second, { what: 'the second write' });
    expect(agent.volume().ackedSequence).toBe(before);
    const next = gate();
    test.image().commitGate = next.wait;
    commit.open();
    await waitUntil(() => agent.volume().ackedSequence >= first, { what: 'the first ack' });
    // The second write came after that commit had begun.
    expect(agent.volume().ackedSequence).toBe(first);
    next.open();
    await waitUntil(() => agent.volume().ackedSequence === second, { what: 'the second ack' });
  });

  it('never come while the replica is not complete, however durable it is', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    agent.holdReads = true;
    await agent.connect(test.port);
    await waitUntil(() => agent.reads.length > 0, { what: 'reads' });
    for (let i = 0; i < 5; i += 1) agent.write('disk', i * 512, pattern(512, i + 1));
    await waitUntil(() => test.image().commits > 0 && test.hub.status()[0]!.sequence === agent.sequence, {
      what: 'a commit',
    });
    expect(agent.volume().ackedSequence).toBe(0);
  });

  it('share commits: many writes need few of them', async () => {
    test = await testHub({ disk: MIB }, { tuning: { sync: SMALL_CHUNKS, gatherMs: 20 } });
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitAcked();
    const before = test.image().commits;
    for (let i = 0; i < 500; i += 1) agent.write('disk', (i % 64) * 512, pattern(512, i + 1));
    await agent.waitAcked();
    expect(test.image().commits - before).toBeLessThan(20);
  });
});

describe('slow storage', () => {
  it('keeps the order of the stream, and pauses the connection instead of filling memory', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    test.image().isSlow = true;
    await agent.connect(test.port);
    for (let i = 0; i < 400; i += 1) agent.write('disk', (i % 5) * 512, pattern(1024, i + 1));
    await agent.waitAcked();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });

  it('takes nothing more in while an append is under way', async () => {
    test = await testHub({ disk: 40 * MIB });
    const agent = agentOf({ volumes: { disk: Buffer.alloc(40 * MIB) }, chunkBytes: 65_536 });
    const data = Buffer.alloc(MIB, 7);
    await agent.connect(test.port);
    await agent.waitAcked();
    const append = gate();
    test.image().appendGate = append.wait;
    const first = agent.write('disk', 0, pattern(512, 1));
    await waitUntil(() => test.image().isBusy, { what: 'the append' });
    for (let i = 0; i < 40; i += 1) agent.write('disk', i * MIB, data);
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(test.hub.status()[0]!.sequence).toBe(first);
    test.image().appendGate = undefined;
    append.open();
    await agent.waitAcked();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });

  it('is never committed in the middle of an append, which the commit would not cover', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitAcked();
    const append = gate();
    agent.write('disk', 0, pattern(512, 1));
    test.image().appendGate = append.wait;
    const commits = test.image().commits;
    agent.write('disk', 4096, pattern(512, 2));
    await waitUntil(() => test.image().isBusy, { what: 'the append' });
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(test.image().commits).toBe(commits);
    test.image().appendGate = undefined;
    append.open();
    await agent.waitAcked();
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('of a connection that was cut is not overtaken by the next one', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitAcked();
    const append = gate();
    test.image().appendGate = append.wait;
    agent.write('disk', 0, pattern(4096, 1));
    await waitUntil(() => test.image().isBusy, { what: 'the append' });
    agent.drop();
    await waitForState(test, 'degraded');
    agent.write('disk', 0, pattern(4096, 2));
    const peer = await agent.connect(test.port);
    agent.write('disk', 512, pattern(512, 3));
    await peer.next('ping');
    await new Promise((resolve) => setTimeout(resolve, 20));
    // The next one has to wait until what is under way has ended.
    expect(agent.volume().starts).toHaveLength(1);
    test.image().appendGate = undefined;
    append.open();
    await agent.waitAcked();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });
});

describe('storage that fails', () => {
  for (const code of ['ENOSPC', 'EIO'] as const satisfies readonly BlockErrorCode[]) {
    for (const isSlow of [false, true]) {
      it(`in an append with ${code}${isSlow ? ', late' : ''}: the volume fails, is read again, and is protected`, async () => {
        test = await testHub({ disk: MIB, other: MIB }, SMALL);
        const agent = agentOf({ volumes: { disk: filledDisk(MIB), other: filledDisk(MIB, 2) } });
        test.image().isSlow = isSlow;
        await agent.connect(test.port);
        await agent.waitAcked();
        await agent.waitAcked('other');
        const before = agent.volume().ackedSequence;
        test.image().appendFaults = [code];
        test.image().openFaults = [code, code];
        agent.write('disk', 8192, pattern(4096, 1));
        await agent.waitFor('failed');
        expect(test.hub.status()[0]).toMatchObject({ state: 'failed' });
        expect(test.hub.status()[0]!.lastError).toContain(`injected ${code}`);
        agent.write('disk', 40_960, pattern(4096, 2));
        agent.write('other', 0, pattern(4096, 3));
        await agent.waitAcked('other');
        expect(agent.volume().ackedSequence).toBe(before);
        await agent.waitAcked();
        expect(test.hub.status()[0]!.lastError).toBeNull();
        expectSame(test.image().visible, agent.volume().disk, 'replica');
        expectSame(test.image('other').visible, agent.volume('other').disk, 'the other replica');
        expect(agent.peer!.isClosed).toBe(false);
      });
    }
  }

  it('in a commit: everything since the last one is in doubt and read again', async () => {
    test = await testHub({ disk: MIB }, { tuning: { sync: SMALL_CHUNKS, gatherMs: 30 } });
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitAcked();
    const before = agent.volume().ackedSequence;
    test.image().commitFaults = ['EIO'];
    for (let i = 0; i < 20; i += 1) agent.write('disk', i * 40_960, pattern(4096, i + 1));
    await agent.waitFor('failed');
    expect(agent.volume().ackedSequence).toBe(before);
    // The images lost pages that had been stored, so this shows that they were read again.
    expect(test.image().visible.equals(agent.volume().disk)).toBe(false);
    await agent.waitAcked();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('in the commit that would have made it protected', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    test.image().commitFaults = ['EIO', 'ENOSPC', 'EIO'];
    await agent.connect(test.port);
    await agent.waitFor('failed');
    await agent.waitAcked();
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('after the connection was cut: what was in doubt is read when the agent is back', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitAcked();
    const commit = gate();
    test.image().commitGate = commit.wait;
    test.image().commitFaults = ['EIO'];
    const last = agent.write('disk', 0, pattern(65_536, 1));
    await waitUntil(() => test.hub.status()[0]!.sequence === last, { what: 'the write' });
    await waitUntil(() => test.image().log.at(-1) === 'commit begins', { what: 'the commit' });
    agent.drop();
    await waitForState(test, 'degraded');
    test.image().commitGate = undefined;
    commit.open();
    await waitForState(test, 'failed');
    await agent.connect(test.port);
    await agent.waitAcked();
    // The agent needed to tell of nothing: the hub had promised to know.
    expect(agent.volume().starts).toEqual([null, last]);
    expectSame(test.image().visible, agent.volume().disk, 'replica');
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('again and again is tried again and again, with the guest writing all the time', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    test.image().appendFaults = ['ENOSPC', 'EIO', 'ENOSPC'];
    await agent.connect(test.port);
    for (let i = 0; i < 200; i += 1) {
      agent.write('disk', ((i * 13) % 256) * 4096, pattern(4096, i + 1));
      if (i % 40 === 0) test.image().commitFaults.push('EIO');
      if (i % 50 === 10) test.image().appendFaults.push('ENOSPC');
      await new Promise((resolve) => setTimeout(resolve, 1));
      checkPrefix(test, agent.volume());
    }
    await agent.waitAcked();
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('when it is opened is told to the agent, which asks again', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    test.image().openFaults = ['EIO'];
    await agent.connect(test.port);
    const text = await waitUntil(() => agent.volume().errors[0], { what: 'an error' });
    expect(text).toContain('injected EIO in open');
    expect(test.hub.status()).toMatchObject([{ name: 'disk', state: 'failed', lastError: text }]);
    agent.report();
    await agent.waitAcked();
    expect(test.hub.status()).toMatchObject([{ state: 'protected', lastError: null }]);
  });

  it('does not keep the hub from closing', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    test.image().commitFaults = ['EIO'];
    await agent.connect(test.port);
    await agent.waitFor('failed');
    await test.hub.close();
    expect(test.image().isOpen).toBe(false);
  });
});
