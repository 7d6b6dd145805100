// nbdinfo (libnbd): what a client learns before it reads the first byte.
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { runPeer, runPeerOk } from '../support/peers.ts';
import { startRig } from '../support/rig.ts';

interface ExportInfo {
  readonly 'export-name': string;
  readonly 'export-size': number;
  readonly is_read_only: boolean;
  readonly can_flush: boolean;
  readonly can_fua: boolean;
  readonly can_trim: boolean;
  readonly can_zero: boolean;
  readonly can_cache: boolean;
  readonly can_multi_conn: boolean;
  readonly block_size_minimum: number;
  readonly block_size_maximum: number;
}

const VOLUMES = [
  { name: 'system', sizeBytes: 24 * MiB },
  { name: 'data', sizeBytes: 40 * MiB },
];

it('lists the exports with their sizes', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  const listed = JSON.parse(await runPeerOk('nbdinfo', ['--list', '--json', rig.uri()])) as {
    exports: ExportInfo[];
  };
  const sizes = Object.fromEntries(listed.exports.map((info) => [info['export-name'], info['export-size']]));
  expect(sizes).toMatchObject({ system: 24 * MiB, data: 40 * MiB });

  const text = await runPeerOk('nbdinfo', ['--list', rig.uri()]);
  expect(text).toContain('export="system"');
  expect(text).toContain('export="data"');
  await rig.finish();
});

it('tells sizes and abilities, by name and for the default export', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  expect(Number(await runPeerOk('nbdinfo', ['--size', rig.uri('data')]))).toBe(40 * MiB);
  expect(Number(await runPeerOk('nbdinfo', ['--size', rig.uri()])), 'the first is the default').toBe(
    24 * MiB,
  );

  const { exports } = JSON.parse(await runPeerOk('nbdinfo', ['--json', rig.uri('data')])) as {
    exports: ExportInfo[];
  };
  expect(exports).toHaveLength(1);
  expect(exports[0]).toMatchObject({
    is_read_only: false,
    can_flush: true,
    can_fua: true,
    can_trim: true,
    can_zero: true,
    can_cache: true,
    can_multi_conn: true,
    block_size_minimum: 1,
  });
  expect(exports[0]!.block_size_maximum).toBeGreaterThanOrEqual(32 * MiB);
  await rig.finish();
});

it('says that a read-only export is one', async () => {
  await using rig = await startRig({ volumes: VOLUMES, serveArgs: ['--read-only'] });
  expect((await runPeer('nbdinfo', ['--is', 'read-only', rig.uri('system')])).code).toBe(0);
  const { exports } = JSON.parse(await runPeerOk('nbdinfo', ['--json', rig.uri('system')])) as {
    exports: ExportInfo[];
  };
  expect(exports[0]).toMatchObject({ is_read_only: true, can_flush: true });
  await rig.finish();
});

it('gets a clear answer for an export that is not there', async () => {
  await using rig = await startRig({ volumes: VOLUMES });
  const result = await runPeer('nbdinfo', [rig.uri('nonsense')]);
  expect(result.code).not.toBe(0);
  expect(result.stderr).toMatch(/nonsense|not found|unknown|no such|export/i);
  expect(Number(await runPeerOk('nbdinfo', ['--size', rig.uri('data')]))).toBe(40 * MiB);
});
