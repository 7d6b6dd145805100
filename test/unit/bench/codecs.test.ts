// The measurement of codecs: what it says of data that shrinks and of data that doesn't, and what it takes of a file.
import { randomBytes } from 'node:crypto';
import { truncateSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CODECS, codecTable, measureCodecs, sampleLoads } from '../../../src/bench/codecs.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

const LOAD = 256 * 1024;
const text = Buffer.alloc(LOAD, 'a row of a table that says the same again and again; ');

let dir: TempDir;
beforeEach(() => {
  dir = tempDir();
});
afterEach(() => dir.remove());

describe('the figures', () => {
  it('tell what shrinks from what does not', () => {
    const some = CODECS.filter(({ name }) => name === 'brotli 1' || name === 'deflate 1');
    for (const { ratio, packBytesPerSecond, unpackBytesPerSecond } of measureCodecs([text, text], some)) {
      expect(ratio).toBeGreaterThan(50);
      expect(packBytesPerSecond).toBeGreaterThan(0);
      expect(unpackBytesPerSecond).toBeGreaterThan(0);
    }
    for (const { ratio } of measureCodecs([randomBytes(LOAD)], some)) expect(ratio).toBeCloseTo(1, 2);
  });

  it('are not given for a codec that loses something', () => {
    const bad = { name: 'bad', pack: (load: Buffer) => load.subarray(1), unpack: (packed: Buffer) => packed };
    expect(() => measureCodecs([text], [bad])).toThrow('bad lost something');
  });

  it('say from which link on a codec is the wrong one', () => {
    const MiB = 2 ** 20;
    const figures = { codec: 'x', ratio: 4, packBytesPerSecond: 100 * MiB, unpackBytesPerSecond: 200 * MiB };
    const slowHub = { ...figures, codec: 'y', unpackBytesPerSecond: 30 * MiB };
    const none = { ...figures, codec: 'z', ratio: 0.99 };
    expect(codecTable('', [figures, slowHub, none]).rows).toEqual([
      ['x', '4.00', '100 MiB/s', '200 MiB/s', '25 MiB/s', '100 MiB/s'],
      ['y', '4.00', '100 MiB/s', '30 MiB/s', '7.5 MiB/s', '30 MiB/s'],
      ['z', '0.99', '100 MiB/s', '200 MiB/s', '101 MiB/s', 'any'],
    ]);
  });
});

describe('of a file', () => {
  it('loads are taken all over it, and none that are zero', () => {
    const path = dir.file('disk.img');
    writeFileSync(path, Buffer.concat([text, Buffer.alloc(LOAD), randomBytes(LOAD)]));
    truncateSync(path, 20 * LOAD);
    expect(sampleLoads(path).map((load) => load.equals(text))).toEqual([true, false]);
    writeFileSync(path, Buffer.alloc(300 * LOAD, 1));
    const many = sampleLoads(path);
    expect(many.length).toBeGreaterThan(32);
    expect(many.length).toBeLessThanOrEqual(64);
  });

  it('there must be something', () => {
    const path = dir.file('empty.img');
    writeFileSync(path, Buffer.alloc(2 * LOAD));
    expect(() => sampleLoads(path)).toThrow('has less than 256 KiB that is not zero');
  });
});
