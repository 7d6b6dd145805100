// Connections that end: what the hub remembers of an agent, when it may resume, and whom it lets have a volume.
import { randomBytes } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import * as encode from '../../src/repwire/encode.ts';
import { pattern } from '../support/disk-model.ts';
import { FakeAgent, type FakeAgentOptions, filledDisk } from '../support/fake-agent.ts';
import { FakePeer } from '../support/fake-peer.ts';
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

/** Counts what the agent is asked to read, bytes. */
function countReads(agent: FakeAgent): () => number {
  let bytes = 0;
  agent.readFault = ({ sizeSectors }) => {
    bytes += sizeSectors * 512;
    return undefined;
  };
  return () => bytes;
}

afterEach(async () => {
  for (const agent of agents.splice(0)) agent.drop();
  await closeHub(test);
});

describe('an agent that comes back', () => {
  it('goes on where the stream was cut, and only what is missing is read', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitFor('protected');
    const last = agent.write('disk', 0, pattern(4096, 1));
    await agent.waitAcked();
    agent.drop();
    await waitForState(test, 'degraded');
    expect(test.hub.status()[0]).toMatchObject({ lagMs: null, dirtyBytes: 0, ackedSequence: last });
    expect(test.hub.status()[0]!.lastError).toMatch(
      new RegExp(
        `^the (agent ended|connection to the agent was lost).*; the replica is complete as of sequence ${last}$`,
      ),
    );
    agent.write('disk', 8192, pattern(4096, 2));
    const bytes = countReads(agent);
    await agent.connect(test.port);
    await agent.waitAcked();
    expect(agent.volume().starts).toEqual([null, last]);
    expect(bytes()).toBe(4096);
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });

  it('is told the position that really arrived, however much it had sent', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitFor('protected');
    agent.holdStream = true;
    const sequences = Array.from({ length: 10 }, (_, i) =>
      agent.write('disk', i * 8192, pattern(4096, i + 1)),
    );
    agent.sendStream(4);
    await waitUntil(() => test.hub.status()[0]!.sequence === sequences[3], { what: 'four entries' });
    agent.drop();
    agent.holdStream = false;
    const bytes = countReads(agent);
    await agent.connect(test.port);
    await agent.waitAcked();
    expect(agent.volume().starts.at(-1)).toBe(sequences[3]);
    expect(bytes()).toBe(6 * 4096);
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });

  it('is not told a later position while it has not said what the replica lacks', async () => {
    test = await testHub({ a: MIB, b: MIB }, SMALL);
    const agent = agentOf({ volumes: { a: filledDisk(MIB, 1), b: filledDisk(MIB, 2) } });
    await agent.connect(test.port);
    await agent.waitFor('protected', 'a');
    await agent.waitFor('protected', 'b');
    await waitUntil(() => agent.volume('a').ackedSequence === agent.sequence, { what: 'acks' });
    // This change of `a` gets a number, and is lost with the connection.
    agent.holdStream = true;
    agent.write('a', 0, pattern(4096, 1));
    const arrived = test.hub.status()[0]!.sequence;
    agent.drop();
    await waitForState(test, 'degraded', 'a');
    // A connection on which only `b` gets as far as its first entry; `a` is started, but never heard of.
    const peer = await FakePeer.connect(test.port);
    peer.send(
      encode.encodeReport(
        [1n, 2n].map((id, i) => ({ name: 'ab'[i]!, volumeId: id, sizeBytes: MIB })),
        true,
      ),
    );
    await peer.next('hello');
    peer.send(encode.encodeHello(agent.id, agent.epoch, 2000, 'vm'));
    await peer.next('startProtect', 1);
    agent.sequence += 1;
    peer.send(encode.encodeDirty(2n, { sequence: agent.sequence, timeUs: 1 }, [], false));
    await waitUntil(() => test.hub.status()[1]!.sequence === agent.sequence, { what: 'the entry of b' });
    peer.destroy();
    await waitForState(test, 'degraded', 'b');
    agent.holdStream = false;
    await agent.connect(test.port);
    await agent.waitAcked('a');
    expect(agent.volume('a').starts.at(-1)).toBe(arrived);
    expect(agent.volume('b').starts.at(-1)).toBe(agent.sequence - 2);
    expectSame(test.image('a').visible, agent.volume('a').disk, 'replica of a');
  });

  it('is not trusted before the last frame of what it says is missing', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitAcked();
    const last = agent.volume().ackedSequence;
    agent.drop();
    await waitForState(test, 'degraded');
    // It lacks nothing so far, but the list goes on.
    const peer = await FakePeer.connect(test.port);
    peer.send(encode.encodeReport([{ name: 'disk', volumeId: 1n, sizeBytes: MIB }], true));
    await peer.next('hello');
    peer.send(encode.encodeHello(agent.id, agent.epoch, 2000, 'vm'));
    await peer.next('startProtect');
    const stamp = { sequence: last + 1, timeUs: 1 };
    peer.send(encode.encodeDirty(1n, stamp, [], true), encode.encodePing('ping', 1n, 1));
    await peer.next('pong');
    peer.send(encode.encodePing('ping', 2n, 1));
    await peer.next('pong', 1);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(test.hub.status()[0]).toMatchObject({ state: 'resync', sequence: last });
    expect(peer.of('remoteIoRequest')).toEqual([]);
    peer.destroy();
    await waitForState(test, 'degraded');
    agent.sequence += 1;
    await agent.connect(test.port);
    await agent.waitAcked();
    expect(agent.volume().starts.at(-1)).toBe(last);
  });

  it('begins anew when it is another life of the same agent', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const first = agentOf();
    await first.connect(test.port);
    await first.waitFor('protected');
    first.drop();
    const disk = filledDisk(MIB, 7);
    const second = agentOf({ id: first.id, volumes: { disk } });
    const bytes = countReads(second);
    await second.connect(test.port);
    await second.waitAcked();
    expect(second.volume().starts).toEqual([null]);
    expect(bytes()).toBe(MIB);
    expectSame(test.image().visible, disk, 'replica');
  });

  it('begins anew when another agent had the replica in between', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const first = agentOf();
    await first.connect(test.port);
    await first.waitFor('protected');
    first.drop();
    await waitForState(test, 'degraded');
    const other = agentOf({ volumes: { disk: filledDisk(MIB, 9) }, rfc: true });
    await other.connect(test.port);
    await waitForState(test, 'protected');
    other.drop();
    await waitForState(test, 'degraded');
    await first.connect(test.port);
    await first.waitAcked();
    expect(first.volume().starts).toEqual([null, null]);
    expectSame(test.image().visible, first.volume().disk, 'replica');
  });

  it('begins anew at another life of the hub', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitFor('protected');
    const { images } = test;
    await test.hub.close();
    test = await testHub({ disk: MIB }, { ...SMALL, images });
    test = { ...test, images, image: (name = 'disk') => images.image(name) };
    agent.write('disk', 0, pattern(512, 1));
    await agent.connect(test.port);
    await agent.waitAcked();
    expect(agent.volume().starts).toEqual([null, null]);
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });

  it('without HELLO is copied in full each time', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf({ rfc: true });
    const bytes = countReads(agent);
    for (let i = 1; i <= 2; i += 1) {
      await agent.connect(test.port);
      await waitForState(test, 'protected');
      expect(bytes()).toBe(i * MIB);
      agent.drop();
      await waitForState(test, 'degraded');
    }
  });

  it('in the middle of a full copy keeps what was read', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    agent.holdReads = true;
    await agent.connect(test.port);
    for (let i = 0; i < 20; i += 1) {
      await waitUntil(() => agent.reads.length > 0, { what: 'a read', intervalMs: 1 });
      agent.answerRead();
    }
    await waitUntil(() => test.hub.status()[0]!.dirtyBytes < MIB - 19 * 16_384, { what: 'progress' });
    agent.drop();
    await waitForState(test, 'degraded');
    expect(test.hub.status()[0]!.lastError).toContain('; the replica is not complete');
    const left = test.hub.status()[0]!.dirtyBytes;
    agent.holdReads = false;
    const bytes = countReads(agent);
    await agent.connect(test.port);
    await agent.waitAcked();
    expect(bytes()).toBeLessThanOrEqual(left);
    expect(bytes()).toBeLessThan(MIB - 16 * 16_384);
    expectSame(test.image().visible, agent.volume().disk, 'replica');
  });
});

describe('a volume has one agent at a time', () => {
  it('so another one is told who has it, and gets it once that one is gone', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const first = agentOf({ vmName: 'alpha' });
    await first.connect(test.port);
    await first.waitFor('protected');
    const second = agentOf({ vmName: 'beta', volumes: { disk: filledDisk(MIB, 5) } });
    await second.connect(test.port);
    const text = await waitUntil(() => second.volume().errors[0], { what: 'an error' });
    expect(text).toMatch(/^volume disk is already replicated by alpha at 127\.0\.0\.1:\d+$/);
    expect(second.volume().starts).toEqual([]);
    expect(test.hub.status()).toMatchObject([
      { vmName: 'alpha', state: 'protected' },
      { vmName: 'beta', state: 'failed', lastError: text },
    ]);
    first.write('disk', 0, pattern(512, 1));
    await first.waitAcked();
    first.drop();
    await waitForState(test, 'degraded');
    second.report();
    await second.waitAcked();
    expectSame(test.image().visible, second.volume().disk, 'replica');
    expect(test.hub.status()).toHaveLength(1);
  });

  it('but a new connection of the same life replaces the old one, which is dead whatever it looks like', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    const dead = await agent.connect(test.port);
    await agent.waitFor('protected');
    const last = agent.write('disk', 0, pattern(512, 1));
    await agent.waitAcked();
    // The agent noticed, the hub did not: the old socket stays open.
    dead.onMessage = undefined;
    dead.onClose = undefined;
    agent.peer = undefined;
    agent.volume().streamOn = false;
    agent.volume().acks.length = 0;
    await agent.connect(test.port);
    await agent.waitAcked();
    await dead.closed();
    expect(agent.volume().starts).toEqual([null, last]);
    // What the dead connection still says reaches nothing.
    dead.send(encode.encodeAgentShutdown(1));
    expect(test.hub.status()[0]!.state).toBe('protected');
  });

  it('an RFC connection too holds its volumes until it ends', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const first = agentOf({ rfc: true });
    await first.connect(test.port);
    await waitForState(test, 'protected');
    const second = agentOf();
    await second.connect(test.port);
    await waitUntil(() => second.volume().errors.length > 0, { what: 'an error' });
    expect(second.volume().errors[0]).toContain('already replicated by 127.0.0.1');
  });
});

describe('a connection that is silent', () => {
  it('is given up, and pings keep a living one', async () => {
    test = await testHub({ disk: MIB }, { pingIntervalMs: 20, tuning: { ...SMALL.tuning, deadMs: 150 } });
    const agent = agentOf();
    const peer = await agent.connect(test.port);
    await agent.waitFor('protected');
    await waitUntil(() => peer.of('ping').length > 12, { what: 'pings' });
    expect(test.hub.status()[0]!.state).toBe('protected');
    peer.onMessage = undefined;
    await peer.closed(2000);
    await waitForState(test, 'degraded');
    expect(test.hub.status()[0]!.lastError).toMatch(
      /^nothing was heard of the agent for 150 ms; the replica is complete as of sequence \d+$/,
    );
  });

  it('is given up when it never says what it is', async () => {
    test = await testHub({ disk: MIB }, { tuning: { handshakeMs: 50 } });
    const mute = await FakePeer.connect(test.port);
    await mute.closed();
    const half = await FakePeer.connect(test.port);
    half.send(encode.encodeReport([], true));
    await half.closed();
  });

  it('answers pings with its clock', async () => {
    test = await testHub({ disk: MIB });
    const peer = await FakePeer.connect(test.port);
    peer.send(encode.encodeReport([], true));
    await peer.next('hello');
    peer.send(encode.encodeHello(randomBytes(16), 1n, 2000, 'vm'), encode.encodePing('ping', 77n, 1));
    const pong = await peer.next('pong');
    expect(pong.token).toBe(77n);
    expect(Math.abs(pong.timeUs / 1000 - Date.now())).toBeLessThan(5000);
    peer.destroy();
  });
});

describe('a goodbye', () => {
  it('leaves the replica finished, and completes the hub when it was the last', async () => {
    test = await testHub({ a: MIB, b: MIB }, SMALL);
    const first = agentOf({ volumes: { a: filledDisk(MIB, 1) } });
    const second = agentOf({ volumes: { b: filledDisk(MIB, 2) } });
    let completed = false;
    void test.hub.completed.then(() => {
      completed = true;
    });
    await first.connect(test.port);
    await second.connect(test.port);
    await first.waitAcked('a');
    first.write('a', 0, pattern(512, 1));
    await first.goodbye();
    await waitForState(test, 'unprotected', 'a');
    expect(test.hub.status()[0]).toMatchObject({ lastError: null, dirtyBytes: 0, syncPercent: 100 });
    expectSame(test.image('a').durable, first.volume('a').disk, 'durable replica');
    await second.waitAcked('b');
    expect(completed).toBe(false);
    await second.goodbye();
    await test.hub.completed;
  });

  it('of an RFC agent counts as well', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf({ rfc: true });
    await agent.connect(test.port);
    await waitForState(test, 'protected');
    agent.write('disk', 0, pattern(512, 1));
    await agent.goodbye();
    await test.hub.completed;
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });

  it('does not count when the replica is not complete', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    agent.holdReads = true;
    await agent.connect(test.port);
    await waitUntil(() => agent.reads.length > 0, { what: 'reads' });
    await agent.goodbye();
    await waitForState(test, 'degraded');
    expect(test.hub.status()[0]!.lastError).toBe('the agent shut down before the replica was complete');
  });

  it('does not count when entries are missing', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitFor('protected');
    agent.holdStream = true;
    agent.write('disk', 0, pattern(512, 1));
    await agent.goodbye();
    await waitForState(test, 'degraded');
  });

  it('is over when the agent begins again', async () => {
    test = await testHub({ a: MIB, b: MIB }, SMALL);
    const first = agentOf({ volumes: { a: filledDisk(MIB, 1) } });
    await first.connect(test.port);
    await first.waitAcked('a');
    await first.goodbye();
    await waitForState(test, 'unprotected', 'a');
    const again = agentOf({ volumes: { a: filledDisk(MIB, 3) } });
    await again.connect(test.port);
    await again.waitAcked('a');
    expectSame(test.image('a').visible, again.volume('a').disk, 'replica');
  });
});

describe('closing the hub', () => {
  it('ends connections and leaves durable what was stored, also in the middle of a copy', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    agent.holdReads = true;
    const peer = await agent.connect(test.port);
    await waitUntil(() => agent.reads.length > 0, { what: 'reads' });
    agent.answerRead();
    const closing = test.hub.close();
    expect(test.hub.close()).toBe(closing);
    await closing;
    await peer.closed();
    expect(test.image().isOpen).toBe(false);
    expectSame(test.image().durable, test.image().visible, 'durable replica');
    await expect(FakePeer.connect(test.port)).rejects.toThrow();
  });

  it('waits for an append that is under way', async () => {
    test = await testHub({ disk: MIB }, SMALL);
    const agent = agentOf();
    await agent.connect(test.port);
    await agent.waitFor('protected');
    let open!: () => void;
    const gate = new Promise<void>((resolve) => {
      open = resolve;
    });
    test.image().appendGate = () => gate;
    agent.write('disk', 0, pattern(512, 1));
    await waitUntil(() => test.image().isBusy, { what: 'the append' });
    const closing = test.hub.close();
    setTimeout(open, 20);
    await closing;
    expectSame(test.image().durable, agent.volume().disk, 'durable replica');
  });
});
