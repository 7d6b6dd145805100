// Several hubs of one machine: what they share, which is the disks, and what they must not: everything else.
import { afterEach, describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import type { VolumeStatus } from '../../../src/control/status.ts';
import { AgentGroup, type GroupHub, type GroupOptions } from '../../../src/repagent/agent-group.ts';
import { combineHubs } from '../../../src/repagent/hub-combination.ts';
import * as encode from '../../../src/repwire/encode.ts';
import { FakeHub } from '../../support/fake-hub.ts';
import { waitUntil } from '../../support/wait-until.ts';
import { sampleVolume } from '../control/samples.ts';
import { AGENT_ID, writeNow } from './harness.ts';

const CHUNK = 65_536;
const SIZE = 16 * CHUNK;

let undo: Array<() => Promise<unknown>> = [];
afterEach(async () => {
  for (const one of undo.reverse()) await one();
  undo = [];
});

async function listen(options: Parameters<typeof FakeHub.listen>[0] = {}): Promise<FakeHub> {
  const hub = await FakeHub.listen(options);
  undo.push(() => hub.close());
  return hub;
}

function groupOf(
  hubs: Readonly<Record<string, FakeHub | number>>,
  options: Partial<GroupOptions> = {},
): AgentGroup {
  const group = new AgentGroup(
    Object.entries(hubs).map(
      ([name, hub]): GroupHub => ({
        name,
        hubHost: '127.0.0.1',
        hubPort: typeof hub === 'number' ? hub : hub.port,
        logger: silentLogger,
      }),
    ),
    {
      vmName: 'vm1',
      agentId: AGENT_ID,
      shutdownTimeoutMs: 300,
      reconnect: { firstMs: 5, longestMs: 20, steadyMs: 5000, connectTimeoutMs: 2000 },
      ...options,
    },
  );
  undo.push(() => group.close());
  return group;
}

function protect(group: AgentGroup): MemoryDevice {
  const device = new MemoryDevice({ sizeBytes: SIZE });
  return Object.assign(device, { guest: group.protect('disk', device, () => undefined) });
}

function disk(group: AgentGroup): VolumeStatus {
  return group.status().volumes[0]!;
}

/** Says that all a connection brought so far is durable, and that the replica is complete. */
function confirm(hub: FakeHub, sequence: number): void {
  const id = hub.connection.started.get('disk')!;
  hub.connection.send(encode.encodeAck(id, sequence, 'protected', SIZE, SIZE));
}

async function untilStates(group: AgentGroup, ...states: string[]): Promise<void> {
  await waitUntil(
    () =>
      disk(group)
        .hubs!.map(({ state }) => state)
        .join() === states.join(),
    {
      what: `states ${states.join()}`,
      intervalMs: 2,
      timeoutMs: 5000,
    },
  );
}

describe('a group', () => {
  it('sends every change to every hub, and each hub answers for itself', async () => {
    const [near, far] = [await listen(), await listen()];
    const group = groupOf({ near, far });
    const guest = group.protect('disk', new MemoryDevice({ sizeBytes: SIZE }), () => undefined);
    group.start();
    await Promise.all([near.started(), far.started()]);
    await untilStates(group, 'initial-sync', 'initial-sync');
    writeNow(guest, 0, 512);
    const wrote = (hub: FakeHub) => hub.connection.messages.some(({ kind }) => kind === 'protectedWrite');
    await waitUntil(() => wrote(near) && wrote(far), { what: 'the write at both' });
    confirm(near, 2);
    await untilStates(group, 'protected', 'initial-sync');
    expect(disk(group)).toMatchObject({ state: 'initial-sync', dirtyBytes: SIZE });
    expect(disk(group).hubs!.map(({ dirtyBytes }) => dirtyBytes)).toEqual([0, SIZE]);
    expect(group.dirtyRuns('disk', 0, SIZE, 9)).toEqual([{ length: SIZE, isDirty: true }]);
    confirm(far, 2);
    await untilStates(group, 'protected', 'protected');
    expect(disk(group)).toMatchObject({ state: 'protected', dirtyBytes: 0, lagMs: 0 });
  });

  it('goes on with one hub while the other is away, and says both', async () => {
    const near = await listen();
    const away = await listen();
    const group = groupOf({ near, away });
    const guest = group.protect('disk', new MemoryDevice({ sizeBytes: SIZE }), () => undefined);
    away.refuses = true;
    group.start();
    await near.started();
    await untilStates(group, 'initial-sync', 'unprotected');
    confirm(near, 1);
    await untilStates(group, 'protected', 'unprotected');
    for (let at = 0; at < 8; at += 1) writeNow(guest, 2 * at * CHUNK, 512);
    await waitUntil(
      () => near.connection.messages.filter((one) => one.kind === 'protectedWrite').length === 8,
      {
        what: 'the writes',
      },
    );
    confirm(near, 9);
    await waitUntil(() => disk(group).hubs![0]!.dirtyBytes === 0, {
      what: 'nothing dirty at the hub that is there',
    });
    const status = group.status();
    expect(status.volumes[0]!.state).toBe('degraded');
    expect(status.links.map(({ name, state }) => [name, state === 'live'])).toEqual([
      ['near', true],
      ['away', false],
    ]);
    expect(status.link).toMatchObject({ name: 'away', hub: `127.0.0.1:${away.port}` });
    expect(group.stats).toMatchObject({ hubs: { near: { connections: 1 }, away: { connections: 0 } } });
  });

  it('refuses a second name of a hub, by the first', async () => {
    const hub = await listen({ starts: true });
    const other = await listen({ id: hub.id, epoch: hub.epoch });
    const group = groupOf({ one: hub, two: other });
    protect(group);
    group.start();
    await waitUntil(() => disk(group).hubs!.some(({ state }) => state === 'failed'), { what: 'a refusal' });
    const [failed] = disk(group).hubs!.filter(({ state }) => state === 'failed');
    const kept = failed!.hub === 'one' ? 'two' : 'one';
    expect(failed!.lastError).toMatch(
      new RegExp(`replicated to as ${kept} already \\(id ${hub.id.toString('hex')}\\)`),
    );
    expect(disk(group)).toMatchObject({
      state: 'failed',
      lastError: expect.stringMatching(`^${failed!.hub}: `) as string,
    });
    // It was told nothing but that there are volumes, which comes before the hub says who it is.
    const refused = failed!.hub === 'one' ? hub : other;
    const kinds = new Set(refused.connections.flatMap(({ messages }) => messages.map(({ kind }) => kind)));
    expect([...kinds]).toEqual(['reportVmVolumes']);
    // Another hub answers there: it is as good as any.
    refused.id = Buffer.alloc(16, 9);
    await untilStates(group, 'initial-sync', 'initial-sync');
  });

  it('can be asked to verify one hub, and says which there are', async () => {
    const [near, far] = [await listen(), await listen()];
    const group = groupOf({ near, far });
    protect(group);
    group.start();
    await Promise.all([near.started(), far.started()]);
    await untilStates(group, 'initial-sync', 'initial-sync');
    await expect(group.verify('disk', () => {})).rejects.toMatchObject({
      message: 'volume "disk" has a replica at each of 2 hubs',
      hint: 'name one with --hub: near, far',
    });
    await expect(group.verify('disk', () => {}, 'fra')).rejects.toMatchObject({
      message: 'there is no hub "fra"',
      hint: 'there are: near, far',
    });
    far.onMessage = (connection, message) => {
      if (message.kind !== 'verifyRequest') return undefined;
      connection.send(encode.encodeVerifyResponse(message.requestId, message.volumeId, 0, SIZE, SIZE, []));
      return true;
    };
    expect(await group.verify('disk', () => {}, 'far')).toMatchObject({
      volume: 'disk',
      hub: 'far',
      differing: [],
    });
  });

  it('takes leave of each hub within its own time, though another is silent', async () => {
    const near = await listen();
    const mute = await listen({ mode: 'silent' });
    const group = groupOf({ near, mute }, { shutdownTimeoutMs: 500 });
    protect(group);
    group.start();
    await near.started();
    await waitUntil(() => mute.connections.length > 0, { what: 'the connection that nobody answers' });
    confirm(near, 1);
    await untilStates(group, 'protected', 'unprotected');
    await group.close();
    expect(near.connection.messages.at(-1)).toMatchObject({ kind: 'agentShutdown' });
  });

  it('has neither no hub, nor too many, nor one twice', () => {
    expect(() => groupOf({})).toThrow('an agent has 1 to 8 hubs, not 0');
    const nine = Object.fromEntries(Array.from({ length: 9 }, (_, at) => [`h${at}`, at + 1]));
    expect(() => groupOf(nine)).toThrow('an agent has 1 to 8 hubs, not 9');
    expect(() => groupOf({ a: 7, b: 7 })).toThrow('the hub 127.0.0.1:7 is there twice');
  });
});

describe('what is dirty for any hub', () => {
  it('is told as runs that end where all agree', async () => {
    const [near, far] = [await listen(), await listen()];
    const group = groupOf({ near, far });
    const guest = group.protect('disk', new MemoryDevice({ sizeBytes: SIZE }), () => undefined);
    group.start();
    await Promise.all([near.started(), far.started()]);
    await untilStates(group, 'initial-sync', 'initial-sync');
    confirm(near, 1);
    confirm(far, 1);
    await untilStates(group, 'protected', 'protected');
    expect(group.dirtyRuns('disk', 0, SIZE, 9)).toEqual([{ length: SIZE, isDirty: false }]);
    // Clean at one of the two in turn, and next to each other.
    writeNow(guest, 2 * CHUNK, 512);
    writeNow(guest, 3 * CHUNK, 512);
    confirm(near, 3);
    await waitUntil(() => disk(group).hubs![0]!.dirtyBytes === 0, { what: 'near to be clean' });
    writeNow(guest, 4 * CHUNK, 512);
    writeNow(guest, 9 * CHUNK, 512);
    confirm(far, 3);
    expect(group.dirtyRuns('disk', CHUNK, SIZE - CHUNK, 9)).toEqual([
      { length: CHUNK, isDirty: false },
      { length: 3 * CHUNK, isDirty: true },
      { length: 4 * CHUNK, isDirty: false },
      { length: CHUNK, isDirty: true },
      { length: 6 * CHUNK, isDirty: false },
    ]);
    expect(group.dirtyRuns('disk', 3 * CHUNK + 512, 1024, 9)).toEqual([{ length: 1024, isDirty: true }]);
    expect(group.dirtyRuns('disk', 0, SIZE, 2)).toHaveLength(2);
  });
});

describe('a volume as a whole', () => {
  const at = (hub: string, over: Partial<VolumeStatus>) => ({
    hub,
    address: `${hub}:1`,
    link: 'live',
    volume: sampleVolume(over),
  });
  const combine = (...states: VolumeStatus['state'][]): string =>
    combineHubs(states.map((state, number) => at(`h${number}`, { state }))).state;

  it.each<[VolumeStatus['state'][], string]>([
    [['protected', 'protected'], 'protected'],
    [['protected', 'converging'], 'converging'],
    [['resync', 'converging', 'protected'], 'resync'],
    [['resync', 'initial-sync'], 'initial-sync'],
    [['initial-sync', 'degraded'], 'degraded'],
    [['unprotected', 'unprotected'], 'unprotected'],
    [['protected', 'unprotected'], 'degraded'],
    [['degraded', 'failed', 'unprotected'], 'failed'],
    [['unprotected'], 'unprotected'],
  ])('is of %j: %s', (states, whole) => {
    expect(combine(...states)).toBe(whole);
    expect(combine(...[...states].reverse())).toBe(whole);
  });

  it('has the figures of the hub where it is worst off, and the complaint of any', () => {
    const whole = combineHubs([
      at('a', { lagMs: 5, sequence: 9, ackedSequence: 9, lastError: 'the map is lost' }),
      at('b', { lagMs: 70, sequence: 31, ackedSequence: 20, dirtyBytes: 512 }),
    ]);
    expect(whole).toMatchObject({
      state: 'protected',
      lagMs: 70,
      sequence: 31,
      ackedSequence: 20,
      dirtyBytes: 512,
      lastError: 'a: the map is lost',
    });
    const first = combineHubs([
      at('a', { firstError: { text: 'reset', at: '2026-01-02T00:00:00.000Z' } }),
      at('b', { lagMs: 70, firstError: null }),
      at('c', { firstError: { text: 'refused', at: '2026-01-01T00:00:00.000Z' } }),
    ]);
    expect(first.firstError).toEqual({ text: 'c: refused', at: '2026-01-01T00:00:00.000Z' });
    const syncing = [
      at('a', { state: 'resync', syncPercent: 80 }),
      at('b', { state: 'resync', syncPercent: 20 }),
      at('c', { state: 'resync', syncPercent: null }),
    ];
    expect(combineHubs(syncing.slice(0, 2)).syncPercent).toBe(20);
    expect(combineHubs(syncing).syncPercent).toBeNull();
    expect(combineHubs([at('a', { lagMs: null }), at('b', { lagMs: 9 })]).lagMs).toBeNull();
  });

  it('says of one hub what it always said, and of each hub what is its own', () => {
    const volume = sampleVolume({ lastError: 'full' });
    const { hubs, ...whole } = combineHubs([{ hub: 'a', address: 'h:1', link: 'live', volume }]);
    expect(whole).toEqual(volume);
    const { name, vmName, sizeBytes, ...own } = volume;
    expect(hubs).toEqual([{ hub: 'a', address: 'h:1', link: 'live', ...own }]);
    expect([name, vmName, sizeBytes]).toEqual(['disk', 'vm', 2 ** 30]);
  });
});
