// The suite over raw images: on the temporary directory and on tmpfs, with and without native calls, with calls
// that move less than asked, and with everything on the thread pool.
import fs from 'node:fs';
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { loadNativeCalls } from '../../src/base/native-calls.ts';
import { type FileDeviceOptions, openFileDevice } from '../../src/blockdev/file-device.ts';
import { type FileIo, systemIo } from '../../src/blockdev/file-io.ts';
import { blockDeviceSuite, type MakeDevice, type SuiteFeatures } from '../support/block-device-suite.ts';
import { tempDir } from '../support/temp-dir.ts';

type Variation = Omit<FileDeviceOptions, 'path' | 'logger'>;

function fileDevices(variation: Variation = {}, root?: string): MakeDevice {
  return async ({ sizeBytes }) => {
    const dir = tempDir(root);
    const options = { ...variation, path: dir.file('disk.img'), logger: silentLogger };
    const device = await openFileDevice({ ...options, createSizeBytes: sizeBytes });
    return {
      device,
      async reopen() {
        await device.close();
        return openFileDevice(options);
      },
      cleanup: async () => dir.remove(),
    };
  };
}

/** Moves at most half of what is asked, and is interrupted now and then. */
function shortIo(): FileIo {
  const inner = systemIo(loadNativeCalls());
  let calls = 0;
  const cut = (bytes: Buffer): Buffer => {
    calls += 1;
    if (calls % 7 === 0) throw Object.assign(new Error('interrupted'), { code: 'EINTR' });
    return bytes.subarray(0, Math.ceil(bytes.length / 2));
  };
  return {
    readSync: (fd, target, at) => inner.readSync(fd, cut(target), at),
    writeSync: (fd, data, at) => inner.writeSync(fd, cut(data), at),
    read: (fd, target, at, done) =>
      inner.read(fd, target.subarray(0, Math.ceil(target.length / 2)), at, done),
    write: (fd, data, at, done) => inner.write(fd, data.subarray(0, Math.ceil(data.length / 2)), at, done),
    datasync: inner.datasync,
  };
}

/** A clock by which every call takes a second, so that all of them move to the thread pool. */
function slowClock(): () => number {
  let now = 0;
  return () => {
    now += 1000;
    return now;
  };
}

const native = loadNativeCalls();
const tellsHoles: SuiteFeatures = native ? { tellsHoles: true, grows: true } : { grows: true };

blockDeviceSuite('raw image', fileDevices(), tellsHoles);
blockDeviceSuite('raw image without native calls', fileDevices({ native: null }), { runs: 10, grows: true });
blockDeviceSuite('raw image with short transfers', fileDevices({ io: shortIo() }), {
  ...tellsHoles,
  runs: 10,
});
blockDeviceSuite('raw image on the thread pool', fileDevices({ now: slowClock() }), {
  ...tellsHoles,
  runs: 10,
});
blockDeviceSuite(
  'raw image on the thread pool without native calls',
  fileDevices({ now: slowClock(), native: null }),
  {
    large: false,
    grows: true,
    runs: 10,
  },
);

describe.runIf(fs.existsSync('/dev/shm'))('on tmpfs', () => {
  blockDeviceSuite('raw image', fileDevices({}, '/dev/shm'), tellsHoles);
});

describe('native calls', () => {
  it('are there on 64-bit Linux, as koffi is installed for development', () => {
    if (process.platform === 'linux') expect(native).toBeDefined();
  });
});
