// A disk that could not be flushed: what it loses shows only once it is opened anew, so that the map which is found then
// names all of it.
import { describe, expect, test } from 'vitest';
import { Bitmap } from '../../../src/base/bitmap.ts';
import { BlockError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { DirtyMaps } from '../../../src/repagent/dirty-maps.ts';
import type { DirtySidecar } from '../../../src/repagent/dirty-sidecar.ts';
import { FaultDevice } from '../../support/fault-device.ts';
import { MemorySidecar } from '../../support/memory-sidecar.ts';
import { AGENT_ID, makeAgent } from './harness.ts';

const CHUNK = 65_536;
const SIZE = 4 * CHUNK;

/** Its last flush fails. */
class UnclosedDevice extends FaultDevice {
  override async close(): Promise<void> {
    await super.close();
    throw new BlockError('EIO', 'no more');
  }
}

function openMap(file: MemorySidecar, exact: boolean): DirtySidecar {
  return mapsIn(file, exact).openMap({
    volumeName: 'a',
    sizeBytes: SIZE,
    image: undefined,
    onBroken: () => {},
  });
}

function mapsIn(file: MemorySidecar, exact: boolean): DirtyMaps {
  const bootId = Buffer.alloc(16, 1);
  return new DirtyMaps({ agentId: AGENT_ID, bootId, open: () => file, exact, logger: silentLogger });
}

/** What an agent leaves in its map of a disk that had nothing in it, and what it says. */
async function lives(
  use: (disk: BlockDevice, faulty: FaultDevice) => unknown,
  { faulty = new FaultDevice(new MemoryDevice({ sizeBytes: SIZE })), exact = false } = {},
): Promise<{ dirtyChunks: number; lastError: string | null | undefined }> {
  const file = new MemorySidecar();
  const before = openMap(file, exact);
  const needless = new Bitmap(before.bits.sizeBits);
  needless.setAll();
  before.offer(needless);
  before.settle();
  before.retire(1);
  await before.close(undefined);
  const kept = new MemorySidecar(file.bytes);
  const agent = makeAgent(1, { state: mapsIn(kept, exact) });
  const disk = agent.protect('a', faulty);
  await (async () => use(disk, faulty))().catch(() => undefined);
  const lastError = agent.status().volumes[0]?.lastError;
  await agent.close();
  await disk.close().catch(() => undefined);
  expect(kept.isClosed).toBe(true);
  return { dirtyChunks: openMap(new MemorySidecar(kept.bytes), exact).bits.count, lastError };
}

describe('a disk whose', () => {
  test('flush fails, at once or later, is all named', async () => {
    for (const rejects of [false, true]) {
      const { dirtyChunks, lastError } = await lives((disk, faulty) => {
        faulty.fail({ times: 1, rejects });
        return disk.flush();
      });
      expect(dirtyChunks).toBe(4);
      expect(lastError).toMatch(/^the disk could not be flushed: .*; start the agent anew/);
    }
  });

  test('change that had to be durable fails, is all named', async () => {
    const { dirtyChunks } = await lives((disk, faulty) => {
      faulty.fail({ times: 1 });
      return disk.write(0, Buffer.alloc(512), true);
    });
    expect(dirtyChunks).toBe(4);
  });

  test('last flush fails as it is closed, is all named', async () => {
    const faulty = new UnclosedDevice(new MemoryDevice({ sizeBytes: SIZE }));
    const { dirtyChunks } = await lives(() => {}, { faulty });
    expect(dirtyChunks).toBe(4);
  });

  test('change fails that had no need to be durable, or had no room, is named where that was', async () => {
    for (const [fua, code] of [
      [false, 'EIO'],
      [true, 'ENOSPC'],
    ] as const) {
      const { dirtyChunks, lastError } = await lives((disk, faulty) => {
        faulty.fail({ times: 1, error: new BlockError(code, 'simulated') });
        return disk.write(0, Buffer.alloc(512), fua);
      });
      expect(dirtyChunks).toBe(1);
      expect(lastError).toBeNull();
    }
  });

  test('flush fails keeps the bits of an exact map, which has what was not flushed', async () => {
    const { dirtyChunks } = await lives(
      async (disk, faulty) => {
        await disk.write(CHUNK, Buffer.alloc(512), false);
        faulty.fail({ times: 1 });
        return disk.flush();
      },
      { exact: true },
    );
    expect(dirtyChunks).toBe(1);
  });
});
