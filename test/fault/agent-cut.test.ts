// The connection cut at every place of a conversation, with each answer that a hub may have to that: it kept what it got,
// it is another one, it is another life of it. What the agent names afterwards must cover all that it lacks.
import { describe, expect, it, vi } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import { DIRTY_GRANULARITY_BYTES as CHUNK, KiB, MiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import { MemoryDevice } from '../../src/blockdev/memory-device.ts';
import { Agent } from '../../src/repagent/agent.ts';
import * as encode from '../../src/repwire/encode.ts';
import { pattern } from '../support/disk-model.ts';
import { FakeHub } from '../support/fake-hub.ts';
import { ModelHub } from '../support/model-hub.ts';
import { TruthDevice } from '../support/truth-device.ts';
import { waitUntil } from '../support/wait-until.ts';

// Bytes that are used after they were given back show.
vi.hoisted(() => {
  process.env.REPAGENT_POISON = '1';
});

const SIZE = 8 * CHUNK;

interface Pair {
  readonly hub: FakeHub;
  readonly model: ModelHub;
  readonly agent: Agent;
  readonly truth: TruthDevice;
  /** Writes through the mirror, out of a slab; the answer must be there at once. */
  write(offset: number, length: number, seed: number): void;
  settle(): Promise<void>;
  close(): Promise<void>;
}

async function makePair(): Promise<Pair> {
  const hub = await FakeHub.listen();
  const model = new ModelHub(hub);
  const raw = new MemoryDevice({ sizeBytes: SIZE });
  const truth = new TruthDevice(raw, raw);
  const replica = model.add('sda', truth);
  const agent = new Agent({
    hubHost: '127.0.0.1',
    hubPort: hub.port,
    vmName: 'vm',
    agentId: Buffer.alloc(16, 2),
    reconnect: { firstMs: 1, longestMs: 2 },
    logger: silentLogger,
  });
  const device = agent.protect('sda', truth);
  agent.start();
  return {
    hub,
    model,
    agent,
    truth,
    write: (offset, length, seed) => {
      const slab = sharedPool.acquire(length);
      const data = slab.bytes.subarray(0, length);
      pattern(length, seed).copy(data);
      if (device.write(offset, data, false) !== undefined) throw new Error('the guest had to wait');
      slab.release();
    },
    settle: () =>
      waitUntil(
        () => {
          model.pump();
          const { state, dirtyBytes, sequence, ackedSequence } = agent.status().volumes[0]!;
          const isOver = hub.connections.at(-1)?.over ?? true;
          if (model.failure) throw new Error(model.failure);
          if (isOver || state !== 'protected' || dirtyBytes > 0 || sequence !== ackedSequence) return false;
          expect(truth.content().equals(replica.disk)).toBe(true);
          return true;
        },
        { what: 'both to agree', intervalMs: 1 },
      ).then(() => undefined),
    close: async () => {
      await agent.close();
      await hub.close();
    },
  };
}

describe('a connection cut at any byte', () => {
  const afterwards: Array<[string, (pair: Pair) => void]> = [
    ['kept what it got', () => {}],
    ['is another life', ({ model }) => model.reborn()],
    [
      'is another hub',
      ({ hub, model }) => {
        hub.id = Buffer.alloc(16, hub.connections.length);
        model.reborn();
      },
    ],
  ];
  for (const [what, then] of afterwards) {
    it(`loses nothing, when the hub ${what}`, async () => {
      const liveBefore = sharedPool.liveBytes;
      const pair = await makePair();
      try {
        await pair.settle();
        // A write of 4 KiB is a frame of 4152 bytes: head, parameters and payload are all hit, in either of two frames.
        const places = [
          0, 1, 7, 8, 9, 55, 56, 57, 1000, 4151, 4152, 4153, 4160, 4208, 4209, 8303, 8304, 8305, 12_000,
        ];
        for (const [round, bytes] of places.entries()) {
          const { connection } = pair.hub;
          connection.cutAfter(bytes);
          for (let at = 0; at < 4; at += 1) pair.write(((round + at) % 8) * CHUNK, 4096, round * 10 + at);
          await waitUntil(() => connection.over, { what: 'the cut', intervalMs: 1 });
          then(pair);
          pair.write((round % 8) * CHUNK + 8192, 4096, round * 10 + 9);
          await pair.settle();
        }
      } finally {
        await pair.close();
      }
      await waitUntil(() => sharedPool.liveBytes === liveBefore, { what: 'every slab to be given back' });
    });
  }

  it('loses nothing either when it is cut while the hub reads and the handshake runs', async () => {
    const pair = await makePair();
    try {
      await pair.settle();
      for (let bytes = 0; bytes < 900; bytes += 13) {
        pair.hub.onConnection = (connection) => {
          pair.hub.onConnection = () => {};
          connection.cutAfter(bytes);
        };
        if (bytes % 2 === 0) pair.model.reborn();
        pair.hub.connection.cut();
        pair.write((bytes % 8) * CHUNK, 2048, bytes + 1);
        await pair.settle();
      }
    } finally {
      await pair.close();
    }
  });
});

describe('the guest', () => {
  it('is not held up by a hub that stops reading, comes back, goes away and lies', async () => {
    const pair = await makePair();
    let longestMs = 0;
    let written = 0;
    const guest = async (forMs: number): Promise<void> => {
      const endsAt = performance.now() + forMs;
      while (performance.now() < endsAt) {
        const began = performance.now();
        pair.write((written % 8) * CHUNK + 4096 * (written % 15), 4096, (written % 1000) + 1);
        longestMs = Math.max(longestMs, performance.now() - began);
        written += 1;
        if (written % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    };
    try {
      await pair.settle();
      await guest(100);
      pair.hub.connection.pause();
      await guest(300);
      pair.hub.connection.resume();
      await guest(100);
      pair.hub.refuses = true;
      pair.hub.connection.cut();
      await guest(100);
      pair.hub.refuses = false;
      await guest(100);
      pair.hub.connections.at(-1)?.send(Buffer.alloc(200, 0x41));
      await guest(100);
      pair.hub.connections.at(-1)?.send(encode.encodeAck(101n, 2 ** 40, 'protected', 0, 0));
      await guest(100);
      await pair.settle();
    } finally {
      await pair.close();
    }
    expect(written).toBeGreaterThan(1000);
    expect(longestMs).toBeLessThan(400);
  });

  it('is not held up either while 64 MiB wait for a hub that reads nothing', async () => {
    const pair = await makePair();
    try {
      await pair.settle();
      pair.hub.connection.pause();
      let longestMs = 0;
      for (let block = 0; block < 2 * 64 * MiB; block += 256 * KiB) {
        const began = performance.now();
        pair.write(block % SIZE, 256 * KiB, (block % 97) + 1);
        longestMs = Math.max(longestMs, performance.now() - began);
        expect(pair.agent.stats.queuedBytes).toBeLessThanOrEqual(64 * MiB);
        if (block % (4 * MiB) === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      expect(pair.agent.status().link.state).toBe('degraded');
      expect(longestMs).toBeLessThan(400);
      pair.hub.connection.resume();
      await pair.settle();
    } finally {
      await pair.close();
    }
  });
});
