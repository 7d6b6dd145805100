// QEMU's own way to copy writes: qemu-storage-daemon exports the image over NBD while its blockdev-mirror job copies
// to a second process, a qemu-nbd. Measured once the job is ready, that is, when the first copy is complete.
import { OperationError } from '../../base/errors.ts';
import { compare } from '../own-process.ts';
import { QmpClient } from '../qmp.ts';
import {
  type Bed,
  freePort,
  nbdUri,
  onlyImage,
  type RunningServer,
  type ServerKind,
  until,
  untilAccepts,
} from '../server.ts';
import { createEmptyImage } from '../workspace.ts';

const SYNC_TIMEOUT_MS = 120_000;
const JOB = 'mirror';

type CopyMode = 'background' | 'write-blocking';

export const qemuBackground: ServerKind = mirrorKind(
  'qemu-background',
  'background',
  'qemu-storage-daemon, blockdev-mirror copy-mode=background, to qemu-nbd; order is lost',
);
export const qemuBlocking: ServerKind = mirrorKind(
  'qemu-blocking',
  'write-blocking',
  'qemu-storage-daemon, blockdev-mirror copy-mode=write-blocking, to qemu-nbd; writes wait for both',
);

function mirrorKind(name: string, mode: CopyMode, describe: string): ServerKind {
  return {
    name,
    role: 'peer',
    describe,
    programs: { 'qemu-storage-daemon': 'qemu-system-common', 'qemu-nbd': 'qemu-utils' },
    versionArgs: ['--version'],
    suits: (cell) => cell.mirror && !cell.tls && cell.chain === 0,
    start: (bed) => startMirror(bed, name, mode),
  };
}

async function startMirror(bed: Bed, name: string, mode: CopyMode): Promise<RunningServer> {
  const [image, replica] = [onlyImage(bed, name), bed.replica(name)];
  const [targetSocket, monitorSocket] = [bed.scratch(`${name}-target`), bed.scratch(`${name}-qmp`)];
  createEmptyImage(replica, bed.sizeBytes);
  const target = bed.children.start('qemu-nbd', [
    ...['--format', 'raw', '--cache', 'writeback', '--persistent', '--shared', '0'],
    ...['--socket', targetSocket, replica],
  ]);
  await untilAccepts('qemu-nbd', { path: targetSocket }, target);
  const port = await freePort();
  const daemon = bed.children.start('qemu-storage-daemon', [
    ...['--blockdev', `driver=file,node-name=file,filename=${image}`],
    ...['--blockdev', 'driver=raw,node-name=disk,file=file'],
    ...['--blockdev', `driver=nbd,node-name=replica,server.type=unix,server.path=${targetSocket}`],
    ...['--nbd-server', `addr.type=inet,addr.host=127.0.0.1,addr.port=${port},max-connections=0`],
    ...['--export', 'type=nbd,id=export,node-name=disk,name=disk,writable=on'],
    ...['--chardev', `socket,id=qmp,path=${monitorSocket},server=on,wait=off`, '--monitor', 'chardev=qmp'],
  ]);
  await untilAccepts('qemu-storage-daemon', { host: '127.0.0.1', port }, daemon);
  const qmp = await QmpClient.connect(monitorSocket);
  await qmp.run('blockdev-mirror', {
    ...{ 'job-id': JOB, device: 'disk', target: 'replica', sync: 'full', 'copy-mode': mode },
  });
  const settle = (): Promise<void> =>
    until(`${name}: the copy is complete`, () => isReady(qmp), SYNC_TIMEOUT_MS);
  await settle();
  return {
    pids: [daemon.pid, target.pid],
    uris: [nbdUri(port, 'disk')],
    settle,
    check: async () => {
      await settle();
      // Cancelling a job that is ready ends it with a target that equals the disk.
      await qmp.run('block-job-cancel', { device: JOB });
      await until(`${name}: the job ends`, async () => (await jobs(qmp)).length === 0, SYNC_TIMEOUT_MS);
      await compare(name, image, replica);
    },
    stop: async () => {
      qmp.close();
      await daemon.stop();
      await target.stop();
    },
  };
}

interface BlockJob {
  readonly ready: boolean;
  readonly offset: number;
  readonly len: number;
}

async function jobs(qmp: QmpClient): Promise<readonly BlockJob[]> {
  return (await qmp.run('query-block-jobs')) as readonly BlockJob[];
}

async function isReady(qmp: QmpClient): Promise<boolean> {
  const [job] = await jobs(qmp);
  if (job === undefined) throw new OperationError('the mirror job has ended by itself');
  return job.ready && job.offset >= job.len;
}
