// nbdsh (libnbd): a script over every command and every error, one test a function of nbdsh-checks.py.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { makeImage, type Rig, startRig } from '../support/rig.ts';
import { runCheck } from './nbdsh.ts';

const SIZE = 64 * MiB;

const CHECKS = [
  'handshake',
  'options',
  'read_write',
  'neighbours',
  'fua_and_flush',
  'trim_zero_cache',
  'many_in_flight',
  'connections_see_each_other',
  'out_of_range',
  'too_long',
  'unknown_flags',
  'zero_length',
  'hang_up',
];

let rig: Rig;
let readOnly: Rig;

beforeAll(async () => {
  const volumes = [
    { name: 'a', sizeBytes: SIZE },
    { name: 'b', sizeBytes: 16 * MiB },
  ];
  rig = await startRig({ volumes });
  readOnly = await startRig({ volumes, serveArgs: ['--read-only'] });
});

afterAll(async () => {
  for (const one of [rig, readOnly]) await one?.[Symbol.asyncDispose]();
});

it.each(CHECKS)('%s', async (name) => {
  expect(await runCheck(name, SIZE, rig.uri('a'), readOnly.uri('a'))).toBe(`ok ${name}\n`);
  await rig.settle();
});

it('read_only', async () => {
  expect(await runCheck('read_only', SIZE, rig.uri('a'), readOnly.uri('a'))).toBe('ok read_only\n');
  await readOnly.finish();
});

it('leaves an equal replica when both sides have stopped', async () => {
  await rig.finish();
});

it('catches a wrong answer', async () => {
  await using small = await startRig({ volumes: [{ name: 'a', sizeBytes: SIZE / 2 }] });
  await expect(runCheck('handshake', SIZE, small.uri('a'))).rejects.toThrow(/AssertionError/);
});

it('holds its own against a disk that is not empty', async () => {
  makeImage(`${readOnly.folder}/content.img`, SIZE, [[0, 64]]);
  const volume = { name: 'a', sizeBytes: SIZE, source: `${readOnly.folder}/content.img` };
  await using full = await startRig({
    volumes: [
      { ...volume, image: volume.source },
      { name: 'b', sizeBytes: MiB },
    ],
  });
  await runCheck('neighbours', SIZE, full.uri('a'));
  await runCheck('trim_zero_cache', SIZE, full.uri('a'));
  await full.finish();
});
