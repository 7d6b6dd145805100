// Request headers, against the layout that the server reads them with.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  disconnectRequest,
  encodeExtendedRequest,
  encodeRequest,
} from '../../../src/nbdwire/client-requests.ts';
import {
  NBD_CMD,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_BYTES,
  NBD_REQUEST_MAGIC,
} from '../../../src/nbdwire/constants.ts';
import { requestStruct } from '../../../src/nbdwire/request.ts';
import { extendedRequestStruct } from '../../../src/nbdwire/structured-layouts.ts';

it('writes the bytes of the specification', () => {
  const bytes = Buffer.alloc(30, 0xee);
  encodeRequest(bytes, 1, NBD_CMD.WRITE, 1, 0x01020304, 0xfffefdfc, 0x0011_2233_4455_6677, 0x8000_0000);
  expect(bytes.toString('hex')).toBe('ee25609513000100010102030' + '4fffefdfc001122334455667780000000ee');
});

it('agrees with the layout for all values', () => {
  const u32 = fc.nat({ max: 2 ** 32 - 1 });
  fc.assert(
    fc.property(
      fc.nat(8),
      fc.nat(0xffff),
      u32,
      u32,
      fc.maxSafeNat(),
      u32,
      (type, flags, high, low, offset, length) => {
        const bytes = Buffer.alloc(NBD_REQUEST_BYTES);
        encodeRequest(bytes, 0, type, flags, high, low, offset, length);
        expect(requestStruct.decode(bytes)).toEqual({
          magic: NBD_REQUEST_MAGIC,
          flags,
          type,
          cookie: BigInt(high) * 2n ** 32n + BigInt(low),
          offset: BigInt(offset),
          length,
        });
      },
    ),
  );
});

it('disconnects with a request of zeroes', () => {
  for (const [extended, layout] of [
    [false, requestStruct],
    [true, extendedRequestStruct],
  ] as const) {
    const zeroes = extended
      ? { type: NBD_CMD.DISC, offset: 0n, length: 0n }
      : { type: NBD_CMD.DISC, length: 0 };
    expect(layout.decode(disconnectRequest(extended))).toMatchObject(zeroes);
  }
});

it('encodes an extended request as its layout says, announcing the payload of a WRITE', () => {
  const number = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
  fc.assert(
    fc.property(fc.nat(8), fc.nat(16), number, number, (type, flags, offset, length) => {
      const bytes = Buffer.alloc(40, 0xee);
      encodeExtendedRequest(bytes, 4, type, flags, 7, 9, offset, length);
      expect(bytes.readUInt32BE(0)).toBe(0xeeeeeeee);
      expect(bytes.readUInt32BE(36)).toBe(0xeeeeeeee);
      expect(extendedRequestStruct.decode(bytes, 4)).toEqual({
        magic: NBD_EXTENDED_REQUEST_MAGIC,
        flags: type === NBD_CMD.WRITE ? flags | NBD_CMD_FLAG_PAYLOAD_LEN : flags,
        type,
        cookie: 7n * 2n ** 32n + 9n,
        offset: BigInt(offset),
        length: BigInt(length),
      });
    }),
  );
});
