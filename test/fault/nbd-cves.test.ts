// What broke other NBD servers, tried on this one: a test for each known vulnerability that a client can reach without
// TLS. docs/SECURITY.md says which lesson each taught, and where the others are.
import { afterEach, beforeEach, expect, it } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../src/base/limits.ts';
import { NBD_CMD, NBD_OPT, NBD_REP, NBD_REP_ERR } from '../../src/nbdwire/constants.ts';
import { NbdRig } from '../support/nbd-rig.ts';
import {
  clientFlagsBytes,
  infoData,
  optionBytes,
  RawNbdClient,
  requestBytes,
} from '../support/raw-nbd-client.ts';
import { RecorderDevice, SparseDevice } from '../support/test-devices.ts';

const { READ, WRITE, FLUSH } = NBD_CMD;

let rig: NbdRig;
let device: RecorderDevice;
beforeEach(async () => {
  device = new RecorderDevice(new SparseDevice(64 * MiB));
  rig = await NbdRig.start(device, { tcp: true });
});
afterEach(() => rig.stop());

async function greeted(): Promise<RawNbdClient> {
  const client = await rig.connect();
  await client.greet();
  return client;
}

/** The answer that ends an option, and proof that the client may go on. */
async function refusedInStep(option: number, data: Buffer): Promise<{ type: number; data: Buffer }> {
  const client = await greeted();
  const answer = (await client.option(option, data)).at(-1)!;
  await client.go('disk');
  expect((await client.request({ type: FLUSH })).error).toBe(0);
  return answer;
}

it.each([5, 0xffff, 0x7fffffff, 0xfffffffe, 0xffffffff])(
  'CVE-2022-26495: a name length of %i that its option does not hold is refused, in step',
  async (nameLength) => {
    const answer = await refusedInStep(NBD_OPT.INFO, infoData('abcd', [], nameLength));
    expect(answer.type).toBe(NBD_REP_ERR.INVALID);
  },
);

it('CVE-2022-26496, CVE-2017-15118: a name beyond what a string may be is refused, in step', async () => {
  for (const bytes of [4097, 8 * KiB, 15 * KiB]) {
    const answer = await refusedInStep(NBD_OPT.INFO, infoData('n'.repeat(bytes)));
    expect(answer.type).toBe(NBD_REP_ERR.TOO_BIG);
  }
  const client = await greeted();
  client.send(optionBytes(NBD_OPT.EXPORT_NAME, Buffer.alloc(4097, 'n')));
  expect((await client.readToEnd()).length).toBe(0);
});

it('CVE-2011-0530: a request longer than any buffer is refused or ends its client, and takes no memory', async () => {
  const client = await rig.open();
  for (const length of [64 * MiB + 1, 2 ** 31, 0xffffffff]) {
    expect((await client.request({ type: READ, length })).error).toBe(22);
  }
  const before = sharedPool.liveBytes;
  client.send(requestBytes({ type: WRITE, length: 0xffffffff }));
  expect((await client.readToEnd()).length).toBe(0);
  expect(sharedPool.liveBytes).toBeLessThanOrEqual(before);
});

it.each([NBD_OPT.LIST, NBD_OPT.GO, 99])(
  'CVE-2017-15119: option %i of 4 GiB ends the connection instead of being read',
  async (option) => {
    const client = await greeted();
    client.send(optionBytes(option, Buffer.alloc(0), 0xffffffff));
    expect((await client.readToEnd()).length).toBe(0);
    expect(sharedPool.liveBytes).toBeLessThanOrEqual(128 * KiB);
  },
);

it('CVE-2013-7441, CVE-2017-7539, CVE-2017-9524: hanging up in a negotiation takes nothing down', async () => {
  const good = await rig.open();
  for (const said of [
    [],
    [clientFlagsBytes()],
    [clientFlagsBytes(), optionBytes(NBD_OPT.LIST)],
    [clientFlagsBytes(), optionBytes(NBD_OPT.GO, infoData('disk')).subarray(0, 20)],
    [clientFlagsBytes(), optionBytes(NBD_OPT.GO, infoData('disk'))],
    [clientFlagsBytes(), optionBytes(NBD_OPT.ABORT)],
  ]) {
    for (const leave of ['destroy', 'resetAndDestroy', 'end'] as const) {
      const client = await RawNbdClient.connect(rig.to);
      client.send(...said);
      client.socket[leave]();
      expect((await good.request({ type: FLUSH })).error).toBe(0);
      await client.destroy();
    }
  }
});

it('CVE-2019-14850: nothing of a disk is touched before an export is chosen', async () => {
  const client = await greeted();
  await client.option(NBD_OPT.LIST);
  await client.option(NBD_OPT.INFO, infoData('disk', [0, 1, 2, 3]));
  await client.option(NBD_OPT.INFO, infoData('', [3]));
  await client.destroy();
  expect(device.calls).toEqual([]);
});

it('CVE-2019-14851: INFO and GO go together in any order and under any name', async () => {
  const client = await greeted();
  const asked: Array<readonly [number, string]> = [
    [NBD_OPT.INFO, 'disk'],
    [NBD_OPT.INFO, 'nope'],
    [NBD_OPT.GO, 'nope'],
    [NBD_OPT.INFO, ''],
    [NBD_OPT.INFO, 'disk'],
  ];
  for (const [option, name] of asked) {
    const answer = (await client.option(option, infoData(name))).at(-1)!;
    expect(answer.type).toBe(name === 'nope' ? NBD_REP_ERR.UNKNOWN : NBD_REP.ACK);
  }
  await client.go('disk');
  expect((await client.request({ type: FLUSH })).error).toBe(0);
});

it('CVE-2020-10761: a name of any length is echoed in a few words only', async () => {
  const answer = await refusedInStep(NBD_OPT.GO, infoData('%n\x1b'.repeat(1365)));
  expect(answer.type).toBe(NBD_REP_ERR.UNKNOWN);
  expect(answer.data.length).toBeLessThan(200);
  expect(answer.data.toString('latin1')).toMatch(/^[\x20-\x7e]*$/);
});
