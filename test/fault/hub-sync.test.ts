// The hub's main job against a scripted agent: full copies, following the stream, rounds of dirty ranges.

import { afterEach, describe, expect, it } from 'vitest';
import { encodeReport } from '../../src/repwire/encode.ts';
import { pattern } from '../support/disk-model.ts';
import { FakeAgent, filledDisk } from '../support/fake-agent.ts';
import { FakePeer } from '../support/fake-peer.ts';
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
let test: TestHub;
const agents: FakeAgent[] = [];

function agentOf(options: ConstructorParameters<typeof FakeAgent>[0]): FakeAgent {
  const agent = new FakeAgent(options);
  checkAcks(agent, (name) => test.image(name));
  agents.push(agent);
  return agent;
}

afterEach(async () => {
  for (const agent of agents.splice(0)) agent.drop();
  await closeHub(test);
});

describe('a full copy', () => {
  it('makes the replica equal, zeroes included, and acknowledges only then', async () => {
    const size = 3 * MIB + 512;
    test = await testHub({ disk: size });
    const agent = agentOf({ volumes: { disk: filledDisk(size) } });
    await agent.connect(test.port);
    await agent.waitFor('protected');
    expectSame(test.image().visible, agent.volume().disk, 'replica');
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
    const states = [...new Set(agent.volume().acks.map((ack) => ack.state))];
    expect(states).toEqual(['initial-sync', 'converging', 'protected']);
    for (const ack of agent.volume().acks) if (ack.state !== 'protected') expect(ack.sequence).toBe(0);
    expect(test.hub.status()).toMatchObject([
      {
        name: 'disk',
        vmName: 'vm',
        state: 'protected',
        sizeBytes: size,
        syncPercent: 100,
        dirtyBytes: 0,
        lastError: null,
      },
    ]);
  });

  it('keeps what the stream brings while it reads, whichever of the two is first', async () => {
    test = await testHub({ disk: MIB }, { tuning: { sync: SMALL_CHUNKS } });
    const agent = agentOf({ volumes: { disk: filledDisk(MIB) }, chunkBytes: 4096 });
    agent.holdReads = true;
    await agent.connect(test.port);
    await waitUntil(() => agent.reads.length === 3, { what: 'three reads' });
    // Read before the writes: their answers are older than what the stream brings.
    agent.write('disk', 512, pattern(2048, 1));
    agent.zero('disk', 8192, 4096);
    agent.holdStream = true;
    // Read after this write, of which the stream tells later.
    agent.write('disk', 40_960, pattern(512, 2));
    agent.holdReads = false;
    agent.endOverflow('disk');
    for (let i = 0; i < 3; i += 1) agent.answerRead();
    await agent.waitFor('converging');
    expect(agent.volume().acks.some((ack) => ack.state === 'protected')).toBe(false);
    agent.holdStream = false;
    agent.sendStream();
    await agent.waitAcked();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });

  it('follows the stream in order once it is protected, zeroes, trims and flushes too', async () => {
    test = await testHub({ disk: MIB });
    const agent = agentOf({ volumes: { disk: filledDisk(MIB) } });
    await agent.connect(test.port);
    await agent.waitFor('protected');
    for (let i = 0; i < 50; i += 1) {
      agent.write('disk', (i % 7) * 512, pattern(4096, i + 1));
      if (i % 5 === 0) agent.zero('disk', 1024 * i, 8192, i % 2 === 0);
      agent.flush('disk');
    }
    await agent.waitAcked();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
    expect(checkPrefix(test, agent.volume())).toBe(true);
    expect(agent.volume().ackedSequence).toBe(agent.sequence);
  });

  it('works for several volumes whose entries share one stream', async () => {
    const sizes = { a: MIB, b: 2 * MIB, c: 65_536 };
    test = await testHub(sizes);
    const agent = agentOf({
      volumes: { a: filledDisk(MIB, 1), b: filledDisk(2 * MIB, 2), c: filledDisk(65_536, 3) },
    });
    await agent.connect(test.port);
    const names = ['a', 'b', 'c'] as const;
    for (let i = 0; i < 300; i += 1) {
      const name = names[i % 3]!;
      agent.write(name, ((i * 7) % 100) * 512, pattern(1024, i + 1));
    }
    for (const name of names) await agent.waitAcked(name);
    for (const name of names) expectSame(test.image(name).visible, agent.volume(name).disk, name);
    // A volume whose own changes are long durable is as far as the stream all the same; nobody needs to be told.
    const told = agent.volume('c').acks.length;
    const last = agent.write('a', 0, pattern(512, 9));
    await waitUntil(() => test.hub.status().find(({ name }) => name === 'c')?.ackedSequence === last, {
      what: 'the idle volume to be at the stream’s position',
    });
    expect(agent.volume('c').acks.length).toBe(told);
  });

  it('copies a volume that an agent of the RFC alone reports, and applies its writes', async () => {
    test = await testHub({ disk: MIB });
    const agent = agentOf({ volumes: { disk: filledDisk(MIB) }, rfc: true });
    await agent.connect(test.port);
    agent.write('disk', 4096, pattern(8192, 1));
    await waitForState(test, 'protected');
    for (let i = 0; i < 20; i += 1) agent.write('disk', i * 1024, pattern(1024, 100 + i));
    agent.zero('disk', 512 * 1024, 4096);
    await waitUntil(() => test.image().durable.equals(agent.volume().disk), {
      what: 'the replica to follow',
    });
    const kinds = new Set(agent.peer!.received.map((message) => message.kind));
    expect([...kinds].sort()).toEqual(['remoteIoRequest', 'startProtect']);
    expect(test.hub.status()[0]).toMatchObject({ sequence: 0, ackedSequence: 0, lagMs: null });
  });

  it('gives an RFC agent whose volumes have one id ids of their own', async () => {
    test = await testHub({ a: 65_536, b: 65_536 });
    const peer = await FakePeer.connect(test.port);
    const report = ['a', 'b'].map((name) => ({ name, volumeId: 0n, sizeBytes: 65_536 }));
    peer.send(encodeReport(report, false));
    const first = await peer.next('startProtect', 0);
    const second = await peer.next('startProtect', 1);
    expect(first.volumeId).not.toBe(second.volumeId);
    peer.destroy();
  });
});

describe('ranges that changed without coming by the stream', () => {
  it('are read again after an overflow, and nothing is acknowledged before', async () => {
    test = await testHub({ disk: MIB }, { tuning: { sync: SMALL_CHUNKS } });
    const agent = agentOf({ volumes: { disk: filledDisk(MIB) }, chunkBytes: 4096 });
    await agent.connect(test.port);
    await agent.waitFor('protected');
    agent.overflow('disk');
    // More extents than one frame of the fake agent takes.
    for (let i = 0; i < 100; i += 1) agent.write('disk', i * 8192, pattern(512, i + 1));
    expect(checkPrefix(test, agent.volume())).toBe(true);
    agent.holdReads = true;
    agent.endOverflow('disk');
    await agent.waitFor('resync');
    const before = agent.volume().ackedSequence;
    agent.write('disk', 512, Buffer.alloc(0));
    expect(test.hub.status()[0]).toMatchObject({ state: 'resync', dirtyBytes: 100 * 4096 });
    expect(agent.volume().ackedSequence).toBe(before);
    agent.holdReads = false;
    agent.endOverflow('disk');
    for (; agent.reads.length > 0; ) agent.answerRead();
    await agent.waitAcked();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });

  it('go in further rounds while they keep coming', async () => {
    test = await testHub({ disk: MIB }, { tuning: { sync: SMALL_CHUNKS } });
    const agent = agentOf({ volumes: { disk: filledDisk(MIB) }, chunkBytes: 4096 });
    await agent.connect(test.port);
    for (let round = 0; round < 20; round += 1) {
      agent.overflow('disk');
      for (let i = 0; i < 10; i += 1)
        agent.write('disk', ((round * 37 + i * 11) % 256) * 4096, pattern(4096, round * 16 + i + 1));
      agent.endOverflow('disk');
      agent.write('disk', round * 4096, pattern(4096, 1000 + round));
      await new Promise((resolve) => setImmediate(resolve));
      checkPrefix(test, agent.volume());
    }
    await agent.waitAcked();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });

  it('are those of a write that failed at the agent, since nobody knows what it left', async () => {
    test = await testHub({ disk: MIB });
    const agent = agentOf({ volumes: { disk: filledDisk(MIB) } });
    await agent.connect(test.port);
    await agent.waitFor('protected');
    agent.failedWrite('disk', 4096, pattern(8192, 3));
    await agent.waitAcked();
    expect(agent.volume().acks.some((ack) => ack.state === 'resync')).toBe(true);
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });
});

describe('reads that the agent cannot do', () => {
  it('are narrowed down and tried again, while everything else goes on', async () => {
    test = await testHub({ disk: MIB }, { tuning: { sync: SMALL_CHUNKS } });
    const agent = agentOf({ volumes: { disk: filledDisk(MIB) }, chunkBytes: 4096 });
    const bad = 20 * 4096;
    let failing = true;
    agent.readFault = ({ offsetSectors, sizeSectors }) => {
      const from = Number(offsetSectors) * 512;
      return failing && from < bad + 512 && bad < from + sizeSectors * 512 ? 'fail' : undefined;
    };
    await agent.connect(test.port);
    await waitUntil(() => test.hub.status()[0]?.lastError?.includes(`offset ${bad}`), {
      what: 'the bad range',
    });
    await waitUntil(() => test.hub.status()[0]!.dirtyBytes === 4096, { what: 'only that to be left' });
    expect(test.hub.status()[0]).toMatchObject({ state: 'initial-sync' });
    agent.write('disk', 0, pattern(512, 5));
    failing = false;
    await agent.waitAcked();
    expect(test.hub.status()[0]?.lastError).toBeNull();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });

  it('are not needed any more once the guest has rewritten the range', async () => {
    test = await testHub({ disk: MIB }, { tuning: { sync: SMALL_CHUNKS } });
    const agent = agentOf({ volumes: { disk: filledDisk(MIB) }, chunkBytes: 4096 });
    const bad = 20 * 4096;
    agent.readFault = ({ offsetSectors, sizeSectors }) => {
      const from = Number(offsetSectors) * 512;
      return from < bad + 4096 && bad < from + sizeSectors * 512 ? 'fail' : undefined;
    };
    await agent.connect(test.port);
    await waitUntil(() => test.hub.status()[0]?.lastError?.includes(`offset ${bad}`), {
      what: 'the bad range',
    });
    agent.write('disk', bad, pattern(4096, 1));
    await agent.waitAcked();
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });
});

describe('status', () => {
  it('shows progress, rate and time left while a volume is read', async () => {
    test = await testHub({ disk: 4 * MIB });
    const agent = agentOf({ volumes: { disk: filledDisk(4 * MIB) } });
    agent.holdReads = true;
    await agent.connect(test.port);
    await waitUntil(() => agent.reads.length > 0, { what: 'reads' });
    await waitUntil(
      () => {
        agent.answerRead();
        const [status] = test.hub.status();
        return (
          status && status.syncPercent! > 0 && status.syncBytesPerSecond! > 0 && status.syncTimeLeftMs! > 0
        );
      },
      { what: 'a rate', intervalMs: 30 },
    );
    const [status] = test.hub.status();
    expect(status).toMatchObject({ state: 'initial-sync', syncTotalBytes: 4 * MIB });
    expect(status!.syncDoneBytes).toBeLessThan(4 * MIB);
    expect(status!.syncPercent).toBeLessThan(100);
    const progress = agent.volume().acks.at(-1)!;
    expect(progress.syncTotalBytes).toBe(4 * MIB);
  });

  it('tells the age of the oldest change that is not durable', async () => {
    test = await testHub({ disk: 65_536 });
    const agent = agentOf({ volumes: { disk: 65_536 } });
    await agent.connect(test.port);
    await agent.waitFor('protected');
    await waitUntil(() => test.hub.status()[0]?.lagMs === 0, { what: 'no lag' });
    let open!: () => void;
    test.image().commitGate = () =>
      new Promise<void>((resolve) => {
        open = resolve;
      });
    agent.write('disk', 0, pattern(512, 1));
    await waitUntil(() => (test.hub.status()[0]?.lagMs ?? 0) > 30, { what: 'lag' });
    test.image().commitGate = undefined;
    open();
    await waitUntil(() => test.hub.status()[0]?.lagMs === 0, { what: 'no lag' });
  });
});
