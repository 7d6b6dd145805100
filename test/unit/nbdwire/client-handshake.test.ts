// The client's handshake as bytes: every path, cut at every byte, and the servers that lie.
import { describe, expect, it } from 'vitest';
import { GiB } from '../../../src/base/limits.ts';
import { HandshakeError, type HandshakeErrorKind } from '../../../src/nbdwire/client-error.ts';
import {
  ClientHandshake,
  MAX_INFO_REPLIES,
  MAX_OPTION_REPLY_BYTES,
} from '../../../src/nbdwire/client-handshake.ts';
import { NBD_FLAG_SEND_DF, NBD_INFO, NBD_OPT, NBD_REP, NBD_REP_ERR } from '../../../src/nbdwire/constants.ts';
import { ServerHandshake } from '../../../src/nbdwire/server-handshake.ts';

const SIZE = 1n << 30n;
const FLAGS = 0x6d;

// Written out here, and not with the layouts under test.
const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 0xff]);
const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
const u64 = (value: bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
};
const join = (...parts: Buffer[]): Buffer => Buffer.concat(parts);

const GREETING = Buffer.from('NBDMAGICIHAVEOPT');
const reply = (option: number, type: number, data: Buffer = Buffer.alloc(0), length = data.length): Buffer =>
  join(Buffer.from('0003e889045565a9', 'hex'), u32(option), u32(type), u32(length), data);
const bareGreeting = (flags = 3): Buffer => join(GREETING, u16(flags));
/** Of a server that has GO and nothing newer. */
const greeting = (flags = 3): Buffer =>
  (flags & 1) === 0 ? bareGreeting(flags) : join(bareGreeting(flags), deny(11), deny(8));
const deny = (id: number, type = NBD_REP_ERR.UNSUP): Buffer => reply(id, type);
const grant = (id: number): Buffer => reply(id, NBD_REP.ACK);
const context = (id: number, name = 'base:allocation'): Buffer =>
  reply(NBD_OPT.SET_META_CONTEXT, NBD_REP.META_CONTEXT, join(u32(id), Buffer.from(name)));
const infoExport = (size = SIZE, flags = FLAGS): Buffer =>
  reply(NBD_OPT.GO, NBD_REP.INFO, join(u16(0), u64(size), u16(flags)));
const infoBlockSize = (min: number, preferred: number, max: number): Buffer =>
  reply(NBD_OPT.GO, NBD_REP.INFO, join(u16(3), u32(min), u32(preferred), u32(max)));
const ack = (): Buffer => reply(NBD_OPT.GO, NBD_REP.ACK);
const refuse = (type: number, words = ''): Buffer => reply(NBD_OPT.GO, type, Buffer.from(words));

const option = (id: number, data: Buffer): Buffer =>
  join(Buffer.from('IHAVEOPT'), u32(id), u32(data.length), data);
const go = (name: string): Buffer =>
  option(NBD_OPT.GO, join(u32(Buffer.byteLength(name)), Buffer.from(name), u16(1), u16(NBD_INFO.BLOCK_SIZE)));

const none = Buffer.alloc(0);
const withContext = (bytes: Buffer): Buffer => join(bareGreeting(), grant(11), bytes);
/** What is asked for on the way to GO, and refused by a server that knows none of it. */
const newer = join(option(NBD_OPT.EXTENDED_HEADERS, none), option(NBD_OPT.STRUCTURED_REPLY, none));
const setContext = (name: string): Buffer =>
  option(
    NBD_OPT.SET_META_CONTEXT,
    join(
      ...[u32(Buffer.byteLength(name)), Buffer.from(name), u32(1)],
      ...[u32('base:allocation'.length), Buffer.from('base:allocation')],
    ),
  );

interface Talk {
  readonly handshake: ClientHandshake;
  readonly sent: () => Buffer;
}

function talk(exportName = 'disk', tls = false): Talk {
  const sent: Buffer[] = [];
  return {
    handshake: new ClientHandshake({ exportName, tls }, (bytes) => sent.push(bytes)),
    sent: () => join(...sent),
  };
}

/** Feeds `bytes` in pieces of `size`. Returns how many were used. */
function feed(handshake: ClientHandshake, bytes: Buffer, size: number): number {
  let used = 0;
  for (let at = 0; at < bytes.length; at += size) used += handshake.push(bytes.subarray(at, at + size));
  return used;
}

function failure(handshake: ClientHandshake, bytes: Buffer, size = bytes.length): HandshakeError {
  try {
    feed(handshake, bytes, size);
  } catch (error) {
    expect(error).toBeInstanceOf(HandshakeError);
    expect(handshake.state).toBe('failed');
    expect(handshake.result).toBeUndefined();
    return error as HandshakeError;
  }
  return expect.fail('the handshake did not fail');
}

const EXPORT = {
  sizeBytes: GiB,
  flags: FLAGS,
  minBlockBytes: 512,
  preferredBlockBytes: 4096,
  maxPayloadBytes: 32 * 1024 * 1024,
};
const SIMPLE = { ...EXPORT, style: 'simple', allocationId: undefined };
const { EXTENDED_HEADERS, STRUCTURED_REPLY, SET_META_CONTEXT } = NBD_OPT;

describe('ClientHandshake', () => {
  const conversations: Array<[string, Buffer, Buffer, object]> = [
    ['GO', join(greeting(), infoExport(), ack()), join(u32(3), newer, go('disk')), SIMPLE],
    [
      'GO with block sizes before the export, and information it has no use for',
      join(
        greeting(),
        infoBlockSize(4096, 65536, 1 << 20),
        reply(NBD_OPT.GO, NBD_REP.INFO, join(u16(NBD_INFO.DESCRIPTION), Buffer.alloc(4096, 'x'))),
        reply(NBD_OPT.GO, NBD_REP.INFO, u16(999)),
        infoExport(),
        ack(),
      ),
      join(u32(3), newer, go('disk')),
      { ...SIMPLE, minBlockBytes: 4096, preferredBlockBytes: 65536, maxPayloadBytes: 1 << 20 },
    ],
    [
      'EXPORT_NAME after GO was not known, forgetting what was said before',
      join(greeting(), infoBlockSize(4096, 4096, 4096), refuse(NBD_REP_ERR.UNSUP), u64(SIZE), u16(FLAGS)),
      join(u32(3), newer, go('disk'), option(NBD_OPT.EXPORT_NAME, Buffer.from('disk'))),
      SIMPLE,
    ],
    [
      'EXPORT_NAME with its zeroes, from a server that knows nothing newer',
      join(greeting(1), refuse(NBD_REP_ERR.UNSUP, 'eh?'), u64(SIZE), u16(FLAGS), Buffer.alloc(124)),
      join(u32(1), newer, go('disk'), option(NBD_OPT.EXPORT_NAME, Buffer.from('disk'))),
      SIMPLE,
    ],
    [
      'newstyle that is not fixed',
      join(greeting(0), u64(SIZE), u16(FLAGS), Buffer.alloc(124)),
      join(u32(0), option(NBD_OPT.EXPORT_NAME, Buffer.from('disk'))),
      SIMPLE,
    ],
    [
      'extended headers, with allocation',
      join(
        ...[bareGreeting(), grant(EXTENDED_HEADERS), context(7), grant(SET_META_CONTEXT)],
        ...[infoExport(), ack()],
      ),
      join(u32(3), option(EXTENDED_HEADERS, none), setContext('disk'), go('disk')),
      { ...SIMPLE, style: 'extended', allocationId: 7 },
    ],
    [
      'structured replies, with allocation under an id that is 0',
      join(
        ...[bareGreeting(), deny(EXTENDED_HEADERS), grant(STRUCTURED_REPLY), context(0)],
        ...[grant(SET_META_CONTEXT), infoExport(), ack()],
      ),
      join(u32(3), newer, setContext('disk'), go('disk')),
      { ...SIMPLE, style: 'structured', allocationId: 0 },
    ],
    [
      'structured replies from a server without allocation',
      join(
        ...[bareGreeting(), deny(EXTENDED_HEADERS, NBD_REP_ERR.POLICY), grant(STRUCTURED_REPLY)],
        ...[grant(SET_META_CONTEXT), infoExport(), ack()],
      ),
      join(u32(3), newer, setContext('disk'), go('disk')),
      { ...SIMPLE, style: 'structured', allocationId: undefined },
    ],
    [
      'a context that was taken back by an error',
      join(
        ...[bareGreeting(), deny(EXTENDED_HEADERS), grant(STRUCTURED_REPLY), context(3)],
        ...[deny(SET_META_CONTEXT, NBD_REP_ERR.UNKNOWN), infoExport(), ack()],
      ),
      join(u32(3), newer, setContext('disk'), go('disk')),
      { ...SIMPLE, style: 'structured', allocationId: undefined },
    ],
  ];

  for (const [name, bytes, answer, result] of conversations) {
    it(`agrees on an export: ${name}, whole, in pieces and byte by byte`, () => {
      for (const size of [bytes.length, 1, 2, 3, 7, 17, 100]) {
        const { handshake, sent } = talk();
        expect(feed(handshake, bytes, size)).toBe(bytes.length);
        expect(handshake.state).toBe('done');
        expect(handshake.result).toEqual(result);
        expect(sent().equals(answer), `answer, in pieces of ${size}`).toBe(true);
      }
    });

    it(`is not done before the last byte: ${name}`, () => {
      for (let cut = 0; cut < bytes.length; cut += 1) {
        const { handshake } = talk();
        handshake.push(bytes.subarray(0, cut));
        expect(handshake.result).toBeUndefined();
        expect(handshake.ended()).toBeInstanceOf(HandshakeError);
      }
    });
  }

  it('leaves alone what follows the handshake', () => {
    const bytes = join(greeting(), infoExport(), ack());
    const { handshake } = talk();
    expect(handshake.push(join(bytes, Buffer.from('more')))).toBe(bytes.length);
    expect(handshake.push(Buffer.from('more'))).toBe(0);
  });

  it('asks for the default export, and for names that are not ASCII', () => {
    for (const name of ['', 'größe/ディスク', 'a'.repeat(4096)]) {
      const { handshake, sent } = talk(name);
      handshake.push(greeting());
      expect(sent().equals(join(u32(3), newer, go(name)))).toBe(true);
    }
  });

  it('ignores greeting flags that it does not know', () => {
    const { handshake, sent } = talk();
    handshake.push(greeting(0xffff));
    expect(sent().subarray(0, 4).equals(u32(3))).toBe(true);
  });

  it('sends its request in one piece', () => {
    const sent: Buffer[] = [];
    new ClientHandshake({ exportName: 'disk', tls: false }, (bytes) => sent.push(bytes)).push(greeting());
    expect(sent).toHaveLength(4);
  });

  const REFUSALS: Array<[number, HandshakeErrorKind, RegExp]> = [
    [NBD_REP_ERR.UNKNOWN, 'unknown-export', /no export "disk"/],
    [NBD_REP_ERR.TLS_REQD, 'tls-required', /requires TLS/],
    [NBD_REP_ERR.SHUTDOWN, 'shutting-down', /shutting down/],
    [NBD_REP_ERR.POLICY, 'refused', /POLICY/],
    [NBD_REP_ERR.BLOCK_SIZE_REQD, 'refused', /BLOCK_SIZE_REQD/],
    [2 ** 31 + 999, 'refused', /2147484647/],
  ];
  for (const [type, kind, words] of REFUSALS) {
    it(`says why when the server refuses with ${type - 2 ** 31} (${kind}), and leaves in order`, () => {
      const { handshake, sent } = talk();
      const error = failure(handshake, join(greeting(), refuse(type, 'so\u001b[31mrry')));
      expect(error.kind).toBe(kind);
      expect(error.message).toMatch(words);
      expect(error.message).toContain('so\\u001b[31mrry');
      expect(
        sent()
          .subarray(-16)
          .equals(option(NBD_OPT.ABORT, Buffer.alloc(0))),
      ).toBe(true);
    });
  }

  it("cuts the server's words", () => {
    const error = failure(talk().handshake, join(greeting(), refuse(NBD_REP_ERR.POLICY, 'x'.repeat(4000))));
    expect(error.message.length).toBeLessThan(400);
  });

  const LIES: Array<[string, Buffer, HandshakeErrorKind, RegExp]> = [
    [
      'something else entirely',
      Buffer.from('HTTP/1.1 400 Bad Request\r\n'),
      'not-nbd',
      /not an NBD server.*HTTP\/1\.1/,
    ],
    [
      'oldstyle',
      join(Buffer.from('NBDMAGIC'), u64(0x0000420281861253n), Buffer.alloc(136)),
      'not-nbd',
      /oldstyle/,
    ],
    ['a second magic of nothing', join(Buffer.from('NBDMAGIC'), Buffer.alloc(10)), 'not-nbd', /greeting/],
    ['a wrong reply magic', join(greeting(), Buffer.alloc(20)), 'protocol', /magic/],
    ['a reply to what was not asked', join(greeting(), reply(NBD_OPT.LIST, NBD_REP.ACK)), 'protocol', /LIST/],
    ['a reply type out of place', join(greeting(), reply(NBD_OPT.GO, NBD_REP.SERVER)), 'protocol', /SERVER/],
    ['a reply type that does not exist', join(greeting(), reply(NBD_OPT.GO, 77)), 'protocol', /77/],
    ['success without a size', join(greeting(), ack()), 'protocol', /without telling its size/],
    [
      'information in reply to another option',
      join(bareGreeting(), reply(EXTENDED_HEADERS, NBD_REP.INFO, none)),
      'protocol',
      /EXTENDED_HEADERS with reply type INFO/,
    ],
    [
      'GO refused as unknown behind extended headers',
      join(bareGreeting(), grant(EXTENDED_HEADERS), grant(SET_META_CONTEXT), refuse(NBD_REP_ERR.UNSUP)),
      'refused',
      /UNSUP/,
    ],
    ['a context that was not asked for', withContext(context(1, 'evil:\u202e')), 'protocol', /"evil:\?"/],
    ['a context twice', withContext(join(context(1), context(2))), 'protocol', /twice/],
    ['a context in 3 bytes', withContext(reply(SET_META_CONTEXT, 4, Buffer.alloc(3))), 'protocol', /3 bytes/],
    [
      'a server that insists on TLS at once',
      join(bareGreeting(), deny(11, NBD_REP_ERR.TLS_REQD)),
      'tls-required',
      /TLS/,
    ],
    [
      'a server that goes down meanwhile',
      join(bareGreeting(), deny(11), deny(8, NBD_REP_ERR.SHUTDOWN)),
      'shutting-down',
      /down/,
    ],
    [
      'information without a type',
      join(greeting(), reply(NBD_OPT.GO, NBD_REP.INFO, u16(0).subarray(1))),
      'protocol',
      /without a type/,
    ],
    [
      'an export in 11 bytes',
      join(greeting(), reply(NBD_OPT.GO, NBD_REP.INFO, Buffer.alloc(11))),
      'protocol',
      /11 bytes; 12/,
    ],
    [
      'an export in 13 bytes',
      join(greeting(), reply(NBD_OPT.GO, NBD_REP.INFO, Buffer.alloc(13))),
      'protocol',
      /13 bytes; 12/,
    ],
    [
      'block sizes in 12 bytes',
      join(greeting(), reply(NBD_OPT.GO, NBD_REP.INFO, join(u16(3), Buffer.alloc(10)))),
      'protocol',
      /12 bytes; 14/,
    ],
    [
      'a disk of 2^64 - 1 bytes',
      join(greeting(), infoExport(2n ** 64n - 1n), ack()),
      'unsuitable',
      /18446744073709551615/,
    ],
    [
      'a disk of 2^64 - 1 bytes by EXPORT_NAME',
      join(greeting(0), u64(2n ** 64n - 1n), u16(1), Buffer.alloc(124)),
      'unsuitable',
      /18446744073709551615/,
    ],
    [
      'a minimum block of 0',
      join(greeting(), infoBlockSize(0, 0, 0), infoExport(), ack()),
      'unsuitable',
      /power of two/,
    ],
  ];
  for (const [name, bytes, kind, words] of LIES) {
    it(`refuses ${name}, whole and byte by byte`, () => {
      for (const size of [bytes.length, 1]) {
        const error = failure(talk().handshake, bytes, size);
        expect(error.kind).toBe(kind);
        expect(error.message).toMatch(words);
      }
    });
  }

  for (const length of [MAX_OPTION_REPLY_BYTES + 1, 2 ** 31, 2 ** 32 - 1]) {
    for (const type of [NBD_REP.INFO, NBD_REP.ACK, NBD_REP_ERR.UNSUP, NBD_REP_ERR.UNKNOWN]) {
      it(`refuses a reply of type ${type} that announces ${length} bytes, before it takes any`, () => {
        const header = join(greeting(), reply(NBD_OPT.GO, type, Buffer.alloc(0), length));
        const error = failure(talk().handshake, header);
        expect(error.kind).toBe('protocol');
        expect(error.message).toContain(`${length} bytes`);
      });
    }
  }

  it('reads the longest option reply that is allowed', () => {
    const longest = reply(NBD_OPT.GO, NBD_REP.INFO, join(u16(1), Buffer.alloc(MAX_OPTION_REPLY_BYTES - 2)));
    for (const size of [longest.length, 1000]) {
      const { handshake } = talk();
      feed(handshake, join(greeting(), longest, infoExport(), ack()), size);
      expect(handshake.state).toBe('done');
    }
  });

  it('does not listen to information for ever', () => {
    const { handshake } = talk();
    handshake.push(greeting());
    for (let i = 0; i < MAX_INFO_REPLIES; i += 1) handshake.push(infoExport());
    expect(failure(handshake, infoExport()).kind).toBe('protocol');
  });

  it('tells what it means when the connection ends', () => {
    const early = talk().handshake;
    expect(early.ended().message).toContain('before it greeted');
    const { handshake } = talk('gone');
    handshake.push(join(greeting(0)));
    expect(handshake.ended().kind).toBe('unknown-export');
    expect(handshake.ended().message).toContain('"gone"');
  });

  it("agrees with this package's own server, whatever the pieces", () => {
    const found = { name: 'disk', description: 'a disk', ...EXPORT, transmissionFlags: FLAGS, contexts: [] };
    for (const size of [1, 5, 1000]) {
      const server = new ServerHandshake({ list: () => [found], find: () => found });
      const toServer: Buffer[] = [];
      const handshake = new ClientHandshake({ exportName: 'disk', tls: false }, (bytes) =>
        toServer.push(bytes),
      );
      let pending: Buffer = Buffer.alloc(0);
      for (let turn = 0; turn < 20 && handshake.state !== 'done'; turn += 1) {
        feed(handshake, join(...server.takeOutput()), size);
        pending = join(pending, ...toServer.splice(0));
        while (!server.outcome && pending.length > 0) {
          pending = pending.subarray(server.step(pending, 0, pending.length));
        }
      }
      // Both have agreed on structured replies, and with those on DF.
      expect(handshake.result).toMatchObject({ ...EXPORT, flags: FLAGS | NBD_FLAG_SEND_DF });
      expect(server.outcome).toMatchObject({ kind: 'transmission', target: found });
    }
  });
});

describe('ClientHandshake with TLS', () => {
  const starttls = option(NBD_OPT.STARTTLS, none);

  it('asks for TLS before anything else, and goes on only once it is secured', () => {
    const { handshake, sent } = talk('disk', true);
    feed(handshake, join(bareGreeting(), grant(NBD_OPT.STARTTLS)), 1);
    expect(handshake.state).toBe('securing');
    expect(sent().equals(join(u32(3), starttls))).toBe(true);
    handshake.secured();
    expect(sent().equals(join(u32(3), starttls, option(EXTENDED_HEADERS, none)))).toBe(true);
    feed(handshake, join(deny(11), deny(8), infoExport(), ack()), 3);
    expect(handshake.result).toEqual(SIMPLE);
  });

  it.each([1, 3, 36, 1000])('takes no plain text behind the answer to STARTTLS, in pieces of %d', (size) => {
    const injected = join(bareGreeting(), grant(NBD_OPT.STARTTLS), deny(11), deny(8), infoExport(), ack());
    const { handshake, sent } = talk('disk', true);
    const error = failure(handshake, injected, size);
    expect(error.kind).toBe('tls-refused');
    expect(error.message).toMatch(/plain text behind its answer to STARTTLS/);
    expect(sent().equals(join(u32(3), starttls))).toBe(true);
  });

  it.each([NBD_REP_ERR.UNSUP, NBD_REP_ERR.POLICY, NBD_REP_ERR.INVALID, 2 ** 31 + 999])(
    'never goes on without TLS: %d',
    (type) => {
      const { handshake, sent } = talk('disk', true);
      const error = failure(handshake, join(bareGreeting(), reply(NBD_OPT.STARTTLS, type)));
      expect(error.kind).toBe('tls-refused');
      expect(sent().equals(join(u32(3), starttls, option(NBD_OPT.ABORT, none)))).toBe(true);
    },
  );

  it('never goes on without TLS: newstyle that is not fixed, or an answer with data', () => {
    const old = talk('disk', true);
    expect(failure(old.handshake, bareGreeting(0)).kind).toBe('tls-refused');
    expect(old.sent()).toHaveLength(0);
    const odd = talk('disk', true).handshake;
    const bytes = join(bareGreeting(), reply(NBD_OPT.STARTTLS, NBD_REP.ACK, Buffer.from('x')));
    expect(failure(odd, bytes).kind).toBe('protocol');
  });
});
