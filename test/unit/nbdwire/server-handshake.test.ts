// The server's handshake in conversations: what a client may ask, in every order, and what ends it.
import { describe, expect, it } from 'vitest';
import { GiB, KiB, MiB } from '../../../src/base/limits.ts';
import { NBD_REP_ERR, nameOf } from '../../../src/nbdwire/constants.ts';
import type { ExportInfo } from '../../../src/nbdwire/server-exports.ts';
import {
  MAX_OPTION_BYTES,
  MAX_OPTIONS,
  MAX_SKIPPED_OPTION_BYTES,
} from '../../../src/nbdwire/server-handshake.ts';
import { directory, Talk } from '../../support/handshake-talk.ts';
import { clientFlagsBytes, infoData, optionBytes } from '../../support/raw-nbd-client.ts';

const OPT = { EXPORT_NAME: 1, ABORT: 2, LIST: 3, INFO: 6, GO: 7, STRUCTURED_REPLY: 8 } as const;
const ALL_INFO = [0, 1, 2, 3];

const DISK: ExportInfo = {
  name: 'disk',
  description: 'system disk',
  sizeBytes: 8 * GiB,
  transmissionFlags: 0x56d,
  minBlockBytes: 1,
  preferredBlockBytes: 4096,
  contexts: ['base:allocation'],
  maxPayloadBytes: 32 * MiB,
};
const SECTORS: ExportInfo = { ...DISK, name: 'sectors', description: undefined, minBlockBytes: 512 };
const EXPORTS = directory([DISK, SECTORS]);

/** A handshake past the client flags. */
function started(flags?: number): Talk {
  const talk = new Talk(EXPORTS);
  talk.say(clientFlagsBytes(flags));
  talk.take();
  return talk;
}

/** Says one option and names the replies: `ACK`, `SERVER`, `INFO`, or an error's name. */
function ask(talk: Talk, option: number, data?: Buffer): string[] {
  talk.say(optionBytes(option, data));
  return talk.replies().map((reply) => {
    expect(reply.option).toBe(option);
    return reply.name;
  });
}

describe('the greeting', () => {
  it('offers fixed newstyle and no zeroes', () => {
    const greeting = new Talk(EXPORTS).take();
    expect(greeting.toString('latin1', 0, 16)).toBe('NBDMAGICIHAVEOPT');
    expect(greeting.subarray(16)).toEqual(Buffer.from([0, 3]));
  });

  it.each([4, 0x80000000, 0xffffffff, 0x47455420])('is over for a client with flags 0x%s', (flags) => {
    const talk = new Talk(EXPORTS);
    talk.say(clientFlagsBytes(flags));
    expect(talk.outcome).toMatchObject({ kind: 'rejected', reason: expect.stringContaining('flags') });
  });

  it('shows what something else than an NBD client said', () => {
    const talk = new Talk(EXPORTS);
    talk.say(Buffer.from('GET / HTTP/1.1\r\n\r\n'));
    expect(talk.outcome).toEqual({
      kind: 'rejected',
      reason: 'client flags are 0x47455420 ("GET "): not an NBD client',
    });
  });
});

describe('EXPORT_NAME', () => {
  it.each([
    [3, 10],
    [2, 10],
    [1, 134],
    [0, 134],
  ])('with client flags %i is answered by %i bytes', (flags, bytes) => {
    const talk = started(flags);
    talk.say(optionBytes(OPT.EXPORT_NAME, Buffer.from('disk')));
    const answer = talk.take();
    expect(answer.length).toBe(bytes);
    expect(answer.readBigUInt64BE(0)).toBe(BigInt(8 * GiB));
    expect(answer.readUInt16BE(8)).toBe(0x56d);
    expect(answer.subarray(10).every((byte) => byte === 0)).toBe(true);
    expect(talk.outcome).toEqual({ kind: 'transmission', target: DISK, style: 'simple', contexts: [] });
  });

  it('with no name chooses the default export', () => {
    const talk = started();
    talk.say(optionBytes(OPT.EXPORT_NAME));
    expect(talk.outcome).toEqual({ kind: 'transmission', target: DISK, style: 'simple', contexts: [] });
  });

  it.each([
    ['an unknown name', Buffer.from('nope')],
    ['a name longer than 4096 bytes', Buffer.alloc(4097, 'x')],
    ['a name that is not UTF-8', Buffer.from([0xff, 0xfe])],
    ['a name with NUL', Buffer.from('disk\0')],
  ])('with %s ends the connection without a word', (_what, name) => {
    const talk = started();
    talk.say(optionBytes(OPT.EXPORT_NAME, name));
    expect(talk.take().length).toBe(0);
    expect(talk.outcome?.kind).toBe('rejected');
  });

  it('that announces too much ends before anything is awaited', () => {
    const talk = started();
    talk.say(optionBytes(OPT.EXPORT_NAME, Buffer.alloc(0), MAX_OPTION_BYTES + 1));
    expect(talk.outcome?.kind).toBe('rejected');
  });
});

describe('a client without fixed newstyle', () => {
  it.each([OPT.LIST, OPT.GO, OPT.ABORT, 99])('may not send option %i', (option) => {
    const talk = started(0);
    talk.say(optionBytes(option));
    expect(talk.outcome).toMatchObject({
      kind: 'rejected',
      reason: expect.stringContaining('fixed newstyle'),
    });
  });
});

describe('LIST', () => {
  it('names every export with its description', () => {
    const talk = started();
    talk.say(optionBytes(OPT.LIST));
    const replies = talk.replies();
    expect(replies.map((reply) => reply.name)).toEqual(['SERVER', 'SERVER', 'ACK']);
    expect(replies[0]?.data).toEqual(Buffer.from('\0\0\0\x04disksystem disk'));
    expect(replies[1]?.data).toEqual(Buffer.from('\0\0\0\x07sectors'));
  });

  it('takes no data, and stays in step', () => {
    const talk = started();
    expect(ask(talk, OPT.LIST, Buffer.from('x'))).toEqual(['INVALID']);
    expect(ask(talk, OPT.LIST)).toEqual(['SERVER', 'SERVER', 'ACK']);
  });
});

describe('INFO and GO', () => {
  it.each([OPT.INFO, OPT.GO])('option %i tells what is asked for, and always the size', (option) => {
    const talk = started();
    talk.say(optionBytes(option, infoData('disk', ALL_INFO)));
    const data = talk.replies().map((reply) => reply.data.toString('hex'));
    expect(data).toEqual([
      '00000000000200000000056d',
      `0001${Buffer.from('disk').toString('hex')}`,
      `0002${Buffer.from('system disk').toString('hex')}`,
      '0003000000010000100002000000',
      '',
    ]);
    expect(talk.outcome?.kind).toBe(option === OPT.GO ? 'transmission' : undefined);
  });

  it('send only the size when nothing is asked for', () => {
    expect(ask(started(), OPT.GO, infoData('disk'))).toEqual(['INFO', 'ACK']);
  });

  it('ignore requests that they do not know, and repeated ones', () => {
    expect(ask(started(), OPT.INFO, infoData('disk', [77, 1, 1, 0xffff]))).toEqual(['INFO', 'INFO', 'ACK']);
  });

  it('tell the canonical name of the default export', () => {
    const talk = started();
    talk.say(optionBytes(OPT.INFO, infoData('', [1])));
    expect(talk.replies()[1]?.data.toString()).toBe('\0\x01disk');
  });

  it('leave out a description that there is not, and tell block sizes unasked where they matter', () => {
    const talk = started();
    talk.say(optionBytes(OPT.INFO, infoData('sectors', [2])));
    const replies = talk.replies();
    expect(replies.map((reply) => reply.name)).toEqual(['INFO', 'INFO', 'ACK']);
    expect(replies[1]?.data.readUInt16BE(0)).toBe(3);
    expect(replies[1]?.data.readUInt32BE(2)).toBe(512);
  });

  it('work repeatedly, in any order, under any name', () => {
    const talk = started();
    expect(ask(talk, OPT.INFO, infoData('nope'))).toEqual(['UNKNOWN']);
    expect(ask(talk, OPT.INFO, infoData('disk'))).toEqual(['INFO', 'ACK']);
    expect(ask(talk, OPT.INFO, infoData('disk'))).toEqual(['INFO', 'ACK']);
    expect(ask(talk, OPT.LIST)).toHaveLength(3);
    expect(ask(talk, OPT.GO, infoData('nope'))).toEqual(['UNKNOWN']);
    expect(ask(talk, OPT.GO, infoData('sectors'))).toEqual(['INFO', 'INFO', 'ACK']);
    expect(talk.outcome).toEqual({ kind: 'transmission', target: SECTORS, style: 'simple', contexts: [] });
  });

  it.each([
    ['no data', Buffer.alloc(0)],
    ['5 bytes', Buffer.alloc(5)],
    ['a name longer than the data', infoData('disk', [], 5)],
    ['a name that leaves no room for the count', infoData('disk', [], 10)],
    ['a name of 0xffffffff bytes', infoData('disk', [], 0xffffffff)],
    ['a name of 0xfffffffa bytes', infoData('disk', [], 0xfffffffa)],
    ['fewer requests than announced', infoData('disk', [1, 2]).subarray(0, -2)],
    ['half a request', infoData('disk', [1, 2]).subarray(0, -1)],
    ['more than it announced', Buffer.concat([infoData('disk', [1]), Buffer.alloc(2)])],
    ['a name that is not UTF-8', infoData(Buffer.from([0xc0, 0x80]))],
    ['a name with NUL', infoData('di\0sk')],
  ])('with %s are invalid, and stay in step', (_what, data) => {
    const talk = started();
    expect(ask(talk, OPT.INFO, data)).toEqual(['INVALID']);
    expect(ask(talk, OPT.GO, data)).toEqual(['INVALID']);
    expect(ask(talk, OPT.GO, infoData('disk'))).toEqual(['INFO', 'ACK']);
  });

  it('find a name of 4096 bytes unknown, and a longer one too big', () => {
    const talk = started();
    expect(ask(talk, OPT.INFO, infoData('x'.repeat(4096)))).toEqual(['UNKNOWN']);
    expect(ask(talk, OPT.INFO, infoData('x'.repeat(4097)))).toEqual(['TOO_BIG']);
  });

  it('echo no more than a piece of a name, and nothing that a terminal acts on', () => {
    const talk = started();
    talk.say(optionBytes(OPT.GO, infoData(`\x1b[31m${'x'.repeat(4000)}`)));
    const text = talk.replies()[0]!.data.toString();
    expect(text.length).toBeLessThan(120);
    expect(text).toMatch(/^[\x20-\x7e]+$/);
  });
});

describe('other options', () => {
  it.each([4, 12, 0, 0x7fffffff, 0xffffffff])('%i are unsupported, with their data thrown away', (option) => {
    const talk = started();
    expect(ask(talk, option)).toEqual(['UNSUP']);
    expect(ask(talk, option, Buffer.alloc(300, 'IHAVEOPT'))).toEqual(['UNSUP']);
    expect(ask(talk, option, Buffer.alloc(100 * KiB))).toEqual(['UNSUP']);
    expect(ask(talk, OPT.GO, infoData('disk'))).toEqual(['INFO', 'ACK']);
  });

  it('that are known and too big are said to be so, without waiting for the whole', () => {
    const talk = started();
    talk.say(optionBytes(OPT.INFO, Buffer.alloc(0), MAX_OPTION_BYTES + 1));
    expect(talk.wantBytes).toBe(1);
    talk.say(Buffer.alloc(MAX_OPTION_BYTES + 1));
    expect(talk.replies().map((reply) => reply.name)).toEqual(['TOO_BIG']);
    expect(ask(talk, OPT.INFO, infoData('disk'))).toEqual(['INFO', 'ACK']);
  });

  it.each([OPT.LIST, OPT.GO, OPT.ABORT, 99])('%i with megabytes of data end the connection', (option) => {
    for (const length of [MAX_SKIPPED_OPTION_BYTES + 1, 0x7fffffff, 0xffffffff]) {
      const talk = started();
      talk.say(optionBytes(option, Buffer.alloc(0), length));
      expect(talk.outcome?.kind).toBe('rejected');
    }
  });

  it('never make it wait for more than the limit', () => {
    for (const option of [1, 2, 3, 6, 7, 99]) {
      for (const length of [0, 1, MAX_OPTION_BYTES, MAX_OPTION_BYTES + 1, MAX_SKIPPED_OPTION_BYTES]) {
        const talk = started();
        talk.say(optionBytes(option, Buffer.alloc(0), length));
        expect(talk.wantBytes).toBeLessThanOrEqual(MAX_OPTION_BYTES + 16);
      }
    }
  });

  it('are answered a limited number of times', () => {
    const talk = started();
    for (let i = 0; i < MAX_OPTIONS; i += 1) expect(ask(talk, i % 2 ? 99 : OPT.INFO)).toHaveLength(1);
    talk.say(optionBytes(OPT.LIST));
    expect(talk.outcome).toMatchObject({ kind: 'rejected', reason: expect.stringContaining('options') });
  });

  it('need their magic', () => {
    const talk = started();
    const option = optionBytes(OPT.LIST);
    option[7] = 0;
    talk.say(option);
    expect(talk.outcome).toMatchObject({ kind: 'rejected', reason: expect.stringContaining('magic') });
  });
});

describe('the end', () => {
  it('comes in order with ABORT, data or not', () => {
    for (const data of [undefined, Buffer.from('bye')]) {
      const talk = started();
      expect(ask(talk, OPT.ABORT, data)).toEqual(['ACK']);
      expect(talk.outcome).toEqual({ kind: 'aborted' });
    }
  });

  it('leaves what follows GO alone: it is the first request', () => {
    const talk = started();
    talk.say(Buffer.concat([optionBytes(OPT.GO, infoData('disk')), Buffer.from('%`request')]));
    expect(talk.outcome?.kind).toBe('transmission');
    expect(talk.unused.toString()).toBe('%`request');
  });

  it('is announced while the server goes down', () => {
    const talk = started();
    talk.handshake.refuseOptions();
    expect(ask(talk, OPT.LIST)).toEqual(['SHUTDOWN']);
    expect(ask(talk, OPT.INFO, infoData('disk'))).toEqual(['SHUTDOWN']);
    expect(ask(talk, OPT.GO, infoData('disk'))).toEqual(['SHUTDOWN']);
    expect(ask(talk, OPT.ABORT)).toEqual(['ACK']);
    const other = started();
    other.handshake.refuseOptions();
    other.say(optionBytes(OPT.EXPORT_NAME, Buffer.from('disk')));
    expect(other.outcome?.kind).toBe('rejected');
  });
});

it('names every error reply', () => {
  expect(nameOf(NBD_REP_ERR, 2 ** 31 + 6)).toBe('UNKNOWN');
});
