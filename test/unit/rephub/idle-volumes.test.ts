// What volumes cost at which nothing happens while another one of their agent is written to: nothing, however many.
import { afterEach, describe, expect, test, vi } from 'vitest';
import { ReplicaMemory } from '../../../src/rephub/replica-memory.ts';
import { FakeAgent } from '../../support/fake-agent.ts';
import { closeHub, type TestHub, testHub } from '../../support/hub-harness.ts';
import { waitUntil } from '../../support/wait-until.ts';

const SIZE = 64 * 1024;
const WRITES = 100;

/** How often a hub tells of progress, ms. */
const PROGRESS_MS = 250;

let agent: FakeAgent;
let hub: TestHub;

afterEach(async () => {
  vi.restoreAllMocks();
  agent.drop();
  await closeHub(hub);
});

describe('volumes at rest', () => {
  test.each([10, 100])(
    'of which there are %i beside a busy one cost no word, commit or record',
    async (volumes) => {
      const names = ['busy', ...Array.from({ length: volumes }, (_, at) => `idle${at}`)];
      const sizes = Object.fromEntries(names.map((name) => [name, SIZE]));
      hub = await testHub(sizes);
      agent = new FakeAgent({ volumes: sizes });
      await agent.connect(hub.port);
      for (const name of names) await agent.waitAcked(name);
      const toldOfIdle = (): number =>
        names.slice(1).reduce((sum, name) => sum + agent.volume(name).acks.length, 0);
      const isThere = (): boolean =>
        hub.hub.status().every(({ ackedSequence }) => ackedSequence >= agent.sequence);
      await waitUntil(isThere, { what: 'every volume to be at the stream’s position' });
      // Progress of their copy is told some time after it was made: until nothing more of it comes.
      let before = -1;
      let sinceMs = 0;
      const isQuiet = (): boolean => {
        const now = toldOfIdle();
        if (now !== before) sinceMs = performance.now();
        before = now;
        return performance.now() - sinceMs > 2 * PROGRESS_MS;
      };
      await waitUntil(isQuiet, { what: 'the hub to have told of all that was copied' });
      // What is recorded durably, and made so, is what was reached.
      const reached = vi.spyOn(ReplicaMemory.prototype, 'reached');
      for (let at = 0; at < WRITES; at += 1) {
        agent.write('busy', (at % 16) * 4096, Buffer.alloc(512, at));
        await agent.waitAcked('busy');
      }
      // The hub has taken note of how far they are all the same.
      await waitUntil(isThere, { what: 'every volume to be at the stream’s position' });
      expect(toldOfIdle()).toBe(before);
      expect(new Set(reached.mock.contexts).size).toBe(1);
      expect(reached.mock.calls.length).toBeLessThanOrEqual(WRITES);
    },
  );
});
