// A connection cut after every single byte that an agent sends: nothing half-received is taken, the hub's promise about
// where to go on is true each time, and the next connection makes the replica equal.
import { describe, expect, it } from 'vitest';
import { pattern } from '../support/disk-model.ts';
import { FakeAgent } from '../support/fake-agent.ts';
import {
  checkAcks,
  checkPrefix,
  closeHub,
  expectSame,
  type TestHub,
  testHub,
} from '../support/hub-harness.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 1536;
const TUNING = { sync: { chunkBytes: 512, maxReadBytes: 512, maxReads: 2 } };
/** Hubs at work side by side: a connection is mostly waiting. */
const LANES = 8;

function newAgent(test: TestHub, seed: number): FakeAgent {
  const disk = pattern(SIZE, seed + 1).fill(0, 512, 1024);
  const agent = new FakeAgent({ volumes: { disk }, chunkBytes: 512 });
  checkAcks(agent, (name) => test.image(name));
  return agent;
}

/** What an agent does over a connection that may be cut: a full copy with writes in the middle, then more writes. */
async function live(test: TestHub, agent: FakeAgent, cutAfterBytes: number): Promise<number> {
  const peer = await agent.connect(test.port, cutAfterBytes);
  const volume = agent.volume();
  const until = (condition: () => boolean, what: string) =>
    waitUntil(() => condition() || peer.isClosed, { what, intervalMs: 0 });
  await until(() => volume.starts.length > 0, 'the start');
  agent.write('disk', 512, pattern(512, 11));
  agent.zero('disk', 1024, 512);
  agent.flush('disk');
  await until(() => volume.state === 'protected', 'protection');
  agent.failedWrite('disk', 0, pattern(1024, 12));
  agent.write('disk', 1024, pattern(512, 13));
  await until(() => volume.ackedSequence === volume.lastSequence && volume.state === 'protected', 'acks');
  return peer.sentBytes;
}

/** The agent is gone when the hub has noticed it. */
async function left(test: TestHub): Promise<void> {
  await waitUntil(() => ['degraded', 'unprotected', 'failed'].includes(test.hub.status()[0]!.state), {
    what: 'the hub to notice',
    intervalMs: 0,
  });
}

/** @returns the position that the hub told when the agent came back */
async function cutAndComeBack(test: TestHub, cut: number): Promise<number | null> {
  const agent = newAgent(test, cut);
  await live(test, agent, cut);
  agent.drop();
  await left(test);
  agent.write('disk', 1024, pattern(512, cut + 1));
  await agent.connect(test.port);
  await agent.waitAcked();
  expectSame(test.image().visible, agent.volume().disk, `the replica after a cut at byte ${cut}`);
  expect(checkPrefix(test, agent.volume())).toBe(true);
  agent.drop();
  await left(test);
  return agent.volume().starts.at(-1)!;
}

describe('a cut after every byte', () => {
  it('never makes the hub believe more than it has', async () => {
    const tests = await Promise.all(
      Array.from({ length: LANES }, () => testHub({ disk: SIZE }, { tuning: TUNING })),
    );
    const whole = newAgent(tests[0]!, 0);
    const total = await live(tests[0]!, whole, Number.POSITIVE_INFINITY);
    whole.drop();
    await left(tests[0]!);
    expect(total).toBeGreaterThan(3000);
    let next = 1;
    let resumed = 0;
    const lane = async (test: TestHub): Promise<void> => {
      for (let cut = next++; cut < total; cut = next++) {
        if ((await cutAndComeBack(test, cut)) !== null) resumed += 1;
      }
    };
    await Promise.all(tests.map(lane));
    expect(resumed).toBeGreaterThan(total / 2);
    await Promise.all(tests.map(closeHub));
  });
});
