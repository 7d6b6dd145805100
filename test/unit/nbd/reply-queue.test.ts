// Replies on their way out: in order, gathered, unchanged until the kernel has them, and their memory given back.
import { describe, expect, it } from 'vitest';
import { SlabPool } from '../../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { GATHER_BYTES } from '../../../src/nbd/limits.ts';
import { ReplyQueue } from '../../../src/nbd/reply-queue.ts';
import { SlabTally } from '../../../src/nbd/slab-tally.ts';
import { RequestHeader } from '../../../src/nbdwire/request.ts';

class Outlet {
  readonly pool = new SlabPool({ poison: true });
  /** What each send carried. */
  readonly sends: Buffer[][] = [];
  readonly queue = new ReplyQueue(this.pool, new SlabTally(), (chunks) => this.sends.push([...chunks]));

  /** The kernel takes everything. @returns the bytes, as they are when it does */
  takeAll(): Buffer {
    this.queue.flush();
    const chunks = this.sends.splice(0).flat();
    const bytes = Buffer.concat(chunks);
    for (const _chunk of chunks) this.queue.sent();
    return bytes;
  }
}

/** Any request with this cookie. */
function to(cookie: number): RequestHeader {
  const request = new RequestHeader();
  request.cookieLow = cookie;
  return request;
}

function header(cookie: number, error = 0): string {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt32BE(0x67446698);
  bytes.writeUInt32BE(error, 4);
  bytes.writeUInt32BE(cookie, 12);
  return bytes.toString('hex');
}

describe('the reply queue', () => {
  it('sends many small replies as one chunk, and rests without memory', () => {
    const { queue, sends, pool } = new Outlet();
    for (let i = 0; i < 100; i += 1) queue.addError(to(i), i % 3, '');
    expect(sends).toEqual([]);
    expect(queue.unsentBytes).toBe(1600);
    queue.flush();
    queue.flush();
    expect(sends.map((chunks) => chunks.map((chunk) => chunk.length))).toEqual([[1600]]);
    expect(sends[0]![0]!.toString('hex', 32, 48)).toBe(header(2, 2));
    queue.sent();
    expect(queue.unsentBytes).toBe(0);
    expect(pool.liveBytes).toBe(0);
  });

  it('puts READ data behind its header without a copy', () => {
    const outlet = new Outlet();
    outlet.queue.addDone(to(1));
    const target = outlet.queue.openRead(4 * KiB);
    target.fill(7);
    outlet.queue.commitRead(to(2));
    outlet.queue.addDone(to(3));
    const bytes = outlet.takeAll();
    expect(bytes.toString('hex', 0, 32)).toBe(header(1) + header(2));
    expect(bytes.subarray(32, 32 + 4 * KiB).every((byte) => byte === 7)).toBe(true);
    expect(bytes.toString('hex', 32 + 4 * KiB)).toBe(header(3));
  });

  it('gives a large READ a slab of its own size', () => {
    const outlet = new Outlet();
    outlet.queue.openRead(4 * MiB).fill(9);
    expect(outlet.pool.liveBytes).toBe(4 * MiB);
    outlet.queue.commitRead(to(1));
    const bytes = outlet.takeAll();
    expect(bytes.length).toBe(4 * MiB + 16);
    expect(bytes.toString('hex', 0, 17)).toBe(`${header(1)}09`);
    expect(outlet.pool.liveBytes).toBe(0);
  });

  it.each([4 * KiB, 1 * MiB])('uses the memory of a READ of %i that failed for what comes next', (length) => {
    const outlet = new Outlet();
    outlet.queue.openRead(length).fill(9);
    outlet.queue.dropRead();
    outlet.queue.addError(to(1), 5, '');
    expect(outlet.takeAll().toString('hex')).toBe(header(1, 5));
    expect(outlet.pool.liveBytes).toBe(0);
  });

  it.each([512, 4 * KiB, 1 * MiB])('keeps READs of %i that are answered later, in any order', (length) => {
    const outlet = new Outlet();
    const { queue } = outlet;
    queue.addDone(to(100));
    const reads = [1, 2, 3].map((cookie) => {
      const target = queue.openRead(length);
      return { cookie, target, read: queue.detachRead() };
    });
    queue.addDone(to(101));
    expect(outlet.takeAll().toString('hex')).toBe(header(100) + header(101));
    for (const index of [2, 0]) {
      const { cookie, target, read } = reads[index]!;
      target.fill(cookie);
      queue.attachRead(read, to(cookie));
    }
    reads[1]!.read.slab.release();
    queue.addError(to(2), 5, '');
    const bytes = outlet.takeAll();
    const data = (cookie: number) => header(cookie) + Buffer.alloc(length, cookie).toString('hex');
    expect(bytes.toString('hex') === data(3) + data(1) + header(2, 5)).toBe(true);
    expect(outlet.pool.liveBytes).toBe(0);
  });

  it('sends replies in the order in which they were completed', () => {
    const outlet = new Outlet();
    outlet.queue.openRead(512).fill(1);
    const read = outlet.queue.detachRead();
    outlet.queue.addDone(to(2));
    outlet.queue.attachRead(read, to(1));
    outlet.queue.addDone(to(3));
    const expected = header(2) + header(1) + Buffer.alloc(512, 1).toString('hex') + header(3);
    expect(outlet.takeAll().toString('hex')).toBe(expected);
  });

  it('does not wait for the end of the pass when much is waiting', () => {
    const { queue, sends } = new Outlet();
    for (let i = 0; i < 20; i += 1) {
      queue.openRead(64 * KiB);
      queue.commitRead(to(i));
    }
    expect(sends.length).toBeGreaterThanOrEqual(3);
    for (const chunks of sends) {
      const bytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
      expect(bytes).toBeGreaterThanOrEqual(GATHER_BYTES);
    }
  });

  it('changes no byte that was sent and not taken, while more is added and sent', () => {
    const outlet = new Outlet();
    const { queue, sends } = outlet;
    for (let i = 0; i < 200; i += 1) {
      queue.openRead(1000).fill(i);
      queue.commitRead(to(i));
      if (i % 7 === 0) queue.flush();
      if (i % 50 === 49) expect(queue.unsentBytes).toBe((i + 1) * 1016);
    }
    queue.flush();
    const bytes = Buffer.concat(sends.flat());
    for (let i = 0; i < 200; i += 1) {
      expect(bytes.toString('hex', i * 1016, i * 1016 + 16)).toBe(header(i));
      expect(bytes.subarray(i * 1016 + 16, (i + 1) * 1016).every((byte) => byte === i)).toBe(true);
    }
    for (const _chunk of sends.flat()) queue.sent();
    expect(outlet.pool.liveBytes).toBe(0);
  });

  it('gives everything back when the socket dies, and takes nothing more', () => {
    const { queue, pool, sends } = new Outlet();
    queue.openRead(4 * KiB);
    const early = queue.detachRead();
    queue.openRead(1 * MiB);
    const large = queue.detachRead();
    queue.addDone(to(1));
    queue.flush();
    queue.addDone(to(2));
    queue.close();
    sends.length = 0;
    queue.attachRead(early, to(3));
    queue.attachRead(large, to(4));
    queue.addDone(to(5));
    queue.flush();
    expect(sends).toEqual([]);
    expect(pool.liveBytes).toBe(0);
  });

  it('says so when a chunk is taken that was never sent', () => {
    expect(() => new Outlet().queue.sent()).toThrow('never sent');
  });
});
