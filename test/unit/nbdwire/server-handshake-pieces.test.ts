// However a conversation is cut into pieces, the handshake answers the same; and no bytes make it fail otherwise than
// by its outcome.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MiB } from '../../../src/base/limits.ts';
import type { ExportInfo } from '../../../src/nbdwire/server-exports.ts';
import { MAX_OPTION_BYTES } from '../../../src/nbdwire/server-handshake.ts';
import { directory, Talk } from '../../support/handshake-talk.ts';
import { cutAt } from '../../support/play-session.ts';
import { clientFlagsBytes, infoData, optionBytes } from '../../support/raw-nbd-client.ts';

const DISK: ExportInfo = {
  name: 'disk',
  description: 'a disk',
  sizeBytes: 1 * MiB,
  transmissionFlags: 1,
  minBlockBytes: 1,
  preferredBlockBytes: 4096,
  contexts: ['base:allocation'],
  maxPayloadBytes: 32 * MiB,
};

interface Result {
  readonly output: string;
  readonly outcome: unknown;
  readonly unused: string;
}

function converse(pieces: readonly Buffer[]): Result {
  const talk = new Talk(directory([DISK]));
  for (const piece of pieces) talk.say(piece);
  return {
    output: talk.take().toString('hex'),
    outcome: talk.outcome,
    unused: talk.unused.toString('hex'),
  };
}

const name = fc.constantFrom('disk', '', 'nope', 'x'.repeat(5000));
const option = fc.oneof(
  fc
    .tuple(fc.constantFrom(6, 7), name, fc.array(fc.nat(5), { maxLength: 6 }), fc.boolean())
    .map(([type, text, wanted, lies]) => optionBytes(type, infoData(text, wanted, lies ? 3 : undefined))),
  fc.constant(optionBytes(3)),
  fc
    .tuple(fc.constantFrom(3, 4, 5, 8, 9, 10, 99), fc.uint8Array({ maxLength: 200 }))
    .map(([type, data]) => optionBytes(type, Buffer.from(data))),
  fc.constant(optionBytes(6, Buffer.alloc(MAX_OPTION_BYTES + 5))),
  fc.constantFrom(optionBytes(2), optionBytes(1, Buffer.from('disk')), optionBytes(1, Buffer.from('nope'))),
  fc.uint8Array({ maxLength: 40 }).map((junk) => Buffer.from(junk)),
);
const conversation = fc
  .tuple(fc.constantFrom(3, 3, 3, 1, 0, 9), fc.array(option, { maxLength: 6 }))
  .map(([flags, options]) => Buffer.concat([clientFlagsBytes(flags), ...options]));

describe('a conversation in pieces', () => {
  it('is answered as the whole one is', () => {
    fc.assert(
      fc.property(conversation, fc.array(fc.nat(100_000), { maxLength: 8 }), (bytes, cuts) => {
        expect(converse(cutAt(bytes, cuts))).toEqual(converse([bytes]));
      }),
      { numRuns: 300 },
    );
  });

  it('is answered byte by byte as the whole one is', () => {
    const short = conversation.filter((bytes) => bytes.length < 1000);
    fc.assert(
      fc.property(short, (bytes) => {
        const single = Array.from(bytes, (_byte, i) => bytes.subarray(i, i + 1));
        expect(converse(single)).toEqual(converse([bytes]));
      }),
      { numRuns: 50 },
    );
  });

  it('can hold any junk', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), fc.boolean(), (junk, polite) => {
        const hello = polite ? clientFlagsBytes() : Buffer.alloc(0);
        const result = converse([Buffer.concat([hello, Buffer.from(junk)])]);
        if (junk.length >= 20 || (polite && junk.length >= 16)) expect(result.outcome).toBeDefined();
      }),
      { numRuns: 300 },
    );
  });
});
