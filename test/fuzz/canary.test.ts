// Bugs put in on purpose, each breaking one rule that the fuzzer watches. It must find every one, or it watches nothing.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import { BlockError } from '../../src/base/errors.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';
import { expectFaultless, type Seam, staging } from './arena.ts';
import { grammarSession } from './grammar.ts';
import { FUZZ_TIMEOUT_MS } from './settings.ts';

/** Enough for the rarest of them, many times over. */
const MAX_RUNS = 3000;
const SEED = 7;
const SIMPLE_REPLY = Buffer.from('67446698', 'hex');

/** A disk on which one kind of call is done wrong. */
class WrongDevice extends PassThrough {
  override read(offset: number, target: Buffer) {
    const answer = super.read(offset, target);
    // The last byte of a read of an odd number of bytes.
    if (target.length % 2 === 1) target[target.length - 1]! ^= 1;
    return answer;
  }
}

class RefusingDevice extends PassThrough {
  override write(offset: number, data: Buffer, fua: boolean) {
    if (offset === 4 * 1024 * 1024 - 512) throw new BlockError('EIO', 'the last sector');
    return super.write(offset, data, fua);
  }
}

class ForgetfulDevice extends PassThrough {
  override trim(offset: number, length: number, fua: boolean) {
    return length <= 4096 ? undefined : super.trim(offset, length, fua);
  }
}

function withoutOneReply(output: Buffer): Buffer {
  const at = output.lastIndexOf(SIMPLE_REPLY);
  // Only with an error that is not the first reply: a rare thing.
  if (at < 16 || output.readUInt32BE(at + 4) !== 28) return output;
  return Buffer.concat([output.subarray(0, at), output.subarray(at + 16)]);
}

function twice(output: Buffer): Buffer {
  const at = output.lastIndexOf(SIMPLE_REPLY);
  if (at === -1 || output.readUInt32BE(at + 4) !== 1) return output;
  return Buffer.concat([output.subarray(0, at), output.subarray(at, at + 16), output.subarray(at)]);
}

/** Loses the last byte of an arrival: the server is out of step from there on. */
const losesByte: Seam['arrive'] = (_engine, bytes) =>
  bytes.length % 997 === 0 ? bytes.subarray(0, -1) : bytes;

const CANARIES: ReadonlyArray<readonly [what: string, seam: Seam, fault: RegExp]> = [
  ['a read with a wrong last byte', { device: (below) => new WrongDevice(below) }, /other data/],
  ['a write refused that is fine', { device: (below) => new RefusingDevice(below) }, /error 5, not 0/],
  ['a trim that does nothing', { device: (below) => new ForgetfulDevice(below) }, /other data/],
  ['a request never answered', { output: withoutOneReply }, /never answered/],
  ['a request answered twice', { output: twice }, /answers nothing|out of order/],
  ['a byte that is lost', { arrive: losesByte }, /./],
  [
    'an exception',
    {
      arrive: (_engine, bytes) => {
        if (bytes.includes('IHAVEOPT\0\0\0\x03', 0, 'latin1') && bytes.length < 60)
          throw new RangeError('canary');
        return bytes;
      },
    },
    /canary/,
  ],
  [
    'memory that is not given back',
    {
      arrive: (_engine, bytes) => {
        if (bytes.length > 4096) sharedPool.acquire(1);
        return bytes;
      },
    },
    /for ever/,
  ],
  [
    'memory beyond the limit',
    {
      arrive: (engine, bytes) => {
        if (bytes.length > 4096) hold(engine.output().length);
        return bytes;
      },
    },
    /held/,
  ],
];

/** Takes half a GiB of address space, and gives it back when the run is over. */
function hold(_length: number): void {
  const slab = sharedPool.acquire(512 * 1024 * 1024);
  setImmediate(() => slab.release());
}

it.each(CANARIES)(
  'finds %s',
  async (_what, seam, fault) => {
    const property = fc.asyncProperty(grammarSession, staging, async (client, how) => {
      await expectFaultless(client, how, seam);
    });
    const details = await fc.check(property, { seed: SEED, numRuns: MAX_RUNS, endOnFailure: true });
    expect(details.failed, `found nothing in ${details.numRuns} runs`).toBe(true);
    expect(String(details.errorInstance)).toMatch(fault);
  },
  FUZZ_TIMEOUT_MS,
);

it('finds nothing where there is nothing', async () => {
  const property = fc.asyncProperty(grammarSession, staging, async (client, how) => {
    await expectFaultless(client, how);
  });
  await fc.assert(property, { seed: SEED, numRuns: 300 });
});
