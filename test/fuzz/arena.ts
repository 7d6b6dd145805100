// Where fuzzed sessions are played: a connection over disks in memory on one side, the referee on the other. What it
// checks of every session is listed in docs/TESTING.md.
import fc from 'fast-check';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../src/base/limits.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import type { ExportSpec } from '../../src/nbd/exports.ts';
import { type FakeEngine, openOnFakeEngine } from '../support/fake-engine.ts';
import { type Judgement, judge, type RefereeExport } from '../support/nbd-referee.ts';
import { byteByByte, cutAt } from '../support/play-session.ts';
import { SparseBytes } from '../support/sparse-bytes.ts';
import { JumbleDevice, SparseDevice, settled } from '../support/test-devices.ts';

export const DISK_BYTES = 4 * MiB;

interface Export {
  readonly name: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly minBlockBytes: number;
}

const EXPORTS: readonly Export[] = [
  { name: 'disk', sizeBytes: DISK_BYTES, readOnly: false, minBlockBytes: 1 },
  { name: 'fixed', sizeBytes: DISK_BYTES, readOnly: true, minBlockBytes: 1 },
  { name: 'grid', sizeBytes: DISK_BYTES, readOnly: false, minBlockBytes: 512 },
  { name: 'vast', sizeBytes: 2 ** 53 - 512, readOnly: false, minBlockBytes: 1 },
];
export const EXPORT_NAMES: readonly string[] = EXPORTS.map(({ name }) => name);

/**
 * Most bytes that one connection may hold whatever is said to it, by docs/LIMITS.md: a payload of 64 MiB on its way,
 * 128 MiB of buffers in use and one more request, and what is received into.
 */
const MAX_HELD_BYTES = (64 + 128 + 64 + 2) * MiB;

/** How a session is played. */
export interface Staging {
  /** Where the bytes are cut, modulo their number; undefined: byte by byte. */
  readonly cuts: readonly number[] | undefined;
  /** Whether the client takes its replies only when it is not read from any more. */
  readonly reluctant: boolean;
  /** Seed of a device that answers late and in no order; undefined: it answers at once. */
  readonly jumble: number | undefined;
  /** The client closes its side at the end. */
  readonly closes: boolean;
}

export const staging: fc.Arbitrary<Staging> = fc.record({
  cuts: fc.oneof(
    { weight: 3, arbitrary: fc.constant([]) },
    { weight: 3, arbitrary: fc.array(fc.nat(), { maxLength: 12 }) },
    { weight: 1, arbitrary: fc.constant(undefined) },
  ),
  reluctant: fc.boolean(),
  jumble: fc.constant(undefined),
  closes: fc.boolean(),
});

/** A seam at which a test may spoil what the server does; see canary.test.ts. */
export interface Seam {
  readonly device?: (device: BlockDevice) => BlockDevice;
  readonly arrive?: (engine: FakeEngine, bytes: Buffer) => Buffer;
  /** What the server sent, as the referee hears it. */
  readonly output?: (bytes: Buffer) => Buffer;
}

export type Played = Omit<Judgement, 'mustEnd'>;

/** Plays one session and tells everything that the server did wrong. @throws what the server threw */
async function playFuzzed(client: Buffer, how: Staging, seam: Seam = {}): Promise<Played> {
  const contents = EXPORTS.map(() => new SparseBytes());
  const disks = EXPORTS.map((one) => new SparseDevice(one.sizeBytes, { minBlockBytes: one.minBlockBytes }));
  const specs = EXPORTS.map((one, i): ExportSpec => {
    const device = seam.device?.(disks[i]!) ?? disks[i]!;
    return {
      name: one.name,
      readOnly: one.readOnly,
      device: how.jumble === undefined ? device : new JumbleDevice(device, how.jumble),
    };
  });
  const heldBefore = sharedPool.liveBytes;
  const { engine, connection } = openOnFakeEngine(specs);
  let most = 0;
  for (const piece of piecesOf(client, how.cuts)) {
    let rest = seam.arrive?.(engine, piece) ?? piece;
    while (rest.length > 0 && !engine.isClosed) {
      const left = engine.arrive(rest);
      most = Math.max(most, sharedPool.liveBytes - heldBefore);
      if (!how.reluctant || left > 0) engine.take();
      if (left > 0) await settled();
      rest = rest.subarray(rest.length - left);
    }
  }
  await quiet(engine, () => connection.inFlight);
  const endedBefore = engine.hasEnded;
  if (how.closes) {
    engine.arriveEnd();
    await quiet(engine, () => connection.inFlight);
  }
  const faults: string[] = [];
  const output = seam.output?.(engine.output()) ?? engine.output();
  const exports = EXPORTS.map((one, i): RefereeExport => ({ ...one, content: contents[i]! }));
  const judgement = judge(client, output, { exports, ordered: how.jumble === undefined });
  faults.push(...judgement.faults);
  if (how.jumble === undefined && faults.length === 0) {
    for (const [i, disk] of disks.entries()) {
      const at = disk.bytes.firstDifference(contents[i]!);
      if (at !== undefined) faults.push(`other data on ${EXPORTS[i]!.name} at ${at}`);
    }
  }
  if (judgement.mustEnd !== undefined && !endedBefore) faults.push(`goes on after ${judgement.mustEnd}`);
  if (judgement.mustEnd === undefined && endedBefore) faults.push('ends for no reason');
  if (how.closes && !engine.hasEnded) faults.push('stays when the client has gone');
  if (most > MAX_HELD_BYTES) faults.push(`held ${most} bytes`);
  connection.destroy();
  await settled();
  if (sharedPool.liveBytes !== heldBefore)
    faults.push(`kept ${sharedPool.liveBytes - heldBefore} bytes for ever`);
  const { options, requests, chunked, extended, statuses } = judgement;
  return { faults, options, requests, chunked, extended, statuses };
}

/** The same. @throws Error with everything that the server did wrong */
export async function expectFaultless(client: Buffer, how: Staging, seam: Seam = {}): Promise<Played> {
  const played = await playFuzzed(client, how, seam);
  if (played.faults.length > 0) throw new Error(played.faults.join('; '));
  return played;
}

/** Longer sessions are not cut into single bytes: that takes long and shows no more. */
const MAX_SINGLE_BYTES = 8 * KiB;

function piecesOf(client: Buffer, cuts: readonly number[] | undefined): Iterable<Buffer> {
  if (cuts) return cutAt(client, cuts);
  return client.length <= MAX_SINGLE_BYTES ? byteByByte(client) : [client];
}

/** Waits until nothing is in hand and everything was taken, twice: answers leave a turn after they are there. */
async function quiet(engine: FakeEngine, inFlight: () => number): Promise<void> {
  let quietTurns = 0;
  for (let turn = 0; turn < 1000; turn += 1) {
    engine.take();
    await settled();
    quietTurns = inFlight() === 0 && !engine.hasUntaken && !engine.isPaused ? quietTurns + 1 : 0;
    if (quietTurns === 2) return;
  }
  throw new Error('the connection does not come to rest');
}
