// The message by which a hub begins with a volume is lost on its way: the agent goes on remembering what it remembered
// before, and must not be refused for it, nor be taken for one that has heard.
import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FEATURE_PAIRING } from '../../src/repwire/constants.ts';
import * as encode from '../../src/repwire/encode.ts';
import type { Claim, StartPairing } from '../../src/repwire/messages.ts';
import { FakePeer, type MessageOf } from '../support/fake-peer.ts';
import { closeHub, SMALL_CHUNKS, type TestHub, testHub, waitForState } from '../support/hub-harness.ts';
import { waitUntil } from '../support/wait-until.ts';

const MIB = 2 ** 20;
const AGENT = randomBytes(16);
const PAIRING = 5n;
const GENERATION = 3;

let test: TestHub;
let epoch: bigint;
beforeEach(async () => {
  epoch = randomBytes(8).readBigUInt64LE();
  test = await testHub({ a: MIB, b: MIB }, { tuning: { sync: SMALL_CHUNKS } });
});
afterEach(() => closeHub(test));

function claimOf(name: string, over: Partial<Claim> = {}): Omit<Claim, 'kind'> {
  return {
    volumeId: idOf(name),
    pairing: PAIRING,
    generation: GENERATION,
    recordedSequence: 0,
    isBelieved: true,
    finding: 'clean',
    ...over,
  };
}

function idOf(name: string): bigint {
  return name === 'a' ? 1n : 2n;
}

/** An agent that remembers replicas, and hears how the hub begins with them. */
async function attach(claims: readonly Omit<Claim, 'kind'>[]): Promise<FakePeer> {
  const peer = await FakePeer.connect(test.port);
  const volumes = claims.map(({ volumeId }) => ({
    name: volumeId === 1n ? 'a' : 'b',
    volumeId,
    sizeBytes: MIB,
  }));
  peer.send(encode.encodeReport(volumes, true));
  await peer.next('hello');
  peer.send(encode.encodeHello(AGENT, epoch, 2000, 'vm', FEATURE_PAIRING));
  peer.send(...claims.map(encode.encodeClaim));
  await waitUntil(() => peer.of('startProtect').length + peer.of('volumeError').length === claims.length, {
    what: 'an answer for each volume',
  });
  return peer;
}

function startOf(peer: FakePeer, name: string): MessageOf<'startProtect'> {
  expect(peer.of('volumeError').map(({ text }) => text)).toEqual([]);
  return peer.of('startProtect').find((start) => start.name === name)!;
}

const OTHER_REPLICA = /the agent remembers another replica than this one/;

function expectRefused(peer: FakePeer): void {
  expect(peer.of('startProtect')).toEqual([]);
  expect(peer.of('volumeError')).toMatchObject([{ text: expect.stringMatching(OTHER_REPLICA) }]);
  peer.destroy();
}

/** Cuts the connection before the volumes have said what their replicas lack. */
async function lose(peer: FakePeer, ...names: string[]): Promise<void> {
  peer.destroy();
  for (const name of names) await waitForState(test, 'degraded', name);
}

it('an agent that never heard of a new pairing is begun with again, as often as it takes', async () => {
  // The hub has no record of the replica that the agent remembers: it makes a new pairing.
  const first = await attach([claimOf('a')]);
  const pairing = startOf(first, 'a').pairing!;
  expect(pairing.pairing).not.toBe(PAIRING);
  await lose(first, 'a');
  const second = await attach([claimOf('a')]);
  expect(startOf(second, 'a')).toMatchObject({ resumeSequence: null });
  expect(startOf(second, 'a').pairing).toMatchObject({ pairing: pairing.pairing, recalls: false });
  await lose(second, 'a');
  const third = await attach([claimOf('a')]);
  const last = startOf(third, 'a').pairing!;
  expect(last).toMatchObject({ pairing: pairing.pairing, recalls: false });
  // This one is heard, and only its answer is lost.
  await lose(third, 'a');
  const fourth = await attach([claimOf('a', { pairing: last.pairing, generation: last.generation })]);
  expect(startOf(fourth, 'a').pairing).toMatchObject({ pairing: last.pairing, recalls: true });
  fourth.destroy();
});

it('one that remembers something else than it did then is refused as before', async () => {
  const first = await attach([claimOf('a')]);
  await lose(first, 'a');
  for (const claim of [claimOf('a', { generation: 2 }), claimOf('a', { pairing: 6n })]) {
    expectRefused(await attach([claim]));
  }
});

it('an agent that has answered may not fall back to what it remembered before', async () => {
  const first = await attach([claimOf('a')]);
  first.send(encode.encodeDirty(1n, { sequence: 1, timeUs: 1 }, [], false));
  await waitUntil(() => test.hub.status()[0]!.sequence === 1, { what: 'the list of a' });
  await lose(first, 'a');
  epoch += 1n;
  expectRefused(await attach([claimOf('a')]));
});

it('a volume that has not answered is not resumed because another one has', async () => {
  const first = await attach([claimOf('a'), claimOf('b')]);
  first.send(encode.encodeDirty(1n, { sequence: 1, timeUs: 1 }, [], false));
  await waitUntil(() => test.hub.status()[0]!.sequence === 1, { what: 'the list of a' });
  await lose(first, 'a', 'b');
  const second = await attach([claimOf('a'), claimOf('b')]);
  expect(startOf(second, 'a').resumeSequence).toBe(1);
  const again: StartPairing | null = startOf(second, 'b').pairing;
  expect(startOf(second, 'b').resumeSequence).toBeNull();
  expect(again).toMatchObject({ pairing: startOf(first, 'b').pairing!.pairing, recalls: false });
  expect(again!.generation).toBeGreaterThan(startOf(first, 'b').pairing!.generation);
  second.destroy();
});
