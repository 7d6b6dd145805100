// Everything at once, over real sockets and at random: writes, zeroes, flushes and failed writes to two volumes, entries
// and answers that take their time, overflows, cut connections, other lives of the agent, storage that is slow, fails,
// or loses what a failed commit should have covered. At every moment at which a volume is protected its replica is the
// disk at the stream's position; every acknowledgement is checked against what is durable when it arrives; and in the
// end, when nothing disturbs any more, everything is equal and acknowledged.
import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { pattern } from '../support/disk-model.ts';
import { FakeAgent, filledDisk } from '../support/fake-agent.ts';
import {
  checkAcks,
  checkPrefix,
  closeHub,
  expectSame,
  type TestHub,
  testHub,
} from '../support/hub-harness.ts';
import { waitUntil } from '../support/wait-until.ts';

// Buffers that were given back are overwritten: whoever still uses one stores rubbish.
vi.hoisted(() => {
  process.env.REPAGENT_POISON = '1';
});

const SIZES = { a: 24 * 1024 + 512, b: 8 * 1024 } as const;
type Name = keyof typeof SIZES;
const CHUNK = 1024;
const TUNING = {
  sync: { chunkBytes: CHUNK, maxReadBytes: 4 * CHUNK, maxReads: 3 },
  retryFirstMs: 2,
  retryLongestMs: 4,
  // Some of what is packed is unpacked at once, some on the thread pool.
  unpackAtOnceBytes: 2 * CHUNK,
};

const step = fc.record({
  op: fc.oneof(
    { weight: 8, arbitrary: fc.constant('write' as const) },
    {
      weight: 2,
      arbitrary: fc.constantFrom('zero' as const, 'trim' as const, 'flush' as const, 'failedWrite' as const),
    },
    { weight: 6, arbitrary: fc.constantFrom('sendStream' as const, 'answerRead' as const) },
    { weight: 1, arbitrary: fc.constantFrom('overflow' as const, 'drop' as const, 'newLife' as const) },
    { weight: 2, arbitrary: fc.constantFrom('endOverflow' as const, 'connect' as const, 'letGo' as const) },
    {
      weight: 2,
      arbitrary: fc.constantFrom(
        'appendFault' as const,
        'commitFault' as const,
        'toggleSlow' as const,
        'toggleLateCommits' as const,
      ),
    },
    { weight: 6, arbitrary: fc.constant('turn' as const) },
    { weight: 2, arbitrary: fc.constant('pause' as const) },
  ),
  name: fc.constantFrom<Name>('a', 'a', 'b'),
  at: fc.nat(1000),
  length: fc.nat(1000),
  many: fc.nat(4),
});
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

class Run {
  readonly test: TestHub;
  agent: FakeAgent;
  protectedChecks = 0;
  packedFrames = 0;
  #seed = 0;

  constructor(test: TestHub) {
    this.test = test;
    this.agent = this.#newAgent();
  }

  async step({ op, name, at, length, many }: Step): Promise<void> {
    const { agent, test } = this;
    const sectors = SIZES[name] / 512;
    const first = at % sectors;
    const bytes = (1 + (length % Math.min(12, sectors - first))) * 512;
    const image = test.image(name);
    switch (op) {
      case 'write':
        agent.write(name, first * 512, pattern(bytes, ++this.#seed));
        break;
      case 'zero':
      case 'trim':
        agent.zero(name, first * 512, bytes, op === 'trim');
        break;
      case 'flush':
        agent.flush(name);
        break;
      case 'failedWrite':
        agent.failedWrite(name, first * 512, pattern(bytes, ++this.#seed));
        break;
      case 'sendStream':
        agent.sendStream(1 + many);
        break;
      case 'answerRead':
        if (agent.reads.length > 0) agent.answerRead(at % agent.reads.length);
        break;
      case 'overflow':
        agent.overflow(name);
        break;
      case 'endOverflow':
        agent.endOverflow(name);
        break;
      case 'letGo':
        this.#letGo();
        break;
      case 'drop':
        agent.drop();
        break;
      case 'connect':
        await this.#connect();
        break;
      case 'newLife':
        agent.drop();
        this.packedFrames += agent.packedFrames;
        this.agent = this.#newAgent();
        await this.#connect();
        break;
      case 'appendFault':
        image.appendFaults.push(many % 2 === 0 ? 'ENOSPC' : 'EIO');
        break;
      case 'commitFault':
        image.commitFaults.push('EIO');
        break;
      case 'toggleSlow':
        image.isSlow = !image.isSlow;
        break;
      case 'toggleLateCommits':
        image.commitGate = image.commitGate ? undefined : () => turns(3 + many * 5);
        break;
      case 'turn':
        await new Promise((resolve) => setImmediate(resolve));
        break;
      case 'pause':
        await new Promise((resolve) => setTimeout(resolve, 1 + many));
        break;
    }
    this.check();
  }

  check(): void {
    for (const name of ['a', 'b'] as const) {
      const volume = this.agent.volume(name);
      // Until this life of the agent has the volume, the replica may still be that of the one before.
      if (volume.isStarted && checkPrefix(this.test, volume)) this.protectedChecks += 1;
    }
  }

  /** Nothing disturbs any more: everything must become equal. */
  async settle(): Promise<void> {
    for (const name of ['a', 'b'] as const) {
      const image = this.test.image(name);
      image.appendFaults = [];
      image.commitFaults = [];
      image.commitGate = undefined;
    }
    await this.#connect();
    const { agent } = this;
    agent.holdStream = false;
    agent.holdReads = false;
    this.#letGo();
    const names = ['a', 'b'] as const;
    for (const name of names) {
      await waitUntil(
        () => {
          if (agent.errorsSinceConnect > 0) {
            agent.errorsSinceConnect = 0;
            agent.report();
          }
          agent.endOverflow(name);
          this.check();
          const volume = agent.volume(name);
          return volume.state === 'protected' && volume.ackedSequence >= volume.lastSequence;
        },
        { what: `${name} to be acknowledged`, intervalMs: 1 },
      );
    }
    for (const name of names) {
      expectSame(this.test.image(name).visible, agent.volume(name).disk, name);
      expectSame(this.test.image(name).durable, agent.volume(name).disk, `durable ${name}`);
    }
  }

  #letGo(): void {
    this.agent.sendStream();
    for (let n = this.agent.reads.length; n > 0; n -= 1) this.agent.answerRead();
  }

  async #connect(): Promise<void> {
    if (!this.agent.peer) await this.agent.connect(this.test.port);
  }

  #newAgent(): FakeAgent {
    this.#seed += 1;
    const agent = new FakeAgent({
      volumes: { a: filledDisk(SIZES.a, this.#seed), b: filledDisk(SIZES.b, this.#seed + 1) },
      chunkBytes: CHUNK,
      isTorn: this.#seed % 2 === 0,
      isPacking: this.#seed % 3 !== 0,
    });
    agent.holdStream = true;
    agent.holdReads = true;
    checkAcks(agent, (name) => this.test.image(name));
    return agent;
  }
}

/** Some turns of the event loop. */
async function turns(count: number): Promise<void> {
  for (let i = 0; i < count; i += 1) await new Promise((resolve) => setImmediate(resolve));
}

describe('a hub under everything at once', () => {
  it('keeps to the prefix rule, acknowledges only what is durable, and converges', async () => {
    let checks = 0;
    let acks = 0;
    let packed = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 250, size: 'max' }), async (steps) => {
        const test = await testHub(SIZES, { tuning: TUNING });
        const run = new Run(test);
        try {
          await run.agent.connect(test.port);
          for (const one of steps) await run.step(one);
          await run.settle();
          acks += run.agent.volume('a').acks.length;
          checks += run.protectedChecks;
          packed += run.packedFrames + run.agent.packedFrames;
        } finally {
          run.agent.drop();
          await closeHub(test);
        }
      }),
      { numRuns: 60, endOnFailure: false, timeout: 30_000 },
    );
    // The rules were really looked at.
    expect(checks).toBeGreaterThan(200);
    expect(acks).toBeGreaterThan(200);
    expect(packed).toBeGreaterThan(200);
  });
});
