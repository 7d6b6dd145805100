// A dirty map whose file takes no writes: replication goes on, and what is wrong is told for as long as the process runs.
import { expect, test } from 'vitest';
import { Bitmap } from '../../../src/base/bitmap.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import type { Agent } from '../../../src/repagent/agent.ts';
import { DirtyMaps } from '../../../src/repagent/dirty-maps.ts';
import { volumeStatus } from '../../../src/repagent/volume-status.ts';
import { MemorySidecar } from '../../support/memory-sidecar.ts';
import { AGENT_ID, makeAgent } from './harness.ts';
import { VolumeRig } from './volume-rig.ts';

const CHUNK = 65_536;
const SIZE = 4 * CHUNK;
const REASON = "the dirty map can't be kept in its file: no space";

function mapsIn(file: MemorySidecar): DirtyMaps {
  const bootId = Buffer.alloc(16, 1);
  return new DirtyMaps({ agentId: AGENT_ID, bootId, open: () => file, logger: silentLogger });
}

/** As an agent leaves it whose hub has everything. */
async function emptyMap(): Promise<MemorySidecar> {
  const file = new MemorySidecar();
  const request = { volumeName: 'a', sizeBytes: SIZE, image: undefined, onBroken: () => {} };
  const sidecar = mapsIn(file).openMap(request);
  const needless = new Bitmap(sidecar.bits.sizeBits);
  needless.setAll();
  sidecar.offer(needless);
  sidecar.settle();
  sidecar.retire(1);
  await sidecar.close(undefined);
  return new MemorySidecar(file.bytes);
}

function told(agent: Agent): unknown {
  const [volume] = agent.status().volumes;
  return { last: volume?.lastError, first: volume?.firstError?.text };
}

test('without room for a map at the start: told', async () => {
  const file = new MemorySidecar();
  // Its head fits.
  file.onWrite = () => {
    file.writeFaults = 1;
    file.onWrite = () => {};
  };
  const agent = makeAgent(1, { state: mapsIn(file) });
  const disk = agent.protect('a', new MemoryDevice({ sizeBytes: SIZE }));
  expect(told(agent)).toEqual({ last: REASON, first: REASON });
  await agent.close();
  await disk.close();
});

test('without room for a bit later: told, and the guest is not', async () => {
  const file = await emptyMap();
  const agent = makeAgent(1, { state: mapsIn(file) });
  const disk = agent.protect('a', new MemoryDevice({ sizeBytes: SIZE }));
  expect(told(agent)).toEqual({ last: null, first: undefined });
  file.writeFaults = 1;
  await disk.write(CHUNK, Buffer.alloc(512), false);
  expect(told(agent)).toEqual({ last: REASON, first: REASON });
  await agent.close();
  await disk.close();
});

test('stays told, whatever a hub says; other errors are told first', () => {
  const rig = new VolumeRig(new MemoryDevice({ sizeBytes: SIZE }));
  const lastError = () => volumeStatus(rig.volume, 'vm').lastError;
  rig.volume.health.flawed('no room for the map');
  rig.connect();
  rig.protect();
  expect(lastError()).toBe('no room for the map');
  rig.volume.health.refused('another agent has it');
  expect(lastError()).toBe('another agent has it');
  rig.disconnect();
  rig.connect(true, 0);
  rig.protect();
  expect(lastError()).toBe('no room for the map');
});
