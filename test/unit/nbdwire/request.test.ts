// The fast request and reply codecs against the layouts that documentation shows.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  NBD_REQUEST_BYTES,
  NBD_REQUEST_MAGIC,
  NBD_SIMPLE_REPLY_BYTES,
} from '../../../src/nbdwire/constants.ts';
import { encodeSimpleReply, simpleReplyStruct } from '../../../src/nbdwire/reply.ts';
import { decodeRequest, RequestHeader, requestStruct } from '../../../src/nbdwire/request.ts';
import { requestBytes } from '../../support/raw-nbd-client.ts';

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

describe('the request codec', () => {
  it('has the sizes of the spec', () => {
    expect(requestStruct.sizeBytes).toBe(NBD_REQUEST_BYTES);
    expect(simpleReplyStruct.sizeBytes).toBe(NBD_SIMPLE_REPLY_BYTES);
  });

  it('decodes what the layout encodes, wherever it lies', () => {
    const fields = fc.record({ flags: u16, type: u16, cookie: u64, offset: u64, length: u32 });
    fc.assert(
      fc.property(fields, fc.nat(40), (value, at) => {
        const bytes = Buffer.alloc(at + 40, 0xee);
        requestStruct.encodeInto({ magic: NBD_REQUEST_MAGIC, ...value }, bytes, at);
        const request = new RequestHeader();
        expect(decodeRequest(bytes, at, request)).toBe(true);
        expect(request.flags).toBe(value.flags);
        expect(request.type).toBe(value.type);
        expect((BigInt(request.cookieHigh) << 32n) + BigInt(request.cookieLow)).toBe(value.cookie);
        expect(request.length).toBe(value.length);
        // Exact as far as a disk can reach; beyond, never less than the largest disk.
        if (value.offset <= BigInt(Number.MAX_SAFE_INTEGER))
          expect(BigInt(request.offset)).toBe(value.offset);
        else expect(request.offset).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
      }),
    );
  });

  it('keeps no offset from 2^53 on inside a disk', () => {
    for (const offset of [2n ** 53n, 2n ** 53n + 1n, 2n ** 63n, 2n ** 64n - 1n]) {
      const request = new RequestHeader();
      decodeRequest(requestBytes({ type: 0, offset, length: 1 }), 0, request);
      expect(request.offset).toBeGreaterThanOrEqual(2 ** 53);
    }
  });

  it('refuses any other magic', () => {
    fc.assert(
      fc.property(u32, (magic) => {
        const known = decodeRequest(requestBytes({ type: 0, magic }), 0, new RequestHeader());
        expect(known).toBe(magic === NBD_REQUEST_MAGIC);
      }),
    );
    expect(decodeRequest(requestBytes({ type: 0, magic: 0x12560953 }), 0, new RequestHeader())).toBe(false);
  });

  it('encodes replies as the layout does', () => {
    fc.assert(
      fc.property(u32, u64, fc.nat(8), (error, cookie, at) => {
        const bytes = Buffer.alloc(at + 16, 0xee);
        encodeSimpleReply(bytes, at, error, Number(cookie >> 32n), Number(cookie & 0xffffffffn));
        expect(simpleReplyStruct.decode(bytes, at)).toEqual({ magic: 0x67446698, error, cookie });
        expect(bytes.subarray(0, at).every((byte) => byte === 0xee)).toBe(true);
      }),
    );
  });

  it('shows a request by its name', () => {
    const request = new RequestHeader();
    decodeRequest(requestBytes({ type: 6, flags: 2, offset: 4096, length: 512 }), 0, request);
    expect(String(request)).toBe('WRITE_ZEROES flags=2 offset=4096 length=512');
  });
});
