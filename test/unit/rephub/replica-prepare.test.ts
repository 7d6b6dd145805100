// A replica whose store fails while the next connection waits for it: what is opened then has to be looked at anew.
import { expect, test } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import { DEFAULT_TUNING } from '../../../src/rephub/hub-tuning.ts';
import { memoryRecord } from '../../../src/rephub/record-file.ts';
import { Replica } from '../../../src/rephub/replica.ts';
import type { ReplicaLink } from '../../../src/rephub/replica-link.ts';
import { ReplicaMemory } from '../../../src/rephub/replica-memory.ts';
import type { ReplicaStore } from '../../../src/rephub/replica-store.ts';
import type { Claim } from '../../../src/repwire/messages.ts';
import { waitUntil } from '../../support/wait-until.ts';

const SIZE = 1 << 20;
const AGENT = { id: 'a'.repeat(32), epoch: 1n };
const LINK: ReplicaLink = {
  ...{ agent: AGENT, receivedSequence: 1, clockOffsetUs: null },
  ...{ tell: () => {}, recorded: () => {}, wake: () => {}, end: () => {} },
};
const NEW_AGENT: Claim = {
  ...{ kind: 'claim', volumeId: 1n, pairing: 0n, generation: 0, recordedSequence: 0 },
  ...{ isBelieved: false, finding: 'new' },
};

/** Its commits wait until they are told to fail. */
function storeOf(waiting: Array<() => void>): ReplicaStore {
  return {
    sizeBytes: SIZE,
    append: () => {},
    commit: () =>
      new Promise((_, reject) => {
        waiting.push(() => reject(new Error('EIO')));
      }),
    read: (_offset, target) => void target.fill(0),
    grow: async () => {},
    close: async () => {},
  };
}

/** A replica of which an agent that was attached has left a commit under way, and how its image looks. */
async function leftReplica() {
  const look = { identity: '1:1', changedAtNs: '1000000', isEmpty: false };
  const commits: Array<() => void> = [];
  const replica = new Replica({
    ...{ key: 'a', volumeName: 'a', sizeBytes: SIZE, tuning: DEFAULT_TUNING, logger: silentLogger },
    openStore: async () => storeOf(commits),
    memory: (onRecorded) =>
      new ReplicaMemory({
        ...{ volumeName: 'a', place: memoryRecord(), look: async () => ({ ...look }) },
        ...{ logger: silentLogger, onRecorded },
      }),
  });
  await replica.prepare(SIZE, AGENT);
  replica.attach(LINK, 'vm', await replica.memory.begin(AGENT, 'vm', SIZE, NEW_AGENT));
  replica.write(0, Buffer.alloc(4096, 1), 0);
  await replica.apply();
  replica.detach(false, 'cut');
  await waitUntil(() => commits.length > 0);
  return { replica, look, commits };
}

test('an image that is exchanged then is not taken for the one that was open', async () => {
  const { replica, look, commits } = await leftReplica();
  const preparing = replica.prepare(SIZE, AGENT);
  preparing.catch(() => {});
  look.identity = '1:2';
  for (const fail of commits) fail();
  await expect(preparing).rejects.toThrow('failed while it was opened');
  expect([replica.state, await replica.prepare(SIZE, AGENT)]).toEqual(['failed', true]);
  await expect(replica.memory.begin(AGENT, 'vm', SIZE, NEW_AGENT)).rejects.toThrow('another one');
});

test('what the hub itself wrote since it began is not taken for the work of others', async () => {
  const { replica, look, commits } = await leftReplica();
  look.changedAtNs = String(BigInt(Date.now()) * 1_000_000n);
  const preparing = replica.prepare(SIZE, AGENT);
  preparing.catch(() => {});
  for (const fail of commits) fail();
  await expect(preparing).rejects.toThrow('failed while it was opened');
  expect(await replica.prepare(SIZE, AGENT)).toBe(false);
  replica.attach(LINK, 'vm');
  replica.detach(false, 'over');
});
