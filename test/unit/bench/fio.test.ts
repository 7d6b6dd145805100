import { describe, expect, test } from 'vitest';
import { fileLoadArgs, loopbackLoadArgs, nbdLoadArgs, parseFioReport } from '../../../src/bench/fio.ts';
import { parseCellId } from '../../../src/bench/matrix.ts';
import { parseStatCpu, parseStatusRss } from '../../../src/bench/process-usage.ts';
import { parseQmpLine } from '../../../src/bench/qmp.ts';

const IDLE = { total_ios: 0, io_bytes: 0, iops: 0, bw_bytes: 0, clat_ns: { min: 0 } };

function direction(ios: number, p50: number, p99: number) {
  const clat_ns = { percentile: { '50.000000': p50, '99.000000': p99 } };
  return { total_ios: ios, io_bytes: ios * 4096, iops: ios / 2, bw_bytes: ios * 2048, clat_ns };
}

function job(name: string, read: object, write: object, error = 0) {
  return { jobname: name, error, usr_cpu: 10, sys_cpu: 15, job_runtime: 2000, read, write };
}

const report = (...jobs: object[]) => JSON.stringify({ 'fio version': 'fio-3.33', jobs });

describe('report of fio', () => {
  test('adds up jobs and directions, and takes the worst latency', () => {
    const text = `note: both iodepth >= 1 and synchronous I/O engine\n${report(
      job('a', direction(100, 10_000, 90_000), direction(20, 15_000, 80_000)),
      job('a', direction(60, 12_000, 95_000), IDLE),
    )}`;
    expect(parseFioReport(text)).toEqual({
      ...{ ios: 180, bytes: 180 * 4096, iops: 90, bytesPerSecond: 180 * 2048 },
      ...{ p50Us: 15, p99Us: 95 },
      cpuSeconds: 1,
    });
  });

  test('jobs that are only the other side count by their CPU time alone', () => {
    const text = report(
      job('receiver', direction(50, 1, 1), IDLE),
      job('sender', IDLE, direction(50, 2000, 3000)),
    );
    expect(parseFioReport(text, (name) => name === 'sender')).toMatchObject({
      ios: 50,
      p50Us: 2,
      cpuSeconds: 1,
    });
  });

  test.each([
    ['an error', report(job('a', direction(5, 1, 1), IDLE, 5)), /error 5 in job a/],
    ['no I/O', report(job('a', IDLE, IDLE)), /no I\/O/],
    ['one of two jobs idle', report(job('a', direction(5, 1, 1), IDLE), job('b', IDLE, IDLE)), /no I\/O/],
    ['no jobs', report(), /no jobs/],
    ['another form', report({ jobname: 'a', error: 0 }), /another form/],
    ['no JSON', 'fio: failed', /printed no report/],
    ['half a report', report(job('a', direction(5, 1, 1), IDLE)).slice(0, -9), /printed no report/],
  ])('%s is never a figure', (_, text, message) => {
    expect(() => parseFioReport(text)).toThrow(message);
  });
});

describe('arguments of fio', () => {
  const cell = parseCellId('64k-write-qd8-c4')!;

  test('say what the cell says', () => {
    const args = nbdLoadArgs(cell, ['nbd://127.0.0.1:1/disk'], 2 ** 28, 1.5);
    expect(args).toEqual(
      expect.arrayContaining(['--rw=write', '--bs=65536', '--iodepth=8', '--numjobs=4', '--runtime=1500ms']),
    );
    expect(args).toEqual(expect.arrayContaining(['--ioengine=nbd', '--uri=nbd://127.0.0.1:1/disk']));
    // fio makes a file anew that is too short for what a job is told.
    expect(args, 'sequential jobs keep apart, within the image').toEqual(
      expect.arrayContaining([`--offset_increment=${2 ** 26}`, `--size=${2 ** 26}`]),
    );
    expect(nbdLoadArgs(parseCellId('256k-read-qd1-c3')!, ['nbd://x'], 2 ** 24, 1)).toContain(
      `--size=${21 * 2 ** 18}`,
    );
    expect(nbdLoadArgs(parseCellId('4k-randread-qd1-c4')!, ['nbd://x'], 1, 1).join(' ')).not.toContain(
      'increment',
    );
  });

  test('of several images each is loaded, at the same time', () => {
    const args = nbdLoadArgs(
      parseCellId('4k-randread-qd8-w2')!,
      ['nbd://x/disk', 'nbd://x/disk1'],
      2 ** 24,
      1,
    );
    const first = args.indexOf('--name=4k-randread-qd8-w2');
    expect(args.slice(first)).toEqual([
      ...['--name=4k-randread-qd8-w2', '--uri=nbd://x/disk'],
      ...['--name=4k-randread-qd8-w2', '--uri=nbd://x/disk1'],
    ]);
    // What stands before the first name is for all.
    expect(args.slice(0, first)).toEqual(expect.arrayContaining(['--iodepth=8', '--ioengine=nbd']));
  });

  test('a cold file has as many readers as there would be requests', () => {
    const args = fileLoadArgs(parseCellId('4k-randread-qd8-c2-disk-cold')!, '/x', 2 ** 24, 1);
    expect(args).toEqual(expect.arrayContaining(['--thread', '--numjobs=16', '--iodepth=1']));
    expect(fileLoadArgs(parseCellId('4k-randread-qd8-disk')!, '/x', 2 ** 24, 1)).toContain('--numjobs=1');
  });

  test('the floors bear the same blocks', () => {
    expect(fileLoadArgs(cell, '/x/disk.img', 2 ** 28, 1)).toEqual(
      expect.arrayContaining(['--bs=65536', '--rw=write', '--filename=/x/disk.img', '--ioengine=psync']),
    );
    expect(loopbackLoadArgs(parseCellId('4k-randread-qd1')!, 7, 1)).toContain('--pingpong=1');
    expect(loopbackLoadArgs(cell, 7, 1)).toEqual(
      expect.arrayContaining(['--pingpong=0', '--bs=65536', '--port=7']),
    );
  });
});

describe('what Linux tells of processes', () => {
  test('CPU time counts children that ended, and any name', () => {
    const fields = ['S', 1, 2, 2, 0, -1, 0, 0, 0, 0, 0, 150, 25, 50, 75, 20, 0].join(' ');
    expect(parseStatCpu(`42 (a) b (c) ${fields}`)).toEqual({ user: 2, system: 1 });
  });

  test('the resident set', () => {
    expect(parseStatusRss('Name:\tnode\nVmHWM:\t 900 kB\nVmRSS:\t     512 kB\n')).toBe(512 * 1024);
    expect(parseStatusRss('Name:\tkthreadd\n')).toBe(0);
  });
});

test("QEMU's answers, events and errors are told apart", () => {
  expect(parseQmpLine('{"return": {"a": 1}}')).toEqual({ answer: { a: 1 } });
  expect(parseQmpLine('{"event": "BLOCK_JOB_READY", "data": {}}')).toBeUndefined();
  expect(parseQmpLine('{"QMP": {"version": {}}}')).toBeUndefined();
  expect(() => parseQmpLine('{"error": {"class": "GenericError", "desc": "no such node"}}')).toThrow(
    /no such node/,
  );
});
