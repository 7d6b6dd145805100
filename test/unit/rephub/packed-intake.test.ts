// What the hub takes of PACKED: only what was agreed on, in order, and so much in one pass.
import { brotliCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { KiB } from '../../../src/base/limits.ts';
import { PackedIntake } from '../../../src/rephub/packed-intake.ts';
import { FEATURE_BROTLI, FEATURE_PAIRING } from '../../../src/repwire/constants.ts';
import * as encode from '../../../src/repwire/encode.ts';
import type { Packed } from '../../../src/repwire/messages.ts';

function packedWrite(bytes: number): Packed {
  const data = Buffer.alloc(bytes, 'a row of a table; ');
  const head = encode.encodeProtectedWrite(1n, 0, bytes, 0, { sequence: 1, timeUs: 1 }, data);
  const content = Buffer.concat([head, data]);
  return { kind: 'packed', codec: 'brotli', contentBytes: content.length, data: brotliCompressSync(content) };
}

const small = packedWrite(300 * KiB);
const large = packedWrite(2048 * KiB);

interface Rig {
  readonly intake: PackedIntake;
  readonly taken: number[];
  readonly errors: unknown[];
}

function rig(features = FEATURE_BROTLI): Rig {
  const taken: number[] = [];
  const errors: unknown[] = [];
  const intake = new PackedIntake({
    atOnceBytes: 512 * KiB,
    handle: (message) => {
      taken.push('data' in message ? message.data.length : 0);
      return true;
    },
    later: (take) => {
      try {
        take();
      } catch (error) {
        errors.push(error);
      }
    },
  });
  intake.agree(features);
  intake.passBegins();
  return { intake, taken, errors };
}

describe('the intake of packed frames', () => {
  it('refuses what the agent did not say that it may send', () => {
    for (const message of [small, large]) {
      const { intake, taken } = rig(FEATURE_PAIRING);
      expect(() => intake.take(message)).toThrow(/brotli, of which the agent's HELLO did not speak/);
      expect(taken).toEqual([]);
    }
  });

  it('ends a pass that unpacks much, and lets others have their turn first', async () => {
    const { intake, taken } = rig();
    for (let i = 0; i < 3; i += 1) expect(intake.take(small)).toBeUndefined();
    let others = false;
    setImmediate(() => {
      others = true;
    });
    const end = intake.take(small);
    expect(end).toBeInstanceOf(Promise);
    expect(taken).toHaveLength(4);
    await end;
    expect(others).toBe(true);
    intake.passBegins();
    expect(intake.take(small)).toBeUndefined();
  });

  it('unpacks what is large beside the event loop, and keeps the packed bytes for so long', async () => {
    const { intake, taken, errors } = rig();
    const slab = sharedPool.acquire(large.data.length);
    const data = slab.bytes.subarray(0, large.data.length);
    large.data.copy(data);
    const end = intake.take({ ...large, data });
    expect([taken, slab.references]).toEqual([[], 2]);
    await end;
    expect([taken, errors, slab.references]).toEqual([[2048 * KiB], [], 1]);
    slab.release();
  });

  it('tells what is wrong with a large one, and takes nothing of it', async () => {
    const { intake, taken, errors } = rig();
    await intake.take({ ...large, contentBytes: large.contentBytes + 1 });
    await intake.take({ ...large, data: Buffer.alloc(100, 0xff) });
    expect([taken, errors.map(String)]).toEqual([
      [],
      [
        expect.stringContaining(`PACKED holds ${large.contentBytes} bytes`),
        expect.stringContaining("PACKED can't be unpacked"),
      ],
    ]);
  });
});
