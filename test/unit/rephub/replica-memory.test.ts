// What a hub keeps of a replica, over attachments that come to nothing.
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import { memoryRecord } from '../../../src/rephub/record-file.ts';
import { type Beginning, ReplicaMemory } from '../../../src/rephub/replica-memory.ts';
import type { Claim } from '../../../src/repwire/messages.ts';

const AGENT = { id: 'a'.repeat(32), epoch: 1n };

function claim(pairing: bigint, generation: number): Claim {
  return {
    kind: 'claim',
    volumeId: 1n,
    pairing,
    generation,
    recordedSequence: 0,
    isBelieved: true,
    finding: 'clean',
  };
}

async function emptyMemory(): Promise<ReplicaMemory> {
  const memory = new ReplicaMemory({
    volumeName: 'disk',
    place: memoryRecord(),
    look: async () => undefined,
    logger: silentLogger,
    onRecorded: () => {},
  });
  await memory.prepare();
  return memory;
}

const begin = (memory: ReplicaMemory, from: Claim): Promise<Beginning> =>
  memory.begin(AGENT, 'vm', 4096, from);

describe('an attachment under a new pairing', () => {
  test('that the agent never heard of does not shut it out', async () => {
    const memory = await emptyMemory();
    const before = claim(7n, 3);
    const lost = await begin(memory, before);
    // The link goes down here, and again.
    const again = await begin(memory, before);
    const last = await begin(memory, before);
    expect([lost.kind, again.kind, last.kind]).toEqual(['compare', 'compare', 'compare']);
    const { pairing } = last;
    expect(pairing!.pairing).not.toBe(7n);
    // It has kept the last one.
    const kept = await begin(memory, claim(pairing!.pairing, pairing!.generation));
    expect(kept.kind).toBe('recall');
    await memory.close(true);
  });

  test('that the agent answered to shuts out what remembers the one before', async () => {
    const memory = await emptyMemory();
    await begin(memory, claim(7n, 3));
    memory.confirmed();
    // Written in memory, within this turn.
    await turn();
    await expect(begin(memory, claim(7n, 3))).rejects.toThrow('another replica');
    await memory.close(true);
  });
});
