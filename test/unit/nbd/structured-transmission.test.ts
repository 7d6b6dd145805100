// What goes over a connection once structured replies or extended headers were agreed on: every READ in chunks, errors
// with their reasons, holes as holes, block status of any context, and all of it in spite of slow and broken devices.
import { afterEach, describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { GiB, KiB, MiB } from '../../../src/base/limits.ts';
import type { BlockDevice, Extent } from '../../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { PassThrough } from '../../../src/filter/pass-through.ts';
import { planChunks } from '../../../src/nbd/chunked-read.ts';
import { MAX_READ_CHUNKS } from '../../../src/nbd/limits.ts';
import { allocationRuns, type MetaContext } from '../../../src/nbd/meta-contexts.ts';
import { MAX_STATUS_RUNS } from '../../../src/nbdwire/block-status.ts';
import { NBD_CMD, NBD_ERROR, NBD_OPT } from '../../../src/nbdwire/constants.ts';
import { type FakeEngine, openOnFakeEngine } from '../../support/fake-engine.ts';
import {
  clientFlagsBytes,
  contextData,
  errorOf,
  extendedRequestBytes,
  infoData,
  optionBytes,
  parseReply,
  type ReplyChunk,
  type RequestSpec,
  requestBytes,
  statusOf,
} from '../../support/raw-nbd-client.ts';
import { PatternDevice, patternBytes, SparseDevice } from '../../support/test-devices.ts';
import { waitUntil } from '../../support/wait-until.ts';

const { READ, WRITE, FLUSH, TRIM, WRITE_ZEROES, BLOCK_STATUS, CACHE } = NBD_CMD;
const DF = 4;
const REQ_ONE = 8;
const FAST_ZERO = 16;
const PAYLOAD_LEN = 32;
const CONTEXTS = ['base:allocation', 'x-test:stripes', 'x-test:broken'];

/** Stripes of 4 KiB, flags 0 and 7 in turn. */
const stripes: MetaContext = {
  name: 'x-test:stripes',
  runs: (_offset, length, maxRuns) => {
    const count = Math.min(maxRuns, Math.ceil(length / 4096));
    return Array.from({ length: count }, (_none, i) => ({ length: 4096, flags: (i % 2) * 7 }));
  },
};
const broken: MetaContext = {
  name: 'x-test:broken',
  runs: () => Promise.reject(new BlockError('EIO', 'a secret of /etc')),
};

type Style = 'simple' | 'structured' | 'extended';

class Talker {
  readonly #engine: FakeEngine;
  readonly #style: Style;
  readonly #close: () => void;
  #read = 0;
  #cookie = 100n;

  constructor(device: BlockDevice, style: Style, selected: readonly string[] = []) {
    const exports = [{ name: 'disk', device, contexts: [stripes, broken] }];
    const { engine, connection } = openOnFakeEngine(exports);
    this.#engine = engine;
    this.#style = style;
    this.#close = () => connection.destroy();
    const options = [clientFlagsBytes()];
    if (style === 'structured') options.push(optionBytes(NBD_OPT.STRUCTURED_REPLY));
    if (style === 'extended') options.push(optionBytes(NBD_OPT.EXTENDED_HEADERS));
    if (selected.length > 0)
      options.push(optionBytes(NBD_OPT.SET_META_CONTEXT, contextData('disk', selected)));
    engine.arrive(Buffer.concat([...options, optionBytes(NBD_OPT.GO, infoData('disk'))]));
    engine.take();
    this.#read = engine.output().length;
  }

  get isCut(): boolean {
    return this.#engine.hasEnded;
  }

  /** Sends a request, and waits for the whole of its reply. */
  async ask(spec: Omit<RequestSpec, 'length'> & { length?: number | bigint }): Promise<ReplyChunk[]> {
    this.#cookie += 1n;
    const whole = { ...spec, cookie: this.#cookie };
    const bytes =
      this.#style === 'extended'
        ? extendedRequestBytes(whole)
        : requestBytes({ ...whole, length: Number(spec.length ?? spec.data?.length ?? 0) });
    expect(this.#engine.arrive(bytes)).toBe(0);
    const chunks: ReplyChunk[] = [];
    await waitUntil(() => {
      this.#engine.take();
      const output = this.#engine.output();
      for (;;) {
        const next = parseReply(output.subarray(this.#read));
        if (!next) return false;
        this.#read += next.length;
        expect(next.chunk.cookie).toBe(this.#cookie);
        if (this.#style === 'extended') expect(next.chunk.offset).toBe(BigInt(spec.offset ?? 0));
        chunks.push(next.chunk);
        if (next.chunk.done) return true;
      }
    });
    expect(this.#read).toBe(this.#engine.output().length);
    return chunks;
  }

  close(): void {
    this.#close();
  }
}

let open: Talker[] = [];
afterEach(() => {
  for (const talker of open) talker.close();
  open = [];
});

function talk(device: BlockDevice, style: Style, selected?: readonly string[]): Talker {
  const talker = new Talker(device, style, selected);
  open.push(talker);
  return talker;
}

/** Fills a buffer from the chunks of a READ, which must cover it once. */
function assemble(chunks: readonly ReplyChunk[], offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length, 0xee);
  let covered = 0;
  for (const { type, payload } of chunks) {
    const at = Number(payload.readBigUInt64BE(0)) - offset;
    if (type === 1) {
      covered += payload.copy(bytes, at, 8);
    } else {
      expect(type).toBe(2);
      const hole = payload.readUInt32BE(8);
      bytes.fill(0, at, at + hole);
      covered += hole;
    }
  }
  expect(covered).toBe(length);
  return bytes;
}

const kinds = (chunks: readonly ReplyChunk[]): number[] => chunks.map((chunk) => chunk.type);

/** Answers some microtasks later. */
class Late extends PassThrough {
  override async read(offset: number, target: Buffer): Promise<void> {
    await Promise.resolve();
    await super.read(offset, target);
  }

  override async extents(offset: number, length: number, most?: number): Promise<Extent[]> {
    return super.extents(offset, length, most);
  }
}

function with2Holes(): MemoryDevice {
  const device = new MemoryDevice({ sizeBytes: 8 * MiB });
  device.write(0, patternBytes(0, 64 * KiB), false);
  device.write(256 * KiB, patternBytes(256 * KiB, 64 * KiB), false);
  return device;
}

describe.each(['structured', 'extended'] as const)('%s replies', (style) => {
  it('answer a READ with one chunk of data, at any size, and never a simple reply', async () => {
    const talker = talk(new PatternDevice(64 * MiB), style);
    for (const [offset, length] of [
      [0, 1],
      [4096, 512],
      [12_345, 65_536],
      [1 * MiB, 200 * KiB],
      [8, 2 * MiB],
    ] as const) {
      const chunks = await talker.ask({ type: READ, offset, length });
      expect(chunks.map((chunk) => [chunk.style, chunk.type, chunk.done])).toEqual([[style, 1, true]]);
      expect(assemble(chunks, offset, length).equals(patternBytes(offset, length))).toBe(true);
    }
    const nothing = await talker.ask({ type: READ, offset: 512, length: 0 });
    expect(nothing.map((chunk) => [chunk.style, chunk.type, chunk.payload.length])).toEqual([[style, 0, 0]]);
  });

  it.each([false, true])('tell holes as holes, unless DF (answers later: %s)', async (isLate) => {
    const device = with2Holes();
    const talker = talk(isLate ? new Late(device) : device, style);
    const [offset, length] = [16 * KiB, 300 * KiB];
    const wanted = Buffer.alloc(length);
    device.read(offset, wanted);
    const chunks = await talker.ask({ type: READ, offset, length });
    expect(kinds(chunks)).toEqual([1, 2, 1]);
    expect(assemble(chunks, offset, length).equals(wanted)).toBe(true);
    const whole = await talker.ask({ type: READ, flags: DF, offset, length });
    expect(kinds(whole)).toEqual([1]);
    expect(assemble(whole, offset, length).equals(wanted)).toBe(true);
    expect(kinds(await talker.ask({ type: READ, offset: 1 * MiB, length: 4 * MiB }))).toEqual([2]);
    expect(kinds(await talker.ask({ type: READ, offset: 1 * MiB, length: 60 * KiB }))).toEqual([1]);
  });

  it('read without extents where those are dear or fail', async () => {
    class Dear extends SparseDevice {
      override extents(): Extent[] {
        throw new BlockError('EIO', 'not to be asked, or broken');
      }
    }
    for (const cheapExtents of [false, true]) {
      const talker = talk(new Dear(1 * MiB, { cheapExtents }), style);
      expect(kinds(await talker.ask({ type: READ, length: 256 * KiB }))).toEqual([1]);
    }
  });

  it.each([false, true])(
    'send no data of a READ that fails halfway, and say where (answers later: %s)',
    async (isLate) => {
      const device = with2Holes();
      const read = device.read.bind(device);
      device.read = (offset, target) => {
        if (offset >= 256 * KiB) throw new BlockError('EIO', 'bad sector of /dev/secret');
        read(offset, target);
      };
      const talker = talk(isLate ? new Late(device) : device, style);
      const chunks = await talker.ask({ type: READ, offset: 0, length: 320 * KiB });
      expect(chunks).toHaveLength(1);
      const { error, message, offset } = errorOf(chunks[0]!);
      expect([error, offset]).toEqual([NBD_ERROR.EIO, BigInt(256 * KiB)]);
      expect(message).toContain('READ of 327680 bytes at 0');
      expect(message).not.toContain('secret');
      // Nothing of the failed one is left over.
      expect(kinds(await talker.ask({ type: READ, offset: 0, length: 512 }))).toEqual([1]);
    },
  );

  it('say where a large request failed that was carried out in pieces', async () => {
    const device = new SparseDevice(64 * MiB, { maxRequestBytes: 1 * MiB });
    const fail = (offset: number): void => {
      if (offset >= 3 * MiB) throw new BlockError('ENOSPC', 'full');
    };
    device.write = fail;
    device.read = fail;
    const talker = talk(device, style);
    const wrote = await talker.ask({ type: WRITE, offset: 1 * MiB, data: Buffer.alloc(4 * MiB) });
    expect(errorOf(wrote[0]!)).toMatchObject({ error: NBD_ERROR.ENOSPC, offset: BigInt(3 * MiB) });
    const read = await talker.ask({ type: READ, offset: 1 * MiB, length: 4 * MiB });
    expect(errorOf(read[0]!)).toMatchObject({ error: NBD_ERROR.ENOSPC, offset: BigInt(3 * MiB) });
  });

  it('give every refusal a reason, and go on', async () => {
    const talker = talk(new SparseDevice(1 * MiB), style);
    const errors: Array<[Omit<RequestSpec, 'length'> & { length?: number }, number, bigint | undefined]> = [
      [{ type: READ, offset: 1 * MiB - 512, length: 1024 }, NBD_ERROR.EINVAL, BigInt(1 * MiB)],
      [{ type: READ, offset: 2n ** 64n - 1n, length: 1024 }, NBD_ERROR.EINVAL, undefined],
      [{ type: WRITE, offset: 1 * MiB - 512, data: Buffer.alloc(1024) }, NBD_ERROR.ENOSPC, BigInt(1 * MiB)],
      [{ type: TRIM, offset: 1 * MiB - 512, length: 1024 }, NBD_ERROR.EINVAL, BigInt(1 * MiB)],
      [{ type: CACHE, offset: 1 * MiB - 512, length: 1024 }, NBD_ERROR.EINVAL, BigInt(1 * MiB)],
      [{ type: WRITE_ZEROES, flags: FAST_ZERO, length: 512 }, NBD_ERROR.ENOTSUP, undefined],
      [{ type: READ, length: 64 * MiB + 1 }, NBD_ERROR.EOVERFLOW, undefined],
      [{ type: BLOCK_STATUS, length: 512 }, NBD_ERROR.EINVAL, undefined],
      [{ type: 99 }, NBD_ERROR.EINVAL, undefined],
      [{ type: FLUSH, length: 1 }, NBD_ERROR.EINVAL, undefined],
    ];
    for (const [spec, error, offset] of errors) {
      const chunks = await talker.ask(spec);
      expect(chunks.map((chunk) => chunk.style)).toEqual([style]);
      expect(errorOf(chunks[0]!)).toEqual({
        error,
        message: expect.stringMatching(/\w/),
        ...(offset === undefined ? {} : { offset }),
      });
    }
    const done = await talker.ask({ type: FLUSH });
    expect(done.map((chunk) => [chunk.style, chunk.error ?? 0])).toEqual([
      [style === 'extended' ? 'extended' : 'simple', 0],
    ]);
  });

  it('say ENOTSUP of a device only to who asked for speed', async () => {
    const device = new SparseDevice(1 * MiB, { fastZero: 'always' });
    device.writeZeroes = () => {
      throw new BlockError('ENOTSUP', 'cannot');
    };
    const talker = talk(device, style);
    const fast = await talker.ask({ type: WRITE_ZEROES, flags: FAST_ZERO, length: 512 });
    expect(errorOf(fast[0]!).error).toBe(NBD_ERROR.ENOTSUP);
    const plain = await talker.ask({ type: WRITE_ZEROES, length: 512 });
    expect(errorOf(plain[0]!).error).toBe(NBD_ERROR.EINVAL);
  });

  it('tell the status of every selected context, one chunk each', async () => {
    const talker = talk(with2Holes(), style, CONTEXTS.slice(0, 2));
    const chunks = await talker.ask({ type: BLOCK_STATUS, offset: 0, length: 320 * KiB });
    expect(chunks.map((chunk) => chunk.done)).toEqual([false, true]);
    expect(kinds(chunks)).toEqual(style === 'extended' ? [6, 6] : [5, 5]);
    expect(chunks.map(statusOf)).toEqual([
      {
        contextId: 0,
        runs: [
          [64 * KiB, 0],
          [192 * KiB, 3],
          [64 * KiB, 0],
        ],
      },
      { contextId: 1, runs: Array.from({ length: 80 }, (_none, i) => [4096, (i % 2) * 7]) },
    ]);
  });

  it('tell one extent, no longer than the request, with REQ_ONE', async () => {
    const talker = talk(with2Holes(), style, CONTEXTS.slice(0, 2));
    const one = async (offset: number, length: number): Promise<unknown> =>
      (await talker.ask({ type: BLOCK_STATUS, flags: REQ_ONE, offset, length })).map(
        (chunk) => statusOf(chunk).runs,
      );
    expect(await one(0, 8 * MiB)).toEqual([[[64 * KiB, 0]], [[4096, 0]]]);
    expect(await one(64 * KiB, 8 * MiB - 64 * KiB)).toEqual([[[192 * KiB, 3]], [[4096, 0]]]);
    expect(await one(64 * KiB, 512)).toEqual([[[512, 3]], [[512, 0]]]);
  });

  it('tell nothing of any context when one fails', async () => {
    const talker = talk(with2Holes(), style, CONTEXTS);
    const chunks = await talker.ask({ type: BLOCK_STATUS, offset: 0, length: 1 * MiB });
    expect(chunks).toHaveLength(1);
    expect(errorOf(chunks[0]!)).toMatchObject({
      error: NBD_ERROR.EIO,
      message: expect.not.stringContaining('/etc'),
    });
    expect(await talker.ask({ type: READ, length: 512 })).toHaveLength(1);
  });

  it('end a status before it grows beyond bounds', async () => {
    const talker = talk(new MemoryDevice({ sizeBytes: 1 * GiB }), style, ['x-test:stripes']);
    const chunks = await talker.ask({ type: BLOCK_STATUS, length: 1 * GiB });
    expect(statusOf(chunks[0]!).runs).toHaveLength(MAX_STATUS_RUNS);
  });

  it('are exact around 4 GiB', async () => {
    const device = new MemoryDevice({ sizeBytes: 16 * GiB });
    device.write(4 * GiB - 64 * KiB, Buffer.alloc(128 * KiB, 1), false);
    const talker = talk(device, style, ['base:allocation']);
    const runs = async (offset: number, length: number): Promise<unknown> =>
      statusOf((await talker.ask({ type: BLOCK_STATUS, offset, length }))[0]!).runs;
    expect(await runs(0, 4 * GiB - 512)).toEqual([
      [4 * GiB - 64 * KiB, 3],
      [64 * KiB - 512, 0],
    ]);
    expect(await runs(4 * GiB - 512, 1024)).toEqual([[1024, 0]]);
    expect(await runs(4 * GiB + 64 * KiB, 4 * GiB - 1)).toEqual([[4 * GiB - 1, 3]]);
    expect(await runs(4 * GiB + 64 * KiB, 0xffffffff)).toEqual([[0xffffffff, 3]]);
  });
});

describe('extended headers', () => {
  it('tell 64 bits of extent at once', async () => {
    const device = new MemoryDevice({ sizeBytes: 2 ** 45 });
    device.write(2 ** 40, Buffer.alloc(64 * KiB, 1), false);
    const talker = talk(device, 'extended', ['base:allocation']);
    const [chunk] = await talker.ask({ type: BLOCK_STATUS, length: 2 ** 45 });
    expect(statusOf(chunk!).runs).toEqual([
      [2 ** 40, 3],
      [64 * KiB, 0],
      [2 ** 45 - 2 ** 40 - 64 * KiB, 3],
    ]);
    expect(kinds(await talker.ask({ type: TRIM, length: 2 ** 45 }))).toEqual([0]);
    expect(statusOf((await talker.ask({ type: BLOCK_STATUS, length: 2 ** 45 }))[0]!).runs).toEqual([
      [2 ** 45, 3],
    ]);
    const past = await talker.ask({ type: BLOCK_STATUS, length: 2n ** 64n - 1n });
    expect(errorOf(past[0]!)).toMatchObject({ error: NBD_ERROR.EINVAL });
  });

  it('repeat any offset of a request to the bit', async () => {
    const talker = talk(new SparseDevice(1 * MiB), 'extended');
    // ask() compares it.
    for (const offset of [2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n]) {
      expect(errorOf((await talker.ask({ type: READ, offset, length: 1 }))[0]!).error).toBe(NBD_ERROR.EINVAL);
    }
  });

  it('take a WRITE with its payload flag only: without it there is no payload', async () => {
    const device = new SparseDevice(1 * MiB);
    const talker = talk(device, 'extended');
    for (const flags of [PAYLOAD_LEN, PAYLOAD_LEN | 1]) {
      const data = Buffer.alloc(512, flags + 1);
      expect(kinds(await talker.ask({ type: WRITE, flags, offset: 512, data }))).toEqual([0]);
      const chunks = await talker.ask({ type: READ, offset: 512, length: 512 });
      expect(assemble(chunks, 512, 512).equals(data)).toBe(true);
    }
    const bare = await talker.ask({ type: WRITE, offset: 512, length: 512 });
    expect(errorOf(bare[0]!)).toMatchObject({ error: NBD_ERROR.EINVAL });
  });

  it('throw away a payload that its command has no use for, and go on', async () => {
    const talker = talk(new SparseDevice(1 * MiB), 'extended', ['base:allocation']);
    for (const type of [READ, TRIM, FLUSH, WRITE_ZEROES, CACHE, 99]) {
      const chunks = await talker.ask({ type, flags: PAYLOAD_LEN, data: Buffer.alloc(70_000, 0x21) });
      expect(errorOf(chunks[0]!).error).toBe(NBD_ERROR.EINVAL);
    }
    expect(kinds(await talker.ask({ type: READ, length: 512 }))).toEqual([1]);
  });

  it('tell the contexts that a payload names', async () => {
    const talker = talk(with2Holes(), 'extended', CONTEXTS.slice(0, 2));
    const filter = (length: bigint, ...ids: number[]): Buffer => {
      const bytes = Buffer.alloc(8 + ids.length * 4);
      bytes.writeBigUInt64BE(length);
      for (const [i, id] of ids.entries()) bytes.writeUInt32BE(id, 8 + i * 4);
      return bytes;
    };
    const ask = (data: Buffer, flags = 0, offset = 0): Promise<ReplyChunk[]> =>
      talker.ask({ type: BLOCK_STATUS, flags: flags | PAYLOAD_LEN, offset, data });
    const only = await ask(filter(BigInt(8 * MiB), 0));
    expect(only.map((chunk) => statusOf(chunk).contextId)).toEqual([0]);
    const both = await ask(filter(4096n, 1, 0), REQ_ONE, 64 * KiB);
    expect(both.map(statusOf)).toEqual([
      { contextId: 1, runs: [[4096, 0]] },
      { contextId: 0, runs: [[4096, 3]] },
    ]);
    const wrong = [
      filter(4096n),
      filter(4096n, 2),
      filter(4096n, 0, 0),
      filter(4096n, 0, 1, 0),
      Buffer.alloc(9),
      filter(0n, 0),
    ];
    for (const data of [
      ...wrong,
      Buffer.alloc(100_000),
      filter(BigInt(8 * MiB) + 1n, 0),
      filter(2n ** 64n - 1n, 0),
    ]) {
      expect(errorOf((await ask(data))[0]!).error).toBe(NBD_ERROR.EINVAL);
    }
    expect(kinds(await talker.ask({ type: READ, length: 512 }))).toEqual([1]);
  });

  it.each([TRIM, WRITE])('end with a payload that nobody would send (command %i)', (type) => {
    const talker = talk(new SparseDevice(1 * MiB), 'extended');
    void talker.ask({ type, flags: PAYLOAD_LEN, length: 64 * MiB + 1 }).catch(() => {});
    expect(talker.isCut).toBe(true);
  });
});

describe('simple replies', () => {
  it('never carry chunks', async () => {
    const talker = talk(with2Holes(), 'simple');
    const failed = await talker.ask({ type: BLOCK_STATUS, length: 512 });
    expect(failed[0]).toMatchObject({ style: 'simple', error: NBD_ERROR.EINVAL });
    const read = await talker.ask({ type: READ, length: 64 * MiB + 1 });
    expect(read[0]).toMatchObject({ style: 'simple', error: NBD_ERROR.EINVAL });
  });
});

describe('planChunks', () => {
  const extents = (...pieces: Array<[number, boolean]>): Extent[] => {
    let offset = 0;
    return pieces.map(([length, zero]) => {
      const extent = { offset, length, hole: zero, zero };
      offset += length;
      return extent;
    });
  };

  it('leaves small holes in the data', () => {
    expect(
      planChunks(extents([64 * KiB, false], [16 * KiB, true], [64 * KiB, false]), 0, 144 * KiB),
    ).toBeUndefined();
  });

  it('cuts holes to sectors inside the range', () => {
    const chunks = planChunks(extents([1000, false], [100_000, true], [1000, false]), 0, 102_000);
    expect(chunks).toEqual([
      { offset: 0, length: 1024, hole: false },
      { offset: 1024, length: 99_840, hole: true },
      { offset: 100_864, length: 1136, hole: false },
    ]);
  });

  it('never makes more chunks than allowed', () => {
    const pieces = Array.from({ length: 200 }, (_none, i): [number, boolean] => [64 * KiB, i % 2 === 1]);
    const chunks = planChunks(extents(...pieces), 0, 200 * 64 * KiB)!;
    expect(chunks.length).toBeLessThanOrEqual(MAX_READ_CHUNKS);
    expect(chunks.reduce((sum, chunk) => sum + chunk.length, 0)).toBe(200 * 64 * KiB);
  });
});

describe('allocationRuns', () => {
  const hole = (offset: number, length: number): Extent => ({ offset, length, hole: true, zero: true });
  const data = (offset: number, length: number): Extent => ({ offset, length, hole: false, zero: false });

  it('keep to the block grid: a shared block has only what holds for all of it', () => {
    const list = [hole(0, 5000), data(5000, 100), hole(5100, 20_000), hole(25_100, 3572)];
    expect(allocationRuns(list, 28_672, 4096, 100)).toEqual([
      { length: 4096, flags: 3 },
      { length: 4096, flags: 0 },
      { length: 20_480, flags: 3 },
    ]);
  });

  it('leave out what nobody looked at, unless it is all', () => {
    const unknown: Extent = { ...data(8192, 8192), unknown: true };
    expect(allocationRuns([hole(0, 4096), data(4096, 4096), unknown], 16_384, 1, 100)).toEqual([
      { length: 4096, flags: 3 },
      { length: 4096, flags: 0 },
    ]);
    expect(allocationRuns([{ ...data(0, 4096), unknown: true }], 4096, 1, 1)).toEqual([
      { length: 4096, flags: 0 },
    ]);
  });

  it('end at an odd end of the disk', () => {
    expect(allocationRuns([hole(0, 5000)], 5000, 4096, 100)).toEqual([{ length: 5000, flags: 3 }]);
    expect(allocationRuns([data(0, 4500), hole(4500, 500)], 5000, 4096, 100)).toEqual([
      { length: 5000, flags: 0 },
    ]);
  });
});
