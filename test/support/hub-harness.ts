// A hub over images in memory, with short times, and the checks that every test of it repeats.
import { expect } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { type Hub, type HubOptions, startHub } from '../../src/rephub/hub.ts';
import { DEFAULT_TUNING, type HubTuning } from '../../src/rephub/hub-tuning.ts';
import type { FakeAgent, FakeVolume } from './fake-agent.ts';
import { type MemoryImage, MemoryImages } from './memory-images.ts';
import { waitUntil } from './wait-until.ts';

export const FAST: Partial<HubTuning> = {
  gatherMs: 1,
  syncGatherMs: 5,
  retryFirstMs: 10,
  retryLongestMs: 40,
  progressMs: 5,
  verify: { ...DEFAULT_TUNING.verify, retryMs: 2, stallMs: 400 },
};

/** Small chunks, so that small disks have many. */
export const SMALL_CHUNKS = { chunkBytes: 4096, maxReadBytes: 4 * 4096, maxReads: 3 };

export interface TestHub {
  readonly hub: Hub;
  readonly images: MemoryImages;
  readonly port: number;
  image(name?: string): MemoryImage;
}

/** @param sizes of the paired volumes, bytes; each image is called after its volume */
export async function testHub(
  sizes: Readonly<Record<string, number>>,
  options: Partial<HubOptions> = {},
): Promise<TestHub> {
  const images = new MemoryImages(sizes);
  const hub = await startHub({
    listen: { host: '127.0.0.1', port: 0 },
    pairs: new Map(Object.keys(sizes).map((name) => [name, name])),
    logger: silentLogger,
    images,
    ...options,
    tuning: { ...FAST, ...options.tuning },
  });
  return { hub, images, port: hub.address.port, image: (name = 'disk') => images.image(name) };
}

/** Closes the hub, and checks that it kept to the contract of its stores. */
export async function closeHub(test: TestHub): Promise<void> {
  await test.hub.close();
  for (const image of test.images.images.values()) expect(image.violations).toEqual([]);
}

/** Compares buffers without printing them. */
export function expectSame(actual: Buffer, expected: Buffer, what: string): void {
  if (actual.equals(expected)) return;
  let at = 0;
  while (actual[at] === expected[at]) at += 1;
  expect.fail(`${what}: differs at ${at} (sector ${Math.floor(at / 512)}), of ${expected.length} bytes`);
}

/**
 * The rule of acknowledgement: every sector of what is durable is as it was at the acknowledged position of the
 * stream, or later.
 */
export function expectDurable(volume: FakeVolume, image: MemoryImage, sequence: number): void {
  const acked = volume.diskAt(sequence);
  if (image.durable.equals(acked)) return;
  for (let at = 0; at < acked.length; at += 512) {
    const durable = image.durable.subarray(at, at + 512);
    if (durable.equals(acked.subarray(at, at + 512))) continue;
    const later = volume.history.some(
      (entry) =>
        (entry.sequence === null || entry.sequence > sequence) &&
        entry.offset <= at &&
        entry.offset + entry.data.length >= at + 512 &&
        durable.equals(entry.data.subarray(at - entry.offset, at - entry.offset + 512)),
    );
    if (!later) expect.fail(`sector ${at / 512} was acknowledged up to ${sequence} and is not durable`);
  }
}

/** Checks every acknowledgement at the moment it arrives. */
export function checkAcks(agent: FakeAgent, image: (name: string) => MemoryImage): void {
  agent.onAck = (volume, ack) => {
    if (ack.sequence > 0) expectDurable(volume, image(volume.name), ack.sequence);
  };
}

/** If the volume is protected now, its replica must be the disk at the stream's position. @returns whether it was */
export function checkPrefix(test: TestHub, volume: FakeVolume): boolean {
  const status = test.hub.status().find((one) => one.name === volume.name);
  const image = test.image(volume.name);
  if (status?.state !== 'protected' || image.isBusy) return false;
  expectSame(image.visible, volume.diskAt(status.sequence), `the replica at ${status.sequence}`);
  return true;
}

export async function waitForState(test: TestHub, state: string, name = 'disk'): Promise<void> {
  await waitUntil(() => test.hub.status().find((one) => one.name === name)?.state === state, {
    what: `the hub's ${name} to be ${state}`,
    intervalMs: 2,
  });
}
