// What is gathered comes out in order, and nothing that has not left is written over.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SlabPool } from '../../../src/base/buffer-pool.ts';
import { FrameGather } from '../../../src/repagent/frame-gather.ts';

const PIECES = fc.record({
  bytes: fc.integer({ min: 1, max: 9000 }),
  isCopied: fc.boolean(),
});

describe('the frame gather', () => {
  it('makes one part of pieces that follow each other, and leaves large ones where they lie', () => {
    const gather = new FrameGather(new SlabPool({ poison: true }));
    const large = Buffer.from('large');
    const put = (text: string): void => {
      const at = gather.reserve(text.length);
      gather.target.write(text, at, 'latin1');
    };
    put('ab');
    put('c');
    gather.addPart(large);
    put('d');
    const { parts, slabs } = gather.take();
    expect(parts.map(String)).toEqual(['abc', 'large', 'd']);
    expect(parts[1]).toBe(large);
    expect(slabs).toHaveLength(1);
  });

  it('keeps what was not sent, in order, and gives all memory back in the end', () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ pieces: fc.array(PIECES, { maxLength: 60 }), leaves: fc.nat(3) }), {
          maxLength: 30,
        }),
        (turns) => {
          const pool = new SlabPool({ poison: true });
          const gather = new FrameGather(pool);
          const lent: Array<{ turn: ReturnType<FrameGather['take']>; bytes: Buffer }> = [];
          let value = 0;
          const leave = (): void => {
            const oldest = lent.shift();
            if (!oldest) return;
            expect(Buffer.concat(oldest.turn.parts).equals(oldest.bytes)).toBe(true);
            for (const slab of oldest.turn.slabs) slab.release();
            if (lent.length === 0) gather.rest();
            else gather.reuse();
          };
          for (const { pieces, leaves } of turns) {
            const expected: Buffer[] = [];
            for (const { bytes, isCopied } of pieces) {
              value = (value + 1) % 251;
              const piece = Buffer.alloc(bytes, value);
              expected.push(piece);
              if (!isCopied) gather.addPart(piece);
              else {
                // The place first: it may be in other memory than the one before.
                const at = gather.reserve(bytes);
                gather.target.set(piece, at);
              }
            }
            lent.push({ turn: gather.take(), bytes: Buffer.concat(expected) });
            for (let i = 0; i < leaves; i += 1) leave();
          }
          while (lent.length > 0) leave();
          gather.rest();
          expect(pool.liveBytes).toBe(0);
        },
      ),
      { numRuns: 60 },
    );
  });

  it('uses the same memory for turns that have left, and gives back what a turn did not take', () => {
    const pool = new SlabPool({ poison: true });
    const gather = new FrameGather(pool);
    for (let i = 0; i < 1000; i += 1) {
      gather.reserve(5000);
      for (const slab of gather.take().slabs) slab.release();
      gather.reuse();
    }
    expect(pool.liveBytes + pool.freeBytes).toBeLessThanOrEqual(256 * 1024);
    gather.reserve(10);
    gather.rest();
    expect(pool.liveBytes).toBe(0);
    expect(gather.take().parts).toEqual([]);
  });
});
