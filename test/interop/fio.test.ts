// fio (nbd engine): deep queues from four jobs at once; fio reads everything back and checks its checksums.
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { runPeerOk } from '../support/peers.ts';
import { type Rig, startRig } from '../support/rig.ts';

const JOBS = 4;
const PER_JOB = 24 * MiB;
const VOLUMES = [{ name: 'a', sizeBytes: JOBS * PER_JOB }];

interface FioReport {
  readonly jobs: ReadonlyArray<{
    readonly error: number;
    readonly read: { readonly total_ios: number };
    readonly write: { readonly total_ios: number };
    readonly trim: { readonly total_ios: number };
  }>;
}

/** Four jobs, each in its own quarter of the disk, as verification wants it. */
async function fio(rig: Rig, options: readonly string[], jobs = JOBS): Promise<FioReport['jobs']> {
  const output = await runPeerOk(
    'fio',
    [
      ...['--name=job', '--ioengine=nbd', `--uri=${rig.uri('a')}`, '--output-format=json'],
      ...[`--numjobs=${JOBS}`, `--size=${PER_JOB}`, `--offset_increment=${PER_JOB}`],
      ...['--verify_state_save=0', '--randrepeat=0', ...options],
    ],
    { cwd: rig.folder },
  );
  const report = JSON.parse(output.slice(output.indexOf('{'))) as FioReport;
  expect(report.jobs).toHaveLength(jobs);
  for (const job of report.jobs) expect(job.error).toBe(0);
  return report.jobs;
}

it('mixes reads and writes at depth 32 and verifies them', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  const jobs = await fio(rig, [
    ...['--rw=randrw', '--bs=4k', '--iodepth=32', '--io_size=12M'],
    ...['--verify=crc32c', '--verify_fatal=1', '--fsync=500'],
  ]);
  for (const job of jobs) {
    expect(job.write.total_ios).toBeGreaterThan(500);
    expect(job.read.total_ios, 'what was written is read back').toBeGreaterThan(500);
  }
  await rig.finish();
});

it('writes blocks of every size between 512 bytes and 256 KiB', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  await fio(rig, [
    ...['--rw=randwrite', '--bsrange=512-256k', '--iodepth=32'],
    ...['--verify=crc32c', '--verify_fatal=1', '--do_verify=1'],
  ]);
  await rig.finish();
});

it('trims beside writes', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  // One job: fio's trimwrite mode with several offsets ends after the first request of each further job.
  const whole = ['--numjobs=1', `--size=${JOBS * PER_JOB}`];
  const jobs = await fio(rig, ['--rw=randtrimwrite', '--bs=64k', '--iodepth=16', ...whole], 1);
  expect(jobs[0]!.trim.total_ios).toBeGreaterThan(500);
  expect(jobs[0]!.write.total_ios).toBeGreaterThan(500);
  await rig.finish();
});
