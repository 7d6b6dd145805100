// How far behind a replica may be, as the agent says it.
import { expect, test } from 'vitest';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { UNKNOWN_TIME_US } from '../../../src/repagent/dirty-map.ts';
import { lagMs } from '../../../src/repagent/volume-health.ts';
import { volumeStatus } from '../../../src/repagent/volume-status.ts';
import { writeNow } from './harness.ts';
import { VolumeRig } from './volume-rig.ts';

const NOW_US = 1_800_000_000_000_000;

test.each([
  ['nothing is missing', true, 0, 0],
  ['a change of two seconds ago is', true, NOW_US - 2_000_000, 2000],
  ['the clock was set back since', true, NOW_US + 5_000_000, 0],
  ['changes of an unknown time are', true, UNKNOWN_TIME_US, null],
  ['the replica was never complete', false, NOW_US - 2_000_000, null],
] as const)('the lag when %s', (_what, wasInSync, oldestTimeUs, expected) => {
  expect(lagMs(wasInSync, oldestTimeUs, NOW_US)).toBe(expected);
});

const CHUNK = 64 * 1024;

test('the lag is unknown until the replica is complete, then grows while nothing is written', () => {
  const rig = new VolumeRig(new MemoryDevice({ sizeBytes: 4 * CHUNK }));
  rig.nowUs = NOW_US;
  const status = () => volumeStatus(rig.volume, 'vm');
  const pass = (seconds: number): void => {
    rig.nowUs += seconds * 1_000_000;
  };
  rig.connect();
  pass(3);
  expect(status()).toMatchObject({ lagMs: null, lagHistory: { lastMinute: { maxMs: null } } });
  rig.protect();
  expect(status().lagMs).toBe(0);
  pass(70);
  writeNow(rig.filter, 0, 512);
  pass(2);
  rig.protect();
  expect(status()).toMatchObject({ lagMs: 0, lagHistory: { lastMinute: { maxMs: 2000 } } });
  pass(100);
  expect(status()).toMatchObject({
    lagMs: 0,
    // The rest of the hour is not known to have been well.
    lagHistory: { lastMinute: { maxMs: 0, coveredSeconds: 60 }, lastHour: { maxMs: null } },
  });
  writeNow(rig.filter, 0, 512);
  // Nobody looks, nothing is written, and the hub is gone: the change grows old all the same.
  rig.disconnect();
  pass(20);
  expect(status().lagMs).toBe(20_000);
  pass(10);
  rig.connect(true, 0);
  rig.protect();
  expect(status()).toMatchObject({ lagMs: 0, lagHistory: { lastMinute: { maxMs: 30_000 } } });
});
