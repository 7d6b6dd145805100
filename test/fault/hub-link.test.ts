// The link between agent and hub as processes, through a proxy that counts: what a limit lets through, what
// compression takes off, and that guests notice nothing of either.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import type { ProcessStatus } from '../../src/control/status.ts';
import { type CliProcess, startHub, startServe } from '../support/cli.ts';
import { CutProxy } from '../support/cut-proxy.ts';
import { runPeerOk } from '../support/peers.ts';
import { readStatus, waitProtected } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const MIB = 2 ** 20;

let dir: TempDir;
let undo: Array<() => Promise<unknown> | unknown> = [];
beforeEach(() => {
  dir = tempDir();
});
afterEach(async () => {
  for (const one of undo.reverse()) await one();
  undo = [];
  dir.remove();
});

interface Pair {
  readonly agent: CliProcess;
  readonly hub: CliProcess;
  readonly proxy: CutProxy;
}

/** Both sides for the image `a.img`, with a proxy between them. */
async function pair(
  agentArgs: readonly string[],
  network: (proxy: CutProxy) => void = () => {},
): Promise<Pair> {
  fs.writeFileSync(dir.file('a.replica'), '');
  fs.truncateSync(dir.file('a.replica'), fs.statSync(dir.file('a.img')).size);
  const hub = await startHub([`a=${dir.file('a.replica')}`, '--state-dir', dir.file('hub')]);
  undo.push(() => hub.kill());
  const proxy = await CutProxy.listen(hub.port);
  undo.push(() => proxy.close());
  network(proxy);
  const agent = await startServe([
    `a=${dir.file('a.img')}`,
    ...['--hub', `127.0.0.1:${proxy.port}`, '--state-dir', dir.file('agent')],
    ...agentArgs,
  ]);
  undo.push(() => agent.kill());
  return { agent, hub, proxy };
}

/** Everything acknowledged, then both end in order, and the disks are compared. */
async function finish({ agent, hub }: Pair, look: (status: ProcessStatus) => void = () => {}): Promise<void> {
  await waitProtected(agent);
  await waitUntil(
    async () => {
      const volume = (await readStatus(agent)).volumes[0];
      return volume?.state === 'protected' && volume.ackedSequence === volume.sequence;
    },
    { what: 'everything to be acknowledged', timeoutMs: 30_000, intervalMs: 100 },
  );
  look(await readStatus(agent));
  expect(await agent.stop()).toEqual({ code: 0, signal: null });
  expect(await hub.stop()).toEqual({ code: 0, signal: null });
  await runPeerOk('cmp', [dir.file('a.img'), dir.file('a.replica')]);
}

/** The most that passed up in any second until `done`, looked at every 50 ms. */
async function busiestSecond(proxy: CutProxy, done: () => Promise<boolean>): Promise<number> {
  const samples: Array<{ atMs: number; bytes: number }> = [];
  let most = 0;
  await waitUntil(
    async () => {
      const now = { atMs: performance.now(), bytes: proxy.passedBytes.up };
      samples.push(now);
      while (samples[0]!.atMs < now.atMs - 1000) samples.shift();
      most = Math.max(most, now.bytes - samples[0]!.bytes);
      return done();
    },
    { what: 'the end of what is measured', timeoutMs: 60_000, intervalMs: 50 },
  );
  return most;
}

test('a limit holds for the sync and for the stream, and guests write as fast as without', async () => {
  const limit = MIB;
  fs.writeFileSync(dir.file('a.img'), randomBytes(4 * MIB));
  const began = performance.now();
  const both = await pair(['--hub-bandwidth', '00:00-12:00 1M, 12:00-24:00 1M, else unlimited']);
  const protectedSoon = waitProtected(both.agent, 60);
  let isProtected = false;
  void protectedSoon.then(() => {
    isProtected = true;
  });
  // A quarter of a second is saved up, one answer of 256 KiB goes into debt, and a busy machine delivers late.
  const allowed = limit * 1.75 + 256 * 1024;
  expect(await busiestSecond(both.proxy, async () => isProtected)).toBeLessThan(allowed);
  await protectedSoon;
  const syncMs = performance.now() - began;
  expect(syncMs).toBeGreaterThan(3500);
  const syncBytes = both.proxy.passedBytes.up;
  expect(syncBytes).toBeGreaterThan(4 * MIB);

  const device = await openNbdDevice(both.agent.urls[0]!.split(' ')[0]!, { logger: silentLogger });
  const piece = 256 * 1024;
  for (let n = 0; n < 32; n += 1) await device.write((n * piece) % (4 * MIB), randomBytes(piece), false);
  // Everything is answered, and most has not left: nobody waited for the link.
  expect(both.proxy.passedBytes.up - syncBytes).toBeLessThan(5 * MIB);
  await device.close();
  const busy = await readStatus(both.agent);
  expect(busy.volumes[0]!.queuedBytes).toBeGreaterThan(0);
  let fastest = 0;
  const settled = async (): Promise<boolean> => {
    const { link, volumes } = await readStatus(both.agent);
    expect(link?.traffic?.limitBytesPerSecond).toBe(limit);
    fastest = Math.max(fastest, link?.traffic?.bytesPerSecond ?? 0);
    return volumes[0]!.queuedBytes === 0;
  };
  expect(await busiestSecond(both.proxy, settled)).toBeLessThan(allowed);
  const { traffic } = (await readStatus(both.agent)).link!;
  expect(traffic!.sentBytes).toBeGreaterThan(12 * MIB);
  expect(traffic!.sentBytes).toBeLessThanOrEqual(both.proxy.passedBytes.up);
  expect(fastest).toBeGreaterThan(0.5 * limit);
  expect(fastest).toBeLessThan(1.4 * limit);
  await finish(both);
});

/** Half of it compresses well, half doesn't at all. */
function mixed(bytes: number, seed: number): Buffer {
  const data = Buffer.alloc(bytes, `row ${seed} of a table that says the same again and again; `);
  for (let at = 0; at < bytes; at += MIB) randomBytes(MIB / 2).copy(data, at);
  return data;
}

const narrow = (proxy: CutProxy): void => {
  proxy.delayMs = 8;
  proxy.pieceBytes = 64 * 1024;
};
const wide = (): void => {};

test('compression (auto) begins once a narrow line has shown what it takes', async () => {
  fs.writeFileSync(dir.file('a.img'), randomBytes(MIB));
  fs.truncateSync(dir.file('a.img'), 64 * MIB);
  const both = await pair(['--hub-compress', 'auto'], narrow);
  await waitProtected(both.agent, 60);
  const device = await openNbdDevice(both.agent.urls[0]!.split(' ')[0]!, { logger: silentLogger });
  const written = mixed(56 * MIB, 1);
  for (let at = 0; at < written.length; at += 256 * 1024) {
    await device.write(at, written.subarray(at, at + 256 * 1024), false);
  }
  await device.close();
  await finish(both, ({ link }) => {
    const { plainBytes, sentBytes } = link!.traffic!;
    expect(plainBytes).toBeGreaterThan(written.length);
    // The system's buffers on the way take some ten megabytes before the line is seen.
    expect(sentBytes).toBeLessThan(plainBytes * 0.9);
  });
});

test.each([
  ['auto', 'a limit', ['--hub-bandwidth', '4M'], wide, 0.75],
  ['always', 'a narrow line', [], narrow, 0.65],
  ['always', 'a line as it comes', [], wide, 0.65],
] as const)(
  'compression (%s) over %s takes bytes off, also of what is read again after a cut, and the disks are equal',
  async (mode, _line, args, network, share) => {
    const size = 32 * MIB;
    fs.writeFileSync(dir.file('a.img'), mixed(size, 0));
    const both = await pair(['--hub-compress', mode, ...args], network);
    await waitProtected(both.agent, 60);
    const synced = both.proxy.passedBytes.up;
    expect(synced).toBeGreaterThan(size / 2);
    expect(synced).toBeLessThan(size * share);

    // The connection ends somewhere in a frame.
    both.proxy.cutAfter(2 * MIB + 12_345, 'up');
    const device = await openNbdDevice(both.agent.urls[0]!.split(' ')[0]!, { logger: silentLogger });
    const written = mixed(16 * MIB, 1);
    for (let at = 0; at < written.length; at += 128 * 1024) {
      await device.write(at, written.subarray(at, at + 128 * 1024), false);
      if (at % MIB === 0) await device.writeZeroes(written.length + at / 2, 65_536, false, true);
    }
    await device.close();
    await finish(both, ({ link }) => {
      expect(link).toMatchObject({ compression: 'brotli' });
      const { plainBytes, sentBytes } = link!.traffic!;
      expect(plainBytes).toBeGreaterThan(size + written.length);
      expect(sentBytes).toBeLessThan(plainBytes * share);
      // The network lost some of it.
      expect(sentBytes).toBeGreaterThanOrEqual(both.proxy.passedBytes.up - 4096);
    });
    expect(both.proxy.accepted).toBe(2);
  },
);
