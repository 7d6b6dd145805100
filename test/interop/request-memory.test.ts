// What a request costs in memory, where no clock is needed: heap that is allocated, and heap that is kept. Requests come
// in batches that wait for each other. The bounds lie above what is true; who lowers a cost lowers its bound.
import { expect, it } from 'vitest';
import {
  type HeapLook,
  untilAcknowledged,
  withDiskServer,
  withMirroredServer,
} from '../support/heap-program.ts';
import { type BatchKind, runBatches } from '../support/request-batches.ts';

const REQUESTS = 100_000;
const MIRRORED_PORTION = 5000;
const MAX_KEPT_BYTES = 512 * 1024;

interface Looks {
  readonly before: HeapLook;
  readonly after: HeapLook;
  readonly kept: HeapLook;
}

function expectCheap({ before, after, kept }: Looks, requests: number, maxBytesPerRequest: number): void {
  expect(after.collections, 'a collection would hide what was allocated').toBe(before.collections);
  expect((after.usedBytes - before.usedBytes) / requests).toBeLessThan(maxBytesPerRequest);
  expect(kept.usedBytes - before.usedBytes, 'kept: far less than an object for each request').toBeLessThan(
    MAX_KEPT_BYTES,
  );
}

it.each<[BatchKind, number, number]>([
  ['read', 1, 3000],
  ['write', 1, 1700],
  ['read', 32, 220],
  ['write', 32, 220],
])('a %s at depth %i allocates little and keeps nothing', async (kind, depth, maxBytesPerRequest) => {
  const requests = depth === 1 ? REQUESTS / 5 : REQUESTS;
  const looks = await withDiskServer(async (server, client): Promise<Looks> => {
    await runBatches(client, kind, depth, Math.ceil(requests / depth / 4)); // code is compiled, pools are filled
    const before = await server.ask('gc');
    await runBatches(client, kind, depth, Math.ceil(requests / depth));
    const after = await server.ask('look');
    return { before, after, kept: await server.ask('gc') };
  });
  expectCheap(looks, requests, maxBytesPerRequest);
});

it.each([
  [1, 5000, 2000],
  [32, 600, 650],
])(
  'a mirrored write at depth %i allocates little in agent and hub, and keeps nothing',
  async (depth, maxAgentBytes, maxHubBytes) => {
    await withMirroredServer(async (agent, hub, client) => {
      const requests = depth === 1 ? REQUESTS / 5 : REQUESTS;
      const write = async (count: number): Promise<void> => {
        // In portions, so that what waits for the hub stays small however slow the machine: buffers that are pinned
        // press for collections.
        for (let at = 0; at < count; at += MIRRORED_PORTION) {
          await runBatches(client, 'write', depth, Math.ceil(Math.min(MIRRORED_PORTION, count - at) / depth));
          await untilAcknowledged(agent);
        }
      };
      // Compiling goes on for longer than without a hub, and what it keeps is no cost of a write.
      await write(requests);
      const before = [await agent.ask('gc'), await hub.ask('gc')] as const;
      await write(requests);
      const after = [await agent.ask('look'), await hub.ask('look')] as const;
      const kept = [await agent.ask('gc'), await hub.ask('gc')] as const;
      expect(after[0].overflows, 'what does not fit the queue would cost nothing').toBe(0);
      expectCheap({ before: before[0], after: after[0], kept: kept[0] }, requests, maxAgentBytes);
      expectCheap({ before: before[1], after: after[1], kept: kept[1] }, requests, maxHubBytes);
    });
  },
);
