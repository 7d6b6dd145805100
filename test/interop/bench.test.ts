// The bench against nbdkit, for seconds: that it measures, reports and cleans up. Never how fast anything is.
import { closeSync, openSync, readdirSync, symlinkSync, writeFileSync, writeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';
import type { RecoveryResult } from '../../src/bench/recovery/result.ts';
import { BENCH_PLACE, RECOVERY_PLACE } from '../../src/bench/report-document.ts';
import type { BenchResult } from '../../src/bench/result.ts';
import type { ScaleResult } from '../../src/bench/scale/figures.ts';
import { type FleetPlan, fleetLine } from '../../src/bench/scale/fleet-lines.ts';
import { CLI_PATH, runCli, startHub } from '../support/cli.ts';
import { startPeer } from '../support/peers.ts';
import { tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const TINY = ['--rounds', '2', '--seconds', '0.2', '--size', '16M'];
const FLEET_PATH = join(dirname(CLI_PATH), '../bench/scale/fleet-program.js');
const CELLS = ['--cell', '4k-randread-qd8', '--cell', '256k-write-qd2-c2-unix'];

/** Folders that the bench of process `pid` has on tmpfs. */
const leftovers = (pid: number): string[] =>
  readdirSync('/dev/shm').filter((name) => name.startsWith(`repagent-bench-${pid}-`));

it('measures two cells against nbdkit and writes the report', async () => {
  const folder = tempDir();
  writeFileSync(folder.file('PERFORMANCE.md'), `# Mine\n${BENCH_PLACE.begin}\n${BENCH_PLACE.end}\n`);
  const args = ['bench', ...TINY, ...CELLS, '--peers', 'nbdkit,null,file,loopback', '--json'];
  const run = await runCli([...args, '--report', folder.path], { timeoutMs: 110_000 });
  expect(run.code, run.stderr).toBe(0);
  const result = JSON.parse(run.stdout) as BenchResult;
  expect(result.leftOut).toEqual([]);
  expect(result.servers.map(({ name }) => name)).toEqual(['repagent', 'nbdkit', 'null', 'file', 'loopback']);
  expect(result.cells.map(({ id }) => id)).toEqual(['4k-randread-qd8', '256k-write-qd2-c2-unix']);
  expect(result.cells[0]!.servers.map(({ server, rounds }) => [server, rounds.length])).toEqual([
    ['repagent', 2],
    ['nbdkit', 2],
    ['null', 1],
    ['file', 1],
    ['loopback', 1],
  ]);
  for (const { cell, servers } of result.cells) {
    for (const { server, iops, rounds } of servers) {
      expect(iops, server).toBeGreaterThan(0);
      for (const { ios, bytes } of rounds) expect(bytes).toBe(ios * cell.blockBytes);
    }
  }
  for (const { restBytes, peakBytes } of result.memory)
    expect(peakBytes).toBeGreaterThanOrEqual(restBytes * 0.5);
  expect(result.memory.map(({ server }) => server)).toEqual(['repagent', 'nbdkit']);
  const document = await readFile(folder.file('PERFORMANCE.md'), 'utf8');
  expect(document).toMatch(/^# Mine\n/);
  expect(document).toMatch(/\| 4k-randread-qd8 \| .*k.* \| .*x\)/);
  expect(await readFile(folder.file('performance.svg'), 'utf8')).toMatch(/^<svg .*<\/svg>\n$/s);
  folder.remove();
});

it('measures through TLS, and several images with workers and without', async () => {
  const args = [
    'bench',
    ...TINY,
    '--cell',
    '4k-randread-qd2-tls-w2',
    '--peers',
    'nbdkit,one-process',
    '--json',
  ];
  const run = await runCli(args, { timeoutMs: 110_000 });
  expect(run.code, run.stderr).toBe(0);
  const { leftOut, cells: found, memory } = JSON.parse(run.stdout) as BenchResult;
  expect(leftOut).toEqual([]);
  expect(found.map(({ servers }) => servers.map(({ server }) => server))).toEqual([
    ['repagent', 'one-process', 'nbdkit'],
  ]);
  for (const { servers } of found) for (const { iops } of servers) expect(iops).toBeGreaterThan(0);
  // Two workers are two processes more.
  const restBytes = (server: string): number => memory.find((one) => one.server === server)!.restBytes;
  expect(restBytes('repagent (2 images)')).toBeGreaterThan(1.5 * restBytes('one-process (2 images)'));
});

it('takes a hub away and brings it back, and counts what was read for it', async () => {
  const folder = tempDir();
  writeFileSync(folder.file('PERFORMANCE.md'), `# Mine\n${RECOVERY_PLACE.begin}\n${RECOVERY_PLACE.end}\n`);
  const cells = ['outage-4k-*-killed', 'lag-4k-*-1000iops', 'map-*-4k'].flatMap((cell) => ['--cell', cell]);
  const args = ['bench', '--recovery', '--outage', '3', '--size', '64M', '--rounds', '2', '--seconds', '0.3'];
  const run = await runCli([...args, ...cells, '--disk', folder.path, '--json', '--report', folder.path], {
    timeoutMs: 115_000,
  });
  expect(run.code, run.stderr).toBe(0);
  const { outages, lags, maps, granularityBytes } = JSON.parse(run.stdout) as RecoveryResult;
  const [outage, ...others] = outages;
  expect(others).toEqual([]);
  const { missed, certainChunkBytes, countedBytes, readBytes, comparedBytes, resyncs } = outage!;
  expect(outage!.outageMs).toBeGreaterThanOrEqual(3000);
  expect(resyncs.map(({ outcome }) => outcome)).toContain('done');
  // The client's own account and the agent's: every chunk that was written while there was no hub was read again.
  expect(certainChunkBytes).toBeGreaterThan(granularityBytes * 100);
  expect(readBytes + comparedBytes).toBeGreaterThanOrEqual(certainChunkBytes);
  expect(missed.chunkBytes).toBeGreaterThanOrEqual(certainChunkBytes);
  expect(missed.writtenBytes).toBeGreaterThan(4096 * 1000);
  expect(countedBytes).toBeGreaterThan(0);
  expect(outage!.readPerChunk).toBeCloseTo(readBytes / missed.chunkBytes);
  expect(outage!.latency.during.writes).toBeGreaterThan(100);
  expect(lags.map(({ samples, sampled }) => [samples > 5, sampled.maxMs !== null])).toEqual([[true, true]]);
  expect(maps[0]!.keepings.map(({ keeping }) => keeping)).toEqual(['memory', 'file', 'durable']);
  const [memory, file, durable] = maps[0]!.keepings;
  expect([memory!.newBitShare, memory!.syncsPerWrite]).toEqual([0, 0]);
  expect(file!.newBitShare).toBeGreaterThan(0);
  expect(durable!.syncsPerWrite).toBeGreaterThan(file!.syncsPerWrite);
  for (const { isEqual } of [...outages, ...lags, ...maps]) expect(isEqual).toBe(true);
  expect(await readFile(folder.file('PERFORMANCE.md'), 'utf8')).toMatch(
    /^# Mine\n.*\| 4k-randwrite-1000iops-killed \|/s,
  );
  expect(readdirSync(folder.path)).toEqual(['PERFORMANCE.md']);
  folder.remove();
});

it('looks at the memory and the latency of volumes that are protected', async () => {
  const args = ['bench', '--scale', '--cell', '1x1g', '--seconds', '0.3', '--json'];
  const run = await runCli(args, { timeoutMs: 60_000 });
  expect(run.code, run.stderr).toBe(0);
  const [figures, ...others] = (JSON.parse(run.stdout) as ScaleResult).figures;
  expect(others).toEqual([]);
  expect(figures!.cell).toMatchObject({ id: '1x1g', volumes: 1, sizeBytes: 2 ** 30 });
  expect(figures!.protectedAfterMs).toBeGreaterThan(figures!.startedAfterMs);
  for (const bytes of [figures!.agentBytes, figures!.hubBytes]) expect(bytes).toBeGreaterThan(2 ** 24);
  expect(figures!.iops).toBeGreaterThan(0);
});

it('lets many agents of one process be protected by one hub, and tells when their writes were acknowledged', async () => {
  const folder = tempDir();
  const hub = await startHub(['--store', folder.file('store'), '--state-dir', folder.file('hub')]);
  const plan: FleetPlan = {
    ...{ agents: 5, hubPort: Number(new URL(hub.urls[0]!).port), sizeBytes: 2 ** 30 },
    ...{ stateDir: folder.file('agents'), restSeconds: 0.1, seconds: 0.5, iops: 10 },
  };
  const fleet = startPeer(process.execPath, [FLEET_PATH, JSON.stringify(plan)]);
  try {
    await waitUntil(() => fleetLine(fleet.stdout(), 'loaded') !== undefined, { timeoutMs: 60_000 });
    expect(fleetLine(fleet.stdout(), 'protected')?.afterMs).toBeGreaterThan(0);
    const latenciesMs = fleetLine(fleet.stdout(), 'loaded')?.latenciesMs ?? [];
    expect(latenciesMs).toHaveLength(5 * 0.5 * 10);
    for (const ms of latenciesMs) expect(ms).toBeGreaterThan(0);
    expect(readdirSync(folder.file('store')).toSorted()).toEqual(['vm0', 'vm1', 'vm2', 'vm3', 'vm4']);
    expect((await fleet.stop(60_000)).code).toBe(0);
  } finally {
    await fleet.kill();
    await hub.stop();
    folder.remove();
  }
});

it('ends with an error when a replica differs', async () => {
  const folder = tempDir();
  const args = ['bench', '--recovery', '--outage', '1', '--size', '64M', '--cell', 'lag-4k-*-1000iops'];
  const bench = startPeer(process.execPath, [CLI_PATH, ...args, '--disk', folder.path]);
  try {
    await waitUntil(() => bench.stderr().includes('iops: running'), { timeoutMs: 60_000 });
    const [own] = readdirSync(folder.path);
    const replica = openSync(folder.file(`${own!}/replica.img`), 'r+');
    // Behind the hub's back, in so many places that the load can't mend them all.
    for (let at = 0; at < 64; at += 1) writeSync(replica, 'rotten', at * 2 ** 20 + 100);
    closeSync(replica);
    const { code, stderr } = await bench.exited;
    expect(code).toBe(1);
    expect(stderr).toContain('the replica differs from the disk');
    expect(readdirSync(folder.path)).toEqual([]);
  } finally {
    await bench.kill();
    folder.remove();
  }
});

it('names what is missing, and goes on without it', async () => {
  const folder = tempDir();
  for (const program of ['fio', 'setpriv']) symlinkSync(`/usr/bin/${program}`, folder.file(program));
  const args = ['bench', ...TINY, '--cell', '4k-randread-qd1', '--peers', 'qemu-nbd', '--json'];
  const run = await runCli(args, { timeoutMs: 60_000, env: { PATH: folder.path } });
  expect(run.code, run.stderr).toBe(0);
  expect(run.stderr).toContain(
    'LEFT OUT: qemu-nbd from every cell: qemu-nbd is not installed (apt-get install qemu-utils)',
  );
  const result = JSON.parse(run.stdout) as BenchResult;
  expect(result.leftOut.map(({ server }) => server)).toEqual(['qemu-nbd']);
  expect(result.cells[0]!.servers.map(({ server }) => server)).toEqual(['repagent']);
  folder.remove();
});

it('leaves neither processes nor files when it is stopped in the middle', async () => {
  const args = ['bench', ...CELLS, '--rounds', '500', '--size', '16M'];
  const bench = startPeer(process.execPath, [CLI_PATH, ...args]);
  try {
    await waitUntil(() => bench.stderr().includes('warming up'), { timeoutMs: 60_000 });
    const { pid } = bench;
    const children = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).trim().split(' ');
    expect(children.length).toBeGreaterThan(1);
    expect(leftovers(pid)).toHaveLength(1);
    const { code, stderr } = await bench.stop(60_000);
    expect(code).toBe(1);
    expect(stderr).toContain('the bench was stopped');
    expect(leftovers(pid)).toEqual([]);
    await waitUntil(() => children.every((one) => !isAlive(Number(one))), { timeoutMs: 5000 });
  } finally {
    await bench.kill();
  }
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
