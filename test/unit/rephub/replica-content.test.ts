// When what is known of a replica's content is void: whoever goes on with it after that would take for stored what is
// not there any more.
import { describe, expect, it } from 'vitest';
import { ReplicaContent } from '../../../src/rephub/replica-content.ts';
import type { ReplicaStore, UndoStatus } from '../../../src/rephub/replica-store.ts';
import { DEFAULT_SYNC_TUNING } from '../../../src/rephub/sync-engine.ts';
import { MemoryImage, MemoryStore } from '../../support/memory-images.ts';

const SIZE = 4 * 65_536;
const POINT = { generation: 1, sequence: 5, timeMs: 1, isExact: true };

function setUp() {
  const image = new MemoryImage(SIZE);
  let undo: UndoStatus = { state: 'none' };
  const events = {
    commitBegins: () => false,
    committed: () => {},
    storeFails: () => {},
    storeFailed: () => {},
  };
  const content = new ReplicaContent({
    sizeBytes: SIZE,
    tuning: DEFAULT_SYNC_TUNING,
    gatherMs: () => 0,
    openStore: async (): Promise<ReplicaStore> => {
      const store = new MemoryStore(image);
      const isOpenFault = image.openFaults.shift() !== undefined;
      if (isOpenFault) {
        await store.close();
        throw new Error('in use');
      }
      return Object.defineProperty(store, 'undo', { value: undo });
    },
    events,
  });
  const setUndo = (now: UndoStatus): void => {
    undo = now;
  };
  const fail = (): void => {
    image.appendFaults = ['EIO'];
    content.write(0, Buffer.alloc(512));
    void content.apply();
  };
  return { image, content, setUndo, fail };
}

describe('content that was let go', () => {
  it('is what it was when its store failed', async () => {
    const { content, fail } = setUp();
    expect(await content.open(SIZE)).toBe(false);
    fail();
    expect([content.isOpen, await content.open(SIZE)]).toEqual([false, false]);
    await content.close();
  });

  it('is void once somebody chose what becomes of it: nobody goes on with what he remembers', async () => {
    const { content } = setUp();
    await content.open(SIZE);
    await content.letGo();
    expect([await content.open(SIZE), await content.open(SIZE)]).toEqual([true, false]);
    await content.close();
  });

  it('is void without the undo log that it was left with, however often it could not be opened meanwhile', async () => {
    for (const after of [{ state: 'none' }, { state: 'givenUp', reason: 'gone' }] as const) {
      const { image, content, setUndo, fail } = setUp();
      setUndo({ state: 'open', point: POINT, bytes: 1 });
      await content.open(SIZE);
      fail();
      expect(await content.open(SIZE)).toBe(false);
      fail();
      setUndo(after);
      image.openFaults = ['EIO', 'EIO'];
      await expect(content.open(SIZE)).rejects.toThrow('in use');
      await expect(content.open(SIZE)).rejects.toThrow('in use');
      expect([await content.open(SIZE), await content.open(SIZE)]).toEqual([true, false]);
      await content.close();
    }
  });
});
