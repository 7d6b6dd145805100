import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SlabPool } from '../../../src/base/buffer-pool.ts';
import { type ByteConsumer, ReceiveBuffer } from '../../../src/transport/receive-buffer.ts';

/** Reads units of one length byte (u16) and that many bytes; stops after a unit that starts with 'S'. */
class Units implements ByteConsumer {
  readonly seen: string[] = [];
  stopOn: string | undefined;
  wantBytes = 2;

  consume(bytes: Buffer): number {
    let at = 0;
    this.wantBytes = 2;
    while (bytes.length - at >= 2) {
      const unit = 2 + bytes.readUInt16LE(at);
      if (bytes.length - at < unit) {
        this.wantBytes = unit;
        break;
      }
      const text = bytes.toString('latin1', at + 2, at + unit);
      this.seen.push(text);
      at += unit;
      if (text === this.stopOn) break;
    }
    return at;
  }
}

function encode(units: readonly string[]): Buffer {
  return Buffer.concat(
    units.map((unit) => {
      const head = Buffer.alloc(2);
      head.writeUInt16LE(unit.length);
      return Buffer.concat([head, Buffer.from(unit, 'latin1')]);
    }),
  );
}

describe('ReceiveBuffer', () => {
  test('units come out the same however the bytes are cut, and every slab goes back', () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: 'grapheme-ascii', maxLength: 300 }), { maxLength: 30 }),
        fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 50 }),
        (units, cuts) => {
          const pool = new SlabPool({ poison: true });
          const consumer = new Units();
          const received = new ReceiveBuffer(pool, consumer);
          const stream = encode(units);
          for (let at = 0, i = 0; at < stream.length; i += 1) {
            const end = Math.min(stream.length, at + cuts[i % cuts.length]!);
            received.push(Buffer.from(stream.subarray(at, end)));
            at = end;
          }
          expect(consumer.seen).toEqual(units);
          expect(received.pendingBytes).toBe(0);
          expect(pool.liveBytes).toBe(0);
        },
      ),
    );
  });

  test('what a stopped consumer left is kept, held bytes follow, and drain goes on', () => {
    const pool = new SlabPool({ poison: true });
    const consumer = new Units();
    consumer.stopOn = 'stop';
    const received = new ReceiveBuffer(pool, consumer);
    received.push(encode(['a', 'stop', 'b']));
    received.hold(encode(['c']));
    expect(consumer.seen).toEqual(['a', 'stop']);
    received.drain();
    expect(consumer.seen).toEqual(['a', 'stop', 'b', 'c']);
    expect(pool.liveBytes).toBe(0);
  });

  test('a unit larger than any chunk is joined once, in a slab of its size', () => {
    const pool = new SlabPool();
    const consumer = new Units();
    const received = new ReceiveBuffer(pool, consumer);
    const stream = encode(['x'.repeat(60_000)]);
    for (let at = 0; at < stream.length; at += 1000) received.push(stream.subarray(at, at + 1000));
    expect(consumer.seen[0]).toHaveLength(60_000);
    expect(pool.liveBytes).toBe(0);
  });

  test('clear gives the slab back even in the middle of a unit', () => {
    const pool = new SlabPool();
    const received = new ReceiveBuffer(pool, new Units());
    received.push(encode(['abc']).subarray(0, 3));
    expect(pool.liveBytes).toBeGreaterThan(0);
    received.clear();
    expect(pool.liveBytes).toBe(0);
  });
});
