// The plain image: order kept whether the disk is quick or slow, zeroes that erase what was there, nothing answered early.
import fs from 'node:fs';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import { openFileDevice } from '../../../src/blockdev/file-device.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import type { Mutation } from '../../../src/blockdev/mutation.ts';
import { ImageStore } from '../../../src/rephub/image-store.ts';
import { isAllZero, splitZeroRuns } from '../../../src/rephub/zero-runs.ts';
import { DiskModel, pattern } from '../../support/disk-model.ts';
import { applyToModel } from '../../support/random-operations.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';
import { HeldDevice, isPending, RecorderDevice } from '../../support/test-devices.ts';

const SIZE = 64 * 1024;
let dir: TempDir | undefined;

afterEach(() => {
  dir?.remove();
  dir = undefined;
});

const write = (offset: number, data: Buffer): Mutation => ({ kind: 'write', offset, data, fua: false });

const mutation: fc.Arbitrary<Mutation> = fc
  .record({
    kind: fc.constantFrom('write', 'write', 'zero', 'trim', 'flush'),
    at: fc.nat(127),
    length: fc.integer({ min: 1, max: 12 }),
    seed: fc.integer({ min: 1, max: 1000 }),
  })
  .map(({ kind, at, length, seed }): Mutation => {
    const offset = at * 512;
    const bytes = Math.min(length * 512, SIZE - offset);
    if (kind === 'write') return write(offset, pattern(bytes, seed));
    if (kind === 'zero') return { kind: 'writeZeroes', offset, length: bytes, fua: false, mayTrim: true };
    if (kind === 'trim') return { kind: 'trim', offset, length: bytes, fua: false };
    return { kind: 'flush' };
  });

describe('ImageStore', () => {
  it('carries out batches in order on a disk that answers at once, late, or now this way and now that', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(mutation, { maxLength: 8 }), { maxLength: 6 }),
        fc.array(fc.nat(5), { maxLength: 60 }),
        fc.array(fc.boolean(), { maxLength: 10 }),
        async (batches, picks, holds) => {
          const disk = new MemoryDevice({ sizeBytes: SIZE });
          const held = new HeldDevice(disk);
          const store = new ImageStore(held);
          const model = new DiskModel(SIZE);
          let next = 0;
          for (const [i, batch] of batches.entries()) {
            held.holding = holds[i % Math.max(1, holds.length)] ?? false;
            const answer = store.append(batch);
            for (const one of batch) applyToModel(model, one);
            // Lets go in any order: only what overlaps must have waited.
            while (answer instanceof Promise && (await isPending(answer))) {
              const pick = picks[next++ % Math.max(1, picks.length)] ?? 0;
              await held.waiting[pick % held.waiting.length]?.release();
            }
            await answer;
          }
          const bytes = Buffer.alloc(SIZE);
          disk.read(0, bytes);
          expect(model.firstDifference(bytes)).toBe(-1);
        },
      ),
      { numRuns: 150 },
    );
  });

  it('answers a quick disk at once, and a slow one only when all of the batch has ended', async () => {
    const held = new HeldDevice(new MemoryDevice({ sizeBytes: SIZE }));
    const store = new ImageStore(held);
    held.holding = false;
    expect(store.append([write(0, pattern(512, 1))])).toBeUndefined();
    held.holding = true;
    const answer = store.append([
      write(0, pattern(512, 1)),
      write(4096, pattern(512, 2)),
      write(8192, pattern(512, 3)),
    ]);
    expect(held.lines()).toEqual(['write 0+512', 'write 4096+512', 'write 8192+512']);
    await held.waiting[1]!.fail();
    await held.waiting[0]!.release();
    // One has failed, but another still uses its buffer.
    expect(await isPending(answer)).toBe(true);
    await held.waiting[0]!.release();
    await expect(answer).rejects.toThrow('held write failed');
  });

  it('makes durable what was appended, and nothing by itself', async () => {
    const recorder = new RecorderDevice(new MemoryDevice({ sizeBytes: SIZE }));
    const store = new ImageStore(recorder);
    await store.append([write(0, pattern(512, 1)), { kind: 'flush' }]);
    expect(recorder.take()).toEqual(['write 0+512']);
    await store.commit();
    expect(recorder.take()).toEqual(['flush']);
    await store.close();
    expect(recorder.closes).toBe(1);
  });

  it('erases what an image held before, and leaves a hole where it can', async () => {
    dir = tempDir();
    const path = dir.file('old.img');
    fs.writeFileSync(path, Buffer.alloc(1024 * 1024, 0xaa));
    const store = new ImageStore(await openFileDevice({ path, logger: silentLogger }));
    await store.append([
      { kind: 'writeZeroes', offset: 65_536, length: 512 * 1024, fua: false, mayTrim: true },
      { kind: 'trim', offset: 0, length: 512, fua: false },
    ]);
    await store.commit();
    await store.close();
    const bytes = fs.readFileSync(path);
    expect(isAllZero(bytes.subarray(65_536, 65_536 + 512 * 1024))).toBe(true);
    expect(isAllZero(bytes.subarray(0, 512))).toBe(true);
    expect(bytes.subarray(512, 65_536)).toEqual(Buffer.alloc(65_024, 0xaa));
    expect(bytes.subarray(65_536 + 512 * 1024)).toEqual(Buffer.alloc(458_752, 0xaa));
    expect(fs.statSync(path).blocks * 512).toBeLessThan(600 * 1024);
  });
});

describe('runs of zeroes', () => {
  const parts = (offset: number, bytes: Buffer): string[] => {
    const seen: string[] = [];
    splitZeroRuns(
      offset,
      bytes,
      (at, piece) => seen.push(`data ${at}+${piece.length}`),
      (at, length) => seen.push(`zero ${at}+${length}`),
    );
    return seen;
  };

  it('are found in pieces aligned on the volume', () => {
    const bytes = Buffer.alloc(256 * 1024);
    expect(parts(0, bytes)).toEqual(['zero 0+262144']);
    bytes[65_536 + 5] = 1;
    expect(parts(0, bytes)).toEqual(['zero 0+65536', 'data 65536+65536', 'zero 131072+131072']);
    expect(parts(512, bytes.subarray(0, 65_536 + 512))).toEqual(['zero 512+65024', 'data 65536+1024']);
    expect(parts(0, bytes.subarray(65_536, 65_536 + 512))).toEqual(['data 0+512']);
    expect(parts(7, Buffer.alloc(0))).toEqual([]);
  });

  it('never lose a byte', () => {
    fc.assert(
      fc.property(
        fc.nat(400),
        fc.nat(600),
        fc.array(fc.nat(300_000), { maxLength: 5 }),
        (first, sectors, ones) => {
          const bytes = Buffer.alloc(sectors * 512);
          for (const at of ones) if (at < bytes.length) bytes[at] = 1;
          const rebuilt = Buffer.alloc(bytes.length, 0xff);
          const offset = first * 512;
          splitZeroRuns(
            offset,
            bytes,
            (at, piece) => piece.copy(rebuilt, at - offset),
            (at, length) => rebuilt.fill(0, at - offset, at - offset + length),
          );
          expect(rebuilt.equals(bytes)).toBe(true);
        },
      ),
    );
  });
});
