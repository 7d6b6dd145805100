// The stream from the moment a change enters it to the moment its frame has left: order, bytes, and who holds what.
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { Bitmap } from '../../../src/base/bitmap.ts';
import { SlabPool } from '../../../src/base/buffer-pool.ts';
import { DIRTY_GRANULARITY_BYTES as CHUNK, KiB, MiB } from '../../../src/base/limits.ts';
import { ENTRY_OVERHEAD_BYTES as OVERHEAD } from '../../../src/repagent/mirror-queue.ts';
import { MirrorStream, type StreamMember } from '../../../src/repagent/mirror-stream.ts';
import { StreamSender } from '../../../src/repagent/stream-sender.ts';
import type { Dirty, ProtectedWrite } from '../../../src/repwire/messages.ts';
import { pattern } from '../../support/disk-model.ts';
import { settled } from '../../support/test-devices.ts';
import { FakeOutlet, noLimit } from './outlet.ts';

class Member implements StreamMember {
  readonly sizeBytes: number;
  readonly wireId = 7n;
  queuedBytes = 0;
  resumed = 0;

  constructor(sizeBytes = 2 ** 40) {
    this.sizeBytes = sizeBytes;
  }

  resumeStream(): void {
    this.resumed += 1;
  }
}

interface Rig {
  readonly stream: MirrorStream;
  readonly sender: StreamSender;
  readonly outlet: FakeOutlet;
  readonly member: Member;
  readonly seen: string[];
}

function rig(options: { extensions?: boolean; queueBytes?: number; sizeBytes?: number } = {}): Rig {
  const seen: string[] = [];
  const outlet = new FakeOutlet();
  let sender: StreamSender | undefined;
  const stream = new MirrorStream(options.queueBytes ?? 64 * MiB, () => 1234, {
    wake: () => sender?.wake(),
    lost: () => seen.push('lost'),
    degraded: (some) => seen.push(some ? 'overflowed' : 'recovered'),
  });
  const extensions = options.extensions ?? true;
  stream.open(extensions);
  sender = new StreamSender({
    outlet,
    queue: stream.queue,
    extensions,
    limiter: noLimit(),
    onRoom: () => stream.recover(),
    onFault: (error) => {
      throw error;
    },
  });
  return { stream, sender, outlet, member: new Member(options.sizeBytes), seen };
}

async function turns(count = 8): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await settled();
}

function bitsOf(size: number, ...bits: number[]): Bitmap {
  const map = new Bitmap(size);
  for (const bit of bits) map.set(bit);
  return map;
}

describe('with the extensions', () => {
  let r: Rig;
  beforeEach(() => {
    r = rig();
  });

  it('sends every kind in order, with the stamps they entered with', async () => {
    const data = pattern(1024, 1);
    expect(r.stream.write(r.member, 512, data)).toBe(1);
    expect(r.stream.zero(r.member, 'trim', 4096, 8192)).toBe(2);
    expect(r.stream.zero(r.member, 'writeZeroes', 0, 2 ** 39)).toBe(3);
    expect(r.stream.flush(r.member)).toBe(4);
    expect(r.stream.failed(r.member, 1024, 512)).toBe(5);
    expect(r.stream.dirty(r.member, () => bitsOf(10, 1, 2, 5))).toBe(6);
    expect(r.stream.sequence).toBe(6);
    expect(r.outlet.messages).toEqual([]);
    await turns();
    const stamp = { volumeId: 7n, timeUs: 1234 };
    expect(r.outlet.messages).toMatchObject([
      {
        kind: 'protectedWrite',
        ...stamp,
        offset: 512,
        length: 1024,
        status: 0,
        sequence: 1,
        crc32: crc32(data),
        data,
      },
      { kind: 'protectedZero', ...stamp, offset: 4096, length: 8192, sequence: 2, trim: true },
      { kind: 'protectedZero', ...stamp, offset: 0, length: 2 ** 39, sequence: 3, trim: false },
      { kind: 'protectedFlush', ...stamp, sequence: 4 },
      {
        kind: 'protectedWrite',
        ...stamp,
        offset: 1024,
        length: 512,
        status: -1,
        sequence: 5,
        data: Buffer.alloc(0),
      },
      {
        kind: 'dirty',
        ...stamp,
        sequence: 6,
        more: false,
        extents: [
          { offset: CHUNK, length: 2 * CHUNK },
          { offset: 5 * CHUNK, length: CHUNK },
        ],
      },
    ]);
    expect([r.stream.queue.bytes, r.member.queuedBytes, r.sender.isIdle]).toEqual([0, 0, true]);
  });

  it('splits a write that no frame can hold, and refuses it as a whole', async () => {
    const data = Buffer.alloc(64 * MiB + 512);
    for (let at = 0; at < data.length; at += MiB) data.writeUInt32LE(at, at);
    expect(r.stream.write(r.member, 512, data)).toBe(0);
    expect([r.stream.sequence, r.stream.queue.bytes, r.seen]).toEqual([0, 0, ['overflowed']]);
    r = rig({ queueBytes: data.length + 3 * OVERHEAD });
    expect(r.stream.write(r.member, 512, data)).toBe(3);
    expect(r.stream.queue.bytes).toBe(data.length + 3 * OVERHEAD);
    await turns(10);
    const writes = r.outlet.messages as ProtectedWrite[];
    expect(writes.map((write) => [write.sequence, write.offset, write.length])).toEqual([
      [1, 512, 32 * MiB],
      [2, 512 + 32 * MiB, 32 * MiB],
      [3, 512 + 64 * MiB, 512],
    ]);
    expect(Buffer.concat(writes.map((write) => write.data)).equals(data)).toBe(true);
  });

  it('splits a failed change at what 32 bits of sectors can name', async () => {
    r = rig({ sizeBytes: 2 ** 44 });
    expect(r.stream.failed(r.member, 0, 2 ** 42 + 512)).toBe(3);
    await turns();
    const writes = r.outlet.messages as ProtectedWrite[];
    expect(writes.map((write) => write.status)).toEqual([-1, -1, -1]);
    expect(writes.reduce((end, write) => (write.offset === end ? end + write.length : Number.NaN), 0)).toBe(
      2 ** 42 + 512,
    );
  });

  it('spreads a long list over frames, and cuts its end at the end of the disk', async () => {
    const chunks = 20_000;
    r = rig({ sizeBytes: chunks * CHUNK - 512 });
    const bits = new Bitmap(chunks);
    for (let chunk = 1; chunk < chunks; chunk += 2) bits.set(chunk);
    r.stream.dirty(r.member, () => bits);
    r.stream.flush(r.member);
    await turns(20);
    const lists = r.outlet.messages.slice(0, -1) as Dirty[];
    expect(lists.map((list) => [list.extents.length, list.more, list.sequence])).toEqual([
      [4096, true, 1],
      [4096, true, 1],
      [1808, false, 1],
    ]);
    const extents = lists.flatMap((list) => list.extents);
    expect(extents.at(-1)).toEqual({ offset: 19_999 * CHUNK, length: CHUNK - 512 });
    expect(extents.every(({ offset }, at) => offset === (2 * at + 1) * CHUNK)).toBe(true);
    expect(r.outlet.messages.at(-1)).toMatchObject({ kind: 'protectedFlush', sequence: 2 });
  });

  it('ends a list in its last frame when that is exactly full, and names nothing with an empty one', async () => {
    r = rig({ sizeBytes: 8192 * CHUNK });
    const bits = new Bitmap(8192);
    for (let chunk = 0; chunk < 8192; chunk += 2) bits.set(chunk);
    r.stream.dirty(r.member, () => bits);
    r.stream.dirty(r.member, () => new Bitmap(8192));
    await turns();
    expect(r.outlet.messages).toMatchObject([
      { kind: 'dirty', more: false, sequence: 1 },
      { kind: 'dirty', more: false, sequence: 2, extents: [] },
    ]);
  });

  it('keeps at most so many bytes, counts those in the hands of the kernel, and recovers at half', async () => {
    const write = 4 * KiB + OVERHEAD;
    r = rig({ queueBytes: 10 * write });
    r.outlet.taking = false;
    for (let at = 0; at < 10; at += 1)
      expect(r.stream.write(r.member, at * 4096, pattern(4096, at))).toBe(at + 1);
    expect(r.stream.queue.bytes).toBe(10 * write);
    await turns();
    expect(r.stream.queue.isEmpty).toBe(true);
    expect(r.stream.queue.bytes).toBe(10 * write);
    expect(r.stream.write(r.member, 0, pattern(512, 1))).toBe(0);
    expect(r.stream.flush(r.member)).toBe(0);
    expect([r.seen, r.stream.hasDegraded, r.stream.overflows]).toEqual([['overflowed'], true, 1]);
    await turns();
    expect(r.member.resumed).toBe(0);
    r.outlet.take();
    expect([r.stream.queue.bytes, r.member.queuedBytes]).toEqual([0, 0]);
    expect([r.seen, r.member.resumed]).toEqual([['overflowed', 'recovered'], 1]);
  });

  it('recovers at once from a change that is larger than the whole queue', async () => {
    r = rig({ queueBytes: 64 * KiB });
    expect(r.stream.write(r.member, 0, pattern(128 * KiB, 1))).toBe(0);
    expect(r.member.resumed).toBe(0);
    await turns(2);
    expect(r.member.resumed).toBe(1);
  });

  it('forgets a volume that begins anew', () => {
    r = rig({ queueBytes: 0 });
    const other = new Member();
    r.stream.write(r.member, 0, pattern(512, 1));
    r.stream.write(other, 0, pattern(512, 1));
    r.stream.leave(other);
    r.stream.leave(other);
    expect(r.seen).toEqual(['overflowed']);
    r.stream.leave(r.member);
    expect(r.seen).toEqual(['overflowed', 'recovered']);
  });

  it('holds a slab until its entry has left, and no longer', async () => {
    const pool = new SlabPool({ poison: true });
    const slab = pool.acquire(64 * KiB);
    r.outlet.taking = false;
    const expected: Buffer[] = [];
    for (let at = 0; at < 4; at += 1) {
      const data = slab.bytes.subarray(at * 4096, (at + 1) * 4096);
      pattern(4096, at).copy(data);
      expected.push(Buffer.from(data));
      r.stream.write(r.member, at * 4096, data);
    }
    // Small ones are copied: the lender may reuse them at once.
    const small = slab.bytes.subarray(16 * KiB, 16 * KiB + 512);
    small.fill(9);
    r.stream.write(r.member, 0, small);
    small.fill(0);
    slab.release();
    expect(pool.liveBytes).toBe(64 * KiB);
    await turns();
    expect(pool.liveBytes).toBe(64 * KiB);
    r.outlet.take();
    const writes = r.outlet.messages as ProtectedWrite[];
    expect(writes.map((write) => write.data)).toEqual([...expected, Buffer.alloc(512, 9)]);
    expect(pool.liveBytes).toBe(0);
  });

  it('gives everything back when the connection goes, wherever an entry is', async () => {
    const pool = new SlabPool();
    const slab = pool.acquire(MiB);
    r.outlet.taking = false;
    let released = 0;
    for (let at = 0; at < 200; at += 1) r.stream.write(r.member, 0, slab.bytes.subarray(0, 4096));
    r.stream.frame(r.member, Buffer.alloc(56), () => (released += 1));
    await turns(1);
    slab.release();
    expect(r.stream.queue.isEmpty).toBe(false);
    r.stream.shut();
    r.sender.stop();
    expect(pool.liveBytes).toBe(MiB);
    r.outlet.fail();
    expect([pool.liveBytes, r.stream.queue.bytes, r.member.queuedBytes, released]).toEqual([0, 0, 0, 1]);
  });

  it('goes on with the sequence over connections', async () => {
    r.stream.flush(r.member);
    r.stream.shut();
    r.stream.open(true);
    expect(r.stream.flush(r.member)).toBe(2);
  });
});

describe('beside the stream', () => {
  it('sends a frame at exactly its place', async () => {
    const r = rig();
    const order: string[] = [];
    r.stream.write(r.member, 0, pattern(512, 1));
    const head = r.stream.sequence;
    r.stream.frame(r.member, flushFrame(), () => order.push('left'));
    r.stream.write(r.member, 0, pattern(512, 2));
    await turns();
    expect(r.outlet.messages.map((message) => message.kind)).toEqual([
      'protectedWrite',
      'agentShutdown',
      'protectedWrite',
    ]);
    expect([head, order]).toEqual([1, ['left']]);
  });

  it('lets answers and stream take turns, however much there is of either', async () => {
    const r = rig();
    let left = 0;
    for (let at = 0; at < 512; at += 1) r.stream.write(r.member, 0, pattern(4096, 1));
    for (let at = 0; at < 16; at += 1) {
      r.sender.answer({ head: flushFrame(), data: undefined, over: () => (left += 1) });
    }
    const big = Buffer.alloc(256 * KiB);
    for (let at = 0; at < 8; at += 1) {
      r.sender.answer({ head: responseHead(big.length), data: big, over: () => (left += 1) });
    }
    await turns(1);
    const kinds = r.outlet.messages.map((message) => message.kind);
    expect(kinds).toContain('protectedWrite');
    expect(kinds).toContain('remoteIoResponse');
    expect(kinds.filter((kind) => kind === 'protectedWrite').length).toBeLessThan(100);
    expect(kinds.filter((kind) => kind === 'remoteIoResponse').length).toBeLessThan(3);
    await turns(40);
    expect(r.outlet.messages.length).toBe(512 + 24);
    expect([left, r.sender.isIdle]).toEqual([24, true]);
  });

  it('gives an answer back once, also when the connection is gone', () => {
    const r = rig();
    let over = 0;
    r.sender.answer({ head: flushFrame(), data: undefined, over: () => (over += 1) });
    r.sender.stop();
    expect(over).toBe(1);
    r.sender.answer({ head: flushFrame(), data: undefined, over: () => (over += 1) });
    expect(over).toBe(2);
  });

  it('leaves in the queue what the socket has no room for', async () => {
    const r = rig();
    r.outlet.taking = false;
    for (let at = 0; at < 64; at += 1) r.stream.write(r.member, 0, Buffer.alloc(256 * KiB));
    await turns(40);
    expect(r.outlet.unsentBytes).toBeLessThan(2 * MiB);
    expect(r.stream.queue.isEmpty).toBe(false);
    while (!r.sender.isIdle) {
      r.outlet.take(1);
      await turns(2);
    }
    expect(r.outlet.messages.length).toBe(64);
  });

  it('tells of what goes wrong instead of throwing into the event loop', async () => {
    const faults: unknown[] = [];
    const stream = new MirrorStream(MiB, () => 1, { wake: () => {}, lost: () => {}, degraded: () => {} });
    stream.open(true);
    const sender = new StreamSender({
      outlet: {
        unsentBytes: 0,
        send: () => {
          throw new Error('broken');
        },
      },
      queue: stream.queue,
      extensions: true,
      limiter: noLimit(),
      onRoom: () => {},
      onFault: (error) => faults.push(error),
    });
    stream.flush(new Member());
    sender.wake();
    await turns();
    expect(faults).toEqual([new Error('broken')]);
  });
});

describe("with the RFC's protocol alone", () => {
  it('sends writes without stamps, zeroes as writes of zeroes, and no flush', async () => {
    const r = rig({ extensions: false });
    r.stream.write(r.member, 0, pattern(512, 1));
    expect(r.stream.flush(r.member)).toBe(0);
    r.stream.zero(r.member, 'trim', MiB, 2 * MiB + 512);
    r.stream.zero(r.member, 'writeZeroes', 0, 512);
    r.stream.failed(r.member, 512, 512);
    await turns(20);
    const writes = r.outlet.messages as ProtectedWrite[];
    expect(writes.map((write) => [write.kind, write.offset, write.length, write.status])).toEqual([
      ['protectedWrite', 0, 512, 0],
      ['protectedWrite', MiB, MiB, 0],
      ['protectedWrite', 2 * MiB, MiB, 0],
      ['protectedWrite', 3 * MiB, 512, 0],
      ['protectedWrite', 0, 512, 0],
      ['protectedWrite', 512, 512, -1],
    ]);
    for (const write of writes) expect([write.sequence, write.timeUs, write.crc32]).toEqual([0, 0, 0]);
    expect(writes[1]!.data.equals(Buffer.alloc(MiB))).toBe(true);
  });

  it('takes no memory for a trim of the whole disk, and leaves the socket its room', async () => {
    const r = rig({ extensions: false });
    r.outlet.taking = false;
    r.stream.zero(r.member, 'trim', 0, 2 ** 40);
    expect(r.stream.queue.bytes).toBe(OVERHEAD);
    await turns(50);
    expect(r.outlet.unsentBytes).toBeLessThan(3 * MiB);
    r.stream.shut();
    r.sender.stop();
    r.outlet.fail();
    expect(r.stream.queue.bytes).toBe(0);
  });

  it('gives the connection up when the queue is full: the hub could not be told', () => {
    const r = rig({ extensions: false, queueBytes: 4096 });
    expect(r.stream.write(r.member, 0, pattern(4096, 1))).toBe(0);
    expect([r.seen, r.stream.hasDegraded]).toEqual([['lost'], false]);
  });
});

describe('whatever is queued and taken, in whichever order', () => {
  it('leaves in order, within the limit, and is given back once', async () => {
    const op = fc.oneof(
      fc.integer({ min: 1, max: 40 }).map((sectors) => ({ op: 'write' as const, sectors })),
      fc.constantFrom({ op: 'trim' as const }, { op: 'flush' as const }, { op: 'turn' as const }),
      fc.integer({ min: 1, max: 3 }).map((count) => ({ op: 'take' as const, count })),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(op, { maxLength: 60 }), async (ops) => {
        const pool = new SlabPool({ poison: true });
        const limit = 64 * KiB;
        const r = rig({ queueBytes: limit });
        r.outlet.taking = false;
        const expected: Array<[number, Buffer | undefined]> = [];
        for (const [at, each] of ops.entries()) {
          if (each.op === 'turn') await settled();
          else if (each.op === 'take') r.outlet.take(each.count);
          else if (each.op === 'write') {
            const slab = pool.acquire(1);
            const data = slab.bytes.subarray(0, each.sectors * 512);
            pattern(data.length, at).copy(data);
            const copy = Buffer.from(data);
            const sequence = r.stream.write(r.member, 0, data);
            slab.release();
            if (sequence > 0) expected.push([sequence, copy]);
          } else {
            const sequence =
              each.op === 'trim' ? r.stream.zero(r.member, 'trim', 0, 512) : r.stream.flush(r.member);
            if (sequence > 0) expected.push([sequence, undefined]);
          }
          expect(r.stream.queue.bytes).toBeLessThanOrEqual(limit);
          expect(r.stream.queue.bytes).toBeGreaterThanOrEqual(0);
        }
        r.outlet.taking = true;
        r.outlet.take();
        await turns(10);
        const got = r.outlet.messages.map((message) => [
          'sequence' in message ? message.sequence : 0,
          message.kind === 'protectedWrite' ? message.data : undefined,
        ]);
        expect(got).toEqual(expected);
        expect(expected.map(([sequence]) => sequence)).toEqual(expected.map((_, at) => at + 1));
        expect([pool.liveBytes, r.stream.queue.bytes]).toEqual([0, 0]);
      }),
      { numRuns: 60 },
    );
  });
});

/** Any small frame: AGENT_SHUTDOWN. */
function flushFrame(): Buffer {
  const frame = Buffer.alloc(56);
  frame.writeUInt16LE(0x1122, 0);
  frame.writeUInt16LE(7, 2);
  frame.writeUInt32LE(0x3344, 52);
  return frame;
}

function responseHead(bytes: number): Buffer {
  const frame = flushFrame();
  frame.writeUInt16LE(6, 2);
  frame.writeUInt32LE(bytes, 4);
  return frame;
}
