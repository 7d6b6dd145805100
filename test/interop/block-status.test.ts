// What clients of other projects make of structured replies, holes and meta contexts: nbdinfo, nbdcopy, nbdsh, qemu-img,
// nbd-client, over a sparse disk of more than 4 GiB.
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GiB, MiB } from '../../src/base/limits.ts';
import { type CliProcess, startServe } from '../support/cli.ts';
import { runPeer, runPeerOk } from '../support/peers.ts';
import { makeFolder, makeImage, readStats, startRig } from '../support/rig.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 5 * GiB;
/** In MiB. */
const DATA_RUNS = [
  [0, 1],
  [100, 103],
  [4095, 4097],
  [SIZE / MiB - 1, SIZE / MiB],
] as const;
const DATA_BYTES = 7 * MiB;

interface MapEntry {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

interface QemuMapEntry {
  readonly start: number;
  readonly length: number;
  readonly data: boolean;
}

const folder = makeFolder();
const image = join(folder.path, 'sparse.img');
let serve: CliProcess;
const uri = (name = 'sparse'): string => `nbd://127.0.0.1:${serve.port}/${name}`;

beforeAll(async () => {
  makeImage(image, SIZE, DATA_RUNS);
  makeImage(join(folder.path, 'ro.img'), MiB, [[0, 1]]);
  serve = await startServe([
    `sparse=${image}`,
    `ro=${join(folder.path, 'ro.img')}`,
    ...['--export', 'ro,read-only,rotational', '--filter', 'stats,quiet'],
  ]);
});
afterAll(async () => {
  await serve?.stop();
  folder[Symbol.dispose]();
});

async function answers(flag: '--can' | '--is', what: string, of: string): Promise<boolean> {
  const { code, stderr } = await runPeer('nbdinfo', [flag, what, of]);
  if (code !== 0 && code !== 2) throw new Error(`nbdinfo ${flag} ${what}: ${code} ${stderr}`);
  return code === 0;
}

describe('nbdinfo', () => {
  it.each([
    ...['connect', 'read', 'write', 'cache', 'df', 'fast-zero', 'flush', 'fua', 'multi-conn'],
    ...['trim', 'zero', 'structured-reply'],
  ])('finds that the export can %s', async (what) => {
    expect(await answers('--can', what, uri())).toBe(true);
  });

  it('tells a disk that spins, a read-only one, and TLS', async () => {
    for (const [name, is] of [
      ['sparse', false],
      ['ro', true],
    ] as const) {
      expect(await answers('--is', 'rotational', uri(name))).toBe(is);
      expect(await answers('--is', 'read-only', uri(name))).toBe(is);
      expect(await answers('--can', 'write', uri(name))).toBe(!is);
      expect(await answers('--is', 'tls', uri(name))).toBe(false);
    }
  });

  it('tells all of it as JSON', async () => {
    const { protocol, exports, ...rest } = JSON.parse(
      await runPeerOk('nbdinfo', ['--json', uri()]),
    ) as Record<string, unknown> & { exports: Array<Record<string, unknown>> };
    expect(protocol).toBe('newstyle-fixed');
    expect(rest).toMatchObject({ TLS: false, structured: true });
    expect(exports).toHaveLength(1);
    expect(exports[0]).toMatchObject({
      'export-size': SIZE,
      contexts: ['base:allocation'],
      is_rotational: false,
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
    });
  });

  it('maps the disk as its file is allocated', async () => {
    const map = JSON.parse(await runPeerOk('nbdinfo', ['--map', '--json', uri()])) as MapEntry[];
    const file = JSON.parse(
      await runPeerOk('qemu-img', ['map', '--output=json', '-f', 'raw', image]),
    ) as QemuMapEntry[];
    const ofFile = file.map(({ start, length, data }) => ({ offset: start, length, type: data ? 0 : 3 }));
    expect(map.map(({ offset, length, type }) => ({ offset, length, type }))).toEqual(ofFile);
    expect(map.filter(({ type }) => type === 0).reduce((sum, { length }) => sum + length, 0)).toBe(
      DATA_BYTES,
    );
  });
});

describe('copies', () => {
  async function bytesRead(): Promise<number> {
    const stats = (await readStats(serve)) as {
      filters: Record<string, { stats: { read?: { bytes: number } } }>;
    };
    return stats.filters.sparse?.stats.read?.bytes ?? 0;
  }

  it('by nbdcopy move the data alone, and keep the holes', async () => {
    const copy = join(folder.path, 'nbdcopy.img');
    const before = await bytesRead();
    await runPeerOk('nbdcopy', [uri(), copy], { timeoutMs: 120_000 });
    const moved = (await bytesRead()) - before;
    expect(moved).toBeGreaterThanOrEqual(DATA_BYTES);
    expect(moved).toBeLessThan(DATA_BYTES + 4 * MiB);
    expect(statSync(copy).blocks * 512).toBeLessThan(DATA_BYTES + 4 * MiB);
    await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, copy], { timeoutMs: 120_000 });
  });

  it('by qemu-img do so too, and its map is the same on both sides', async () => {
    const copy = join(folder.path, 'qemu.img');
    const before = await bytesRead();
    await runPeerOk('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri(), copy], { timeoutMs: 120_000 });
    const moved = (await bytesRead()) - before;
    expect(moved).toBeGreaterThanOrEqual(DATA_BYTES);
    expect(moved).toBeLessThan(DATA_BYTES + 4 * MiB);
    expect(statSync(copy).blocks * 512).toBeLessThan(DATA_BYTES + 4 * MiB);
    const map = async (of: string): Promise<unknown> =>
      (
        JSON.parse(await runPeerOk('qemu-img', ['map', '--output=json', '-f', 'raw', of])) as QemuMapEntry[]
      ).map(({ start, length, data }) => ({ start, length, data }));
    expect(await map(uri())).toEqual(await map(image));
    await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, copy], { timeoutMs: 120_000 });
  });
});

describe('nbdsh', () => {
  const script = readFileSync(new URL('nbdsh-structured.py', import.meta.url), 'utf8');

  it.each(['reads_in_chunks', 'tells_errors', 'tells_allocation', 'tells_several_contexts', 'fast_zero'])(
    '%s',
    async (check) => {
      const source = join(folder.path, `${check}.img`);
      makeImage(source, SIZE, DATA_RUNS);
      const faulty = join(folder.path, `${check}-faulty.img`);
      makeImage(faulty, MiB, [[0, 1]]);
      // There is no hub: all of the disk is dirty.
      const hub = [
        '--hub',
        '127.0.0.1:9',
        '--vm-name',
        'vm',
        '--state-dir',
        join(folder.path, `${check}-state`),
      ];
      await using good = await startServe([`a=${source}`, ...hub]);
      await using bad = await startServe([`a=${faulty}`, '--filter', 'error,on=read']);
      const env = {
        CHECK: check,
        URI: `nbd://127.0.0.1:${good.port}/a`,
        FAULTY: `nbd://127.0.0.1:${bad.port}/a`,
        SIZE: String(SIZE),
      };
      expect(await runPeerOk('nbdsh', ['-n', '-c', '-'], { input: script, env })).toBe(`ok ${check}\n`);
    },
  );
});

it('tells a backup tool what the hub lacks: nothing, then what was written without it', async () => {
  await using rig = await startRig({ volumes: [{ name: 'a', sizeBytes: 16 * MiB }] });
  await rig.settle();
  const dirty = async (): Promise<MapEntry[]> =>
    (
      JSON.parse(await runPeerOk('nbdinfo', ['--map=repagent:dirty', '--json', rig.uri('a')])) as MapEntry[]
    ).map(({ offset, length, type }) => ({ offset, length, type }));
  await waitUntil(async () => (await dirty()).every(({ type }) => type === 0), { what: 'a clean map' });
  await rig.hub.kill();
  await runPeerOk('qemu-io', ['-f', 'raw', '-c', 'write -P 7 5M 64k', '-c', 'flush', rig.uri('a')]);
  expect(await dirty()).toEqual([
    { offset: 0, length: 5 * MiB, type: 0 },
    { offset: 5 * MiB, length: 64 * 1024, type: 1 },
    { offset: 5 * MiB + 64 * 1024, length: 11 * MiB - 64 * 1024, type: 0 },
  ]);
});

it('is listed by nbd-client, and speaks oldstyle to clients of 2012 when told to', async () => {
  const listed = await runPeer('nbd-client', ['-l', '127.0.0.1', '-p', String(serve.port)]);
  expect(listed.stdout + listed.stderr).toMatch(/sparse/);
  expect(listed.stdout + listed.stderr).toMatch(/ro/);
  const old = join(folder.path, 'old.img');
  makeImage(old, 4 * MiB, [[1, 3]]);
  await using server = await startServe([`old=${old}`, '--oldstyle']);
  const short = `nbd:127.0.0.1:${server.port}`;
  await runPeerOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', old, short]);
  await runPeerOk('qemu-io', ['-f', 'raw', '-c', 'write -P 9 0 64k', '-c', 'read -P 9 0 64k', short]);
  const json = JSON.parse(await runPeerOk('nbdinfo', ['--json', `nbd://127.0.0.1:${server.port}`])) as {
    protocol: string;
  };
  expect(json.protocol).toBe('oldstyle');
  expect(
    readFileSync(old)
      .subarray(0, 64 * 1024)
      .every((byte) => byte === 9),
  ).toBe(true);
});
