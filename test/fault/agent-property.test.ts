// An agent and a hub under everything that can happen to them at once. The replica must be the disk as it was at some
// moment whenever the hub thinks that it's complete, what differs must be dirty at the agent, the guest must not notice,
// and in the end both disks are equal. REPAGENT_SEED repeats a run.
import fc from 'fast-check';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import { DIRTY_GRANULARITY_BYTES as CHUNK, KiB, MiB } from '../../src/base/limits.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../src/blockdev/memory-device.ts';
import { applyMutation, type Mutation } from '../../src/blockdev/mutation.ts';
import { Agent } from '../../src/repagent/agent.ts';
import { type CapturedLog, captureLog } from '../support/capture-log.ts';
import { pattern } from '../support/disk-model.ts';
import { FakeHub } from '../support/fake-hub.ts';
import { JumbleDevice } from '../support/jumble-device.ts';
import { LateDevice } from '../support/late-device.ts';
import { ModelHub } from '../support/model-hub.ts';
import { FaultDevice, settled } from '../support/test-devices.ts';
import { testSeed } from '../support/test-seed.ts';
import { TruthDevice } from '../support/truth-device.ts';
import { waitUntil } from '../support/wait-until.ts';

// Bytes that are used after they were given back show.
vi.hoisted(() => {
  process.env.REPAGENT_POISON = '1';
});

const SIZE = MiB + 3 * 512;
const SECTORS = SIZE / 512;

type Step =
  | { readonly do: 'change'; readonly changes: readonly Wish[] }
  | { readonly do: 'turns'; readonly count: number }
  | { readonly do: 'cutAfter'; readonly bytes: number }
  | { readonly do: 'cut' | 'hangUp' | 'reborn' | 'pause' | 'resume' | 'away' | 'back' | 'fault' }
  | { readonly do: 'acks' | 'reads'; readonly on: boolean };

interface Wish {
  readonly kind: 'write' | 'trim' | 'zero' | 'flush';
  readonly sector: number;
  readonly sectors: number;
  readonly seed: number;
}

const wish: fc.Arbitrary<Wish> = fc.record({
  kind: fc.oneof(
    { weight: 8, arbitrary: fc.constant('write' as const) },
    { weight: 2, arbitrary: fc.constantFrom('trim' as const, 'zero' as const, 'flush' as const) },
  ),
  // A few hot sectors, so that changes overlap.
  sector: fc.oneof(fc.integer({ min: 0, max: SECTORS - 1 }), fc.integer({ min: 120, max: 140 })),
  sectors: fc.oneof(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: 300 })),
  seed: fc.integer({ min: 1, max: 2 ** 30 }),
});

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc
      .array(wish, { minLength: 1, maxLength: 8 })
      .map((changes): Step => ({ do: 'change', changes })),
  },
  { weight: 8, arbitrary: fc.integer({ min: 1, max: 20 }).map((count): Step => ({ do: 'turns', count })) },
  {
    weight: 2,
    arbitrary: fc.integer({ min: 0, max: 100_000 }).map((bytes): Step => ({ do: 'cutAfter', bytes })),
  },
  {
    weight: 4,
    arbitrary: fc
      .constantFrom('cut', 'hangUp', 'reborn', 'pause', 'resume', 'resume', 'away', 'back', 'back', 'fault')
      .map((what): Step => ({ do: what as 'cut' })),
  },
  {
    weight: 3,
    arbitrary: fc
      .tuple(fc.constantFrom('acks' as const, 'reads' as const), fc.boolean())
      .map(([what, on]): Step => ({ do: what, on })),
  },
);

interface World {
  readonly agent: Agent;
  readonly hub: FakeHub;
  readonly model: ModelHub;
  readonly volumes: ReadonlyArray<{
    name: string;
    device: BlockDevice;
    truth: TruthDevice;
    faulty: FaultDevice;
  }>;
  /** Changes that were not answered at once. */
  readonly open: Set<Promise<void>>;
  readonly log: CapturedLog;
}

interface Setting {
  readonly mode: 'hello' | 'rfc';
  /** quick: answers at once. jumbled: keeps no order. late: shows changes halfway, and before they are answered. */
  readonly disk: 'quick' | 'jumbled' | 'late';
  readonly queueBytes: number;
}

const BELOW: Readonly<Record<Setting['disk'], (below: BlockDevice, seed: number) => BlockDevice>> = {
  quick: (below) => below,
  jumbled: (below, seed) => new JumbleDevice(below, seed),
  late: (below, seed) => new LateDevice(below, seed),
};

async function makeWorld(setting: Setting, seed: number): Promise<World> {
  const hub = await FakeHub.listen({ mode: setting.mode });
  const model = new ModelHub(hub);
  const log = captureLog();
  const agent = new Agent({
    hubHost: '127.0.0.1',
    hubPort: hub.port,
    vmName: 'vm',
    agentId: Buffer.alloc(16, 1),
    queueBytes: setting.queueBytes,
    reconnect: { firstMs: 1, longestMs: 4, steadyMs: 5000 },
    // As often as with the default, and not for so long.
    overflowHold: { firstMs: 4, longestMs: 64 },
    shutdownTimeoutMs: 5000,
    logger: log.logger,
  });
  const volumes = ['a', 'b'].map((name, at) => {
    const raw = new MemoryDevice({ sizeBytes: SIZE });
    raw.write(512, pattern(200 * KiB, seed + at), false);
    const faulty = new FaultDevice(raw);
    const below = BELOW[setting.disk](faulty, seed + at);
    const truth = new TruthDevice(below, raw);
    model.add(name, truth);
    return { name, device: agent.protect(name, truth), truth, faulty };
  });
  agent.start();
  return { agent, hub, model, volumes, open: new Set(), log };
}

/** The change, and what the guest does with its buffer as soon as it has the answer. */
function toMutation(wish: Wish): { mutation: Mutation; reuse: () => void } {
  const offset = wish.sector * 512;
  const length = Math.min(wish.sectors, SECTORS - wish.sector) * 512;
  if (wish.kind !== 'write') return { mutation: withoutData(wish.kind, offset, length), reuse: () => {} };
  const content = pattern(length, wish.seed);
  if (wish.seed % 3 === 0) {
    return {
      mutation: { kind: 'write', offset, data: content, fua: false },
      reuse: () => content.fill(0xdd),
    };
  }
  // As a connection has it: in a slab that others may hold longer, and that is used again when nobody does.
  const slab = sharedPool.acquire(length);
  const data = slab.bytes.subarray(0, length);
  content.copy(data);
  return { mutation: { kind: 'write', offset, data, fua: false }, reuse: () => slab.release() };
}

function withoutData(kind: 'trim' | 'zero' | 'flush', offset: number, length: number): Mutation {
  if (kind === 'trim') return { kind, offset, length, fua: false };
  if (kind === 'zero') return { kind: 'writeZeroes', offset, length, fua: false, mayTrim: true };
  return { kind };
}

/** One change of the guest. Nothing that happens to the hub may make it fail, nor wait. */
function change(world: World, setting: Setting, each: Wish): void {
  const { device, faulty } = world.volumes[each.seed % 2]!;
  const { mutation, reuse } = toMutation(each);
  const faults = faulty.faults;
  const failed = (error: unknown): void => {
    if (!String(error).includes('injected fault')) world.model.failure ??= `the guest got ${String(error)}`;
  };
  try {
    const result = applyMutation(device, mutation);
    if (result === undefined) {
      reuse();
      return;
    }
    if (setting.disk === 'quick' && faulty.faults === faults) world.model.failure ??= 'the guest had to wait';
    const done = result.catch(failed).then(() => {
      reuse();
      world.open.delete(done);
    });
    world.open.add(done);
  } catch (error) {
    failed(error);
    reuse();
  }
}

async function take(world: World, setting: Setting, each: Step): Promise<void> {
  const { hub, model } = world;
  const connection = hub.connections.at(-1);
  switch (each.do) {
    case 'change':
      for (const one of each.changes) change(world, setting, one);
      if (setting.disk !== 'quick') await settled();
      break;
    case 'turns':
      for (let turn = 0; turn < each.count; turn += 1) await settled();
      break;
    case 'cutAfter':
      connection?.cutAfter(each.bytes);
      break;
    case 'cut':
      connection?.cut();
      break;
    case 'hangUp':
      connection?.hangUp();
      break;
    case 'reborn':
      model.reborn();
      connection?.cut();
      break;
    case 'pause':
      connection?.pause();
      break;
    case 'resume':
      connection?.resume();
      break;
    case 'away':
      hub.refuses = true;
      connection?.cut();
      break;
    case 'back':
      hub.refuses = false;
      break;
    case 'fault':
      world.volumes[0]!.faulty.fail({ times: 1, ops: ['write', 'trim', 'writeZeroes'] });
      break;
    case 'acks':
      model.acksOn = each.on;
      model.pump();
      break;
    case 'reads':
      model.readsOn = each.on;
      model.pump();
      break;
  }
}

/** What differs from the replica must be dirty; and the queue has its limit. */
function checkNow(world: World, setting: Setting): void {
  const { agent, model, volumes } = world;
  if (model.failure) throw new Error(model.failure);
  for (const connection of world.hub.connections) if (connection.error) throw connection.error;
  // A mirror that goes wrong heals by beginning anew; here nothing may go wrong.
  expect(world.log.errors()).toEqual([]);
  // What is in the socket's hands of a list costs no more than its overhead; everything else is counted.
  expect(agent.stats.queuedBytes).toBeLessThanOrEqual(setting.queueBytes + 64 * 16);
  for (const { name, truth } of volumes) {
    const disk = truth.content();
    const { disk: replica, spoil } = model.replicas.get(name)!;
    if (spoil) continue;
    for (let at = 0; at < SIZE; at += CHUNK) {
      const end = Math.min(SIZE, at + CHUNK);
      if (disk.compare(replica, at, end, at, end) === 0) continue;
      if (!agent.isDirty(name, at, 1)) throw new Error(`${name}: ${at}+${CHUNK} differs, and nobody knows`);
    }
  }
}

async function finish(world: World, setting: Setting): Promise<void> {
  const { agent, hub, model, volumes } = world;
  hub.refuses = false;
  model.acksOn = true;
  model.readsOn = true;
  hub.connections.at(-1)?.resume();
  for (const { faulty } of volumes) faulty.heal();
  await Promise.all(world.open);
  const isDone = (): boolean => {
    checkNow(world, setting);
    const connection = hub.connections.at(-1);
    connection?.resume();
    connection?.cutAfter(Number.POSITIVE_INFINITY);
    model.pump();
    if (
      !connection ||
      connection.over ||
      !model.isSettled ||
      agent.stats.queuedBytes > 0 ||
      agent.status().link.state !== 'live'
    )
      return false;
    if (setting.mode === 'rfc')
      return volumes.every(({ name, truth }) => truth.content().equals(model.replicas.get(name)!.disk));
    return agent
      .status()
      .volumes.every(
        (one) => one.state === 'protected' && one.dirtyBytes === 0 && one.ackedSequence === one.sequence,
      );
  };
  await waitUntil(isDone, { what: 'both sides to agree', timeoutMs: 10_000, intervalMs: 2 });
  for (const { name, truth } of volumes)
    expect(truth.content().equals(model.replicas.get(name)!.disk)).toBe(true);
  if (setting.mode === 'hello') {
    for (const one of agent.status().volumes) {
      expect(one).toMatchObject({ lagMs: 0, queuedBytes: 0, lastError: null });
    }
  }
}

async function runWorld(setting: Setting, seed: number, steps: readonly Step[]): Promise<void> {
  const liveBefore = sharedPool.liveBytes;
  const world = await makeWorld(setting, seed);
  try {
    for (const each of steps) {
      await take(world, setting, each);
      checkNow(world, setting);
    }
    await finish(world, setting);
    await world.agent.close();
    expect(world.hub.connection.of('agentShutdown').length).toBe(1);
  } finally {
    await world.agent.close();
    await world.hub.close();
    await Promise.all(world.open);
  }
  await waitUntil(() => sharedPool.liveBytes === liveBefore, {
    what: 'every slab to be given back',
    intervalMs: 2,
  });
}

const seed = Number(process.env.REPAGENT_SEED ?? testSeed()) | 0;
let checks = 0;

describe('an agent and its hub', () => {
  const settings: Array<[string, Setting, number]> = [
    ['a quick disk and a large queue', { mode: 'hello', disk: 'quick', queueBytes: 8 * MiB }, 40],
    ['a quick disk and a tiny queue', { mode: 'hello', disk: 'quick', queueBytes: 48 * KiB }, 40],
    [
      'a slow disk that keeps no order, and a large queue',
      { mode: 'hello', disk: 'jumbled', queueBytes: 8 * MiB },
      40,
    ],
    [
      'a slow disk that keeps no order, and a tiny queue',
      { mode: 'hello', disk: 'jumbled', queueBytes: 48 * KiB },
      40,
    ],
    ['a disk that shows changes halfway', { mode: 'hello', disk: 'late', queueBytes: 8 * MiB }, 60],
    [
      'a disk that shows changes halfway, and a tiny queue',
      { mode: 'hello', disk: 'late', queueBytes: 48 * KiB },
      40,
    ],
    [
      "a hub that knows the RFC's protocol alone",
      { mode: 'rfc', disk: 'jumbled', queueBytes: 256 * KiB },
      25,
    ],
  ];
  for (const [what, setting, numRuns] of settings) {
    it(`agree in the end, with ${what}`, async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.nat(),
          fc.array(step, { minLength: 5, maxLength: 60 }),
          async (diskSeed, steps) => {
            await runWorld(setting, diskSeed, steps);
            checks += 1;
          },
        ),
        { seed, numRuns, endOnFailure: true, interruptAfterTimeLimit: 90_000 },
      );
    });
  }
});

afterAll(() => {
  expect(checks).toBeGreaterThan(10);
});
