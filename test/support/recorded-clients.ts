// Real clients at work on a small disk, each through a recording proxy: what they said, for tests that need the true
// thing. One list for all such tests, so that a client added here is seen by each.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KiB, MiB } from '../../src/base/limits.ts';
import { NbdRig } from './nbd-rig.ts';
import { runPeerOk } from './peers.ts';
import { type RecordedSession, RecordingProxy } from './recording-proxy.ts';
import { makeImage } from './rig.ts';
import { SparseDevice } from './test-devices.ts';

/** Of the disk that the clients work on, bytes. Small: it is played again byte by byte. */
export const RECORDED_DISK_BYTES = 2 * MiB;

/** A fresh disk, as the server of the recording had it. It answers at once. */
export function recordedDisk(): SparseDevice {
  const device = new SparseDevice(RECORDED_DISK_BYTES);
  device.bytes.write(256 * KiB, Buffer.alloc(64 * KiB, 'data'));
  return device;
}

interface Scene {
  readonly uri: string;
  readonly port: number;
  readonly file: (name: string) => string;
}

const NBDSH_SCRIPT = `
h.set_strict_mode(0)
size = h.get_size()
def refused(call):
    try:
        call()
    except nbd.Error:
        return
    raise AssertionError('not refused')
h.pwrite(b'x' * 1000, 4096)
assert h.pread(1000, 4096) == b'x' * 1000
refused(lambda: h.pwrite(b'y' * 600, size - 100))
refused(lambda: h.pread(600, size))
refused(lambda: h.trim(100, size))
h.pwrite(b'z' * 512, 0, nbd.CMD_FLAG_FUA)
h.trim(65536, 0)
h.zero(4096, 8192)
h.zero(4096, 65536, nbd.CMD_FLAG_NO_HOLE)
h.cache(65536, 0)
h.flush()
pending = [h.aio_pread(nbd.Buffer(4096), 4096 * i) for i in range(64)]
while h.aio_in_flight() > 0:
    h.poll(-1)
    for cookie in [c for c in pending if h.aio_command_completed(c)]:
        pending.remove(cookie)
h.shutdown()
`;

/** Each ends with 0 on a healthy server. */
const CLIENTS: Readonly<Record<string, (scene: Scene) => Promise<unknown>>> = {
  'qemu-img convert to the disk': ({ uri, file }) =>
    runPeerOk('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', file('source'), uri]),
  'qemu-img convert from the disk': ({ uri, file }) =>
    runPeerOk('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri, file('back.qcow2')]),
  'qemu-img map': ({ uri }) => runPeerOk('qemu-img', ['map', '--output=json', '-f', 'raw', uri]),
  'qemu-img info by the short form': ({ port }) =>
    runPeerOk('qemu-img', ['info', `nbd:localhost:${port}:exportname=disk`]),
  'nbdcopy to the disk': ({ uri, file }) =>
    runPeerOk('nbdcopy', ['--connections=2', '--requests=16', '--flush', file('source'), uri]),
  'nbdcopy from the disk': ({ uri, file }) =>
    runPeerOk('nbdcopy', ['--connections=2', '--requests=16', uri, file('back')]),
  'nbdinfo --list': ({ uri }) => runPeerOk('nbdinfo', ['--list', '--json', uri]),
  nbdsh: ({ uri }) => runPeerOk('nbdsh', ['-u', uri, '-c', NBDSH_SCRIPT]),
  fio: ({ uri, file }) =>
    runPeerOk('fio', [
      ...['--name=job', '--ioengine=nbd', `--uri=${uri}`, '--rw=randrw', '--bsrange=512-32k', '--iodepth=16'],
      ...[`--size=${RECORDED_DISK_BYTES}`, '--io_size=1M', '--fsync=20', '--randrepeat=1'],
      `--output=${file('fio')}`,
    ]),
  'nbd-client -l': ({ port }) => runPeerOk('nbd-client', ['-l', 'localhost', String(port)]),
};

export interface Recording {
  readonly client: string;
  readonly sessions: readonly RecordedSession[];
}

/** Lets every client do its work over TCP, one after another, each on a fresh disk. */
export async function recordClients(): Promise<Recording[]> {
  const folder = mkdtempSync(join(tmpdir(), 'repagent-record-'));
  const recordings: Recording[] = [];
  try {
    makeImage(join(folder, 'source'), RECORDED_DISK_BYTES, [[0, 1]]);
    for (const [client, run] of Object.entries(CLIENTS)) {
      const rig = await NbdRig.start(recordedDisk(), { tcp: true });
      try {
        await using proxy = await RecordingProxy.listen(rig.to);
        const file = (name: string): string => join(folder, name);
        await run({ uri: `nbd://localhost:${proxy.port}/disk`, port: proxy.port, file });
        recordings.push({ client, sessions: await proxy.take() });
      } finally {
        await rig.stop();
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return recordings;
}
