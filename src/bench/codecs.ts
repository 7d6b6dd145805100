// What compressing gains and costs on a file such as a disk image, by codec: how much smaller the loads of the hub link
// become, and the processor time of both ends. In processor time, so that what else the machine does counts little.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { brotliCompressSync, brotliDecompressSync, deflateSync, inflateSync } from 'node:zlib';
import { UsageError } from '../base/errors.ts';
import { KiB, MiB } from '../base/limits.ts';
import { brotliOptions } from '../repagent/compression.ts';
import type { Table } from './report-table.ts';

/** As the link packs them, bytes, and how many are taken of a file. */
const LOAD_BYTES = 256 * KiB;
const MAX_LOADS = 64;

/** The processor time of each codec is the least of so many rounds. */
const ROUNDS = 5;

export interface Codec {
  readonly name: string;
  readonly pack: (load: Buffer) => Buffer;
  readonly unpack: (packed: Buffer) => Buffer;
}

export interface CodecFigures {
  readonly codec: string;
  /** Plain bytes for one packed. */
  readonly ratio: number;
  /** Plain bytes in a second of one core. */
  readonly packBytesPerSecond: number;
  readonly unpackBytesPerSecond: number;
}

const deflate = (level: number): Codec => ({
  name: `deflate ${level}`,
  pack: (load) => deflateSync(load, { level, chunkSize: load.length + KiB }),
  unpack: (packed) => inflateSync(packed, { chunkSize: LOAD_BYTES + KiB }),
});

const brotli = (quality: number): Codec => ({
  name: `brotli ${quality}`,
  pack: (load) => brotliCompressSync(load, brotliOptions(load.length, quality)),
  unpack: (packed) => brotliDecompressSync(packed, { chunkSize: LOAD_BYTES + KiB }),
});

/** Those that every Node has which this program runs on. */
export const CODECS: readonly Codec[] = [deflate(1), deflate(6), ...[0, 1, 2, 4, 5, 6].map(brotli)];

/**
 * Loads spread evenly over a file, without those that are all zero: they travel without a payload.
 * @throws UsageError when there are none
 */
export function sampleLoads(path: string): Buffer[] {
  const fd = openSync(path, 'r');
  try {
    const whole = Math.floor(fstatSync(fd).size / LOAD_BYTES);
    const step = Math.max(1, Math.floor(whole / (MAX_LOADS * 4)));
    const loads: Buffer[] = [];
    for (let n = 0; n < whole; n += step) {
      const load = Buffer.alloc(LOAD_BYTES);
      if (readSync(fd, load, 0, LOAD_BYTES, n * LOAD_BYTES) < LOAD_BYTES) break;
      if (load.some((byte) => byte !== 0)) loads.push(load);
    }
    if (loads.length === 0) {
      throw new UsageError(`--codecs: ${path} has less than 256 KiB that is not zero`);
    }
    const every = Math.ceil(loads.length / MAX_LOADS);
    return loads.filter((_load, i) => i % every === 0);
  } finally {
    closeSync(fd);
  }
}

/** @throws Error when a codec does not give back what it got */
export function measureCodecs(loads: readonly Buffer[], codecs: readonly Codec[] = CODECS): CodecFigures[] {
  const plainBytes = bytesOf(loads);
  return codecs.map(({ name, pack, unpack }) => {
    let packed: Buffer[] = [];
    let plain: Buffer[] = [];
    const packSeconds = leastSeconds(() => {
      packed = loads.map(pack);
    });
    const unpackSeconds = leastSeconds(() => {
      plain = packed.map(unpack);
    });
    if (!plain.every((one, i) => one.equals(loads[i]!))) throw new Error(`${name} lost something`);
    return {
      codec: name,
      ratio: plainBytes / bytesOf(packed),
      packBytesPerSecond: plainBytes / packSeconds,
      unpackBytesPerSecond: plainBytes / unpackSeconds,
    };
  });
}

/** The figures, and from which link on each codec is the wrong one. */
export function codecTable(title: string, figures: readonly CodecFigures[]): Table {
  return {
    title,
    head: ['codec', 'times smaller', 'packs', 'unpacks', 'takes a whole core at', 'saves no time from'],
    rows: figures.map(({ codec, ratio, packBytesPerSecond, unpackBytesPerSecond }) => {
      const slower = Math.min(packBytesPerSecond, unpackBytesPerSecond);
      return [
        codec,
        ratio.toFixed(2),
        rate(packBytesPerSecond),
        rate(unpackBytesPerSecond),
        rate(slower / ratio),
        ratio > 1 ? rate(slower) : 'any',
      ];
    }),
  };
}

function rate(bytesPerSecond: number): string {
  const mib = bytesPerSecond / MiB;
  return `${mib < 10 ? mib.toFixed(1) : Math.round(mib)} MiB/s`;
}

function bytesOf(buffers: readonly Buffer[]): number {
  return buffers.reduce((sum, { length }) => sum + length, 0);
}

/** Processor time of the quickest round, never 0. */
function leastSeconds(work: () => void): number {
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round += 1) {
    const before = process.cpuUsage();
    work();
    const { user, system } = process.cpuUsage(before);
    least = Math.min(least, Math.max(1, user + system) / 1e6);
  }
  return least;
}
