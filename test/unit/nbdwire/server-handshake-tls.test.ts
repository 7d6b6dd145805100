// The handshake and TLS: what is answered before it, what STARTTLS forgets, and that nothing which came in the clear is
// ever taken for something that came through it.
import { describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../../src/base/limits.ts';
import { NBD_OPT } from '../../../src/nbdwire/constants.ts';
import type { ExportDirectory, ExportInfo } from '../../../src/nbdwire/server-exports.ts';
import {
  MAX_OPTION_BYTES,
  MAX_OPTIONS,
  MAX_SKIPPED_OPTION_BYTES,
  type TlsMode,
} from '../../../src/nbdwire/server-handshake.ts';
import { directory, Talk } from '../../support/handshake-talk.ts';
import { clientFlagsBytes, infoData, optionBytes } from '../../support/raw-nbd-client.ts';

const DISK: ExportInfo = {
  name: 'disk',
  description: undefined,
  sizeBytes: 8 * MiB,
  transmissionFlags: 1,
  minBlockBytes: 1,
  preferredBlockBytes: 4096,
  maxPayloadBytes: 32 * MiB,
  contexts: ['base:allocation'],
};
const { STARTTLS, EXPORT_NAME, ABORT, LIST, INFO, GO } = NBD_OPT;
const START = optionBytes(STARTTLS);
const GO_DISK = optionBytes(GO, infoData('disk'));

function started(
  tls: TlsMode,
  flags?: number,
  exports: ExportDirectory<ExportInfo> = directory([DISK]),
): Talk {
  const talk = new Talk(exports, { tls });
  talk.say(clientFlagsBytes(flags));
  talk.take();
  return talk;
}

/** A handshake inside TLS. */
function secured(tls: TlsMode, flags?: number, exports?: ExportDirectory<ExportInfo>): Talk {
  const talk = started(tls, flags, exports);
  expect(ask(talk, STARTTLS)).toEqual(['ACK']);
  talk.secured();
  return talk;
}

function ask(talk: Talk, option: number, data?: Buffer): string[] {
  talk.say(optionBytes(option, data));
  return talk.replies().map((reply) => {
    expect(reply.option).toBe(option);
    return reply.name;
  });
}

describe('STARTTLS', () => {
  it('is refused where TLS is off, and the client may go on without', () => {
    const talk = started('off');
    expect(ask(talk, STARTTLS)).toEqual(['POLICY']);
    expect(ask(talk, STARTTLS, Buffer.from('x'))).toEqual(['POLICY']);
    expect(ask(talk, GO, infoData('disk'))).toEqual(['INFO', 'ACK']);
  });

  it.each(['allow', 'require'] as const)(
    'is acknowledged with mode %s, and nothing is read until TLS is up',
    (tls) => {
      const talk = started(tls);
      expect(ask(talk, STARTTLS)).toEqual(['ACK']);
      expect(talk.outcome).toEqual({ kind: 'upgrade' });
      expect(() => talk.handshake.step(GO_DISK, 0, GO_DISK.length)).toThrow('after its end');
    },
  );

  it.each([1, 300, MAX_OPTION_BYTES])('takes no data, %i bytes neither, and can be tried again', (bytes) => {
    const talk = started('require');
    expect(ask(talk, STARTTLS, Buffer.alloc(bytes))).toEqual(['INVALID']);
    expect(ask(talk, STARTTLS, Buffer.alloc(MAX_OPTION_BYTES + 1))).toEqual(['TOO_BIG']);
    expect(ask(talk, STARTTLS)).toEqual(['ACK']);
  });

  it('is invalid inside TLS, with or without data', () => {
    for (const tls of ['allow', 'require'] as const) {
      const talk = secured(tls);
      expect(ask(talk, STARTTLS)).toEqual(['INVALID']);
      expect(ask(talk, STARTTLS, Buffer.from('x'))).toEqual(['INVALID']);
      expect(ask(talk, GO, infoData('disk'))).toEqual(['INFO', 'ACK']);
    }
  });

  it('is refused while the server goes down, and what comes inside TLS then too', () => {
    const talk = started('require');
    talk.handshake.refuseOptions();
    expect(ask(talk, STARTTLS)).toEqual(['SHUTDOWN']);
    const late = started('require');
    expect(ask(late, STARTTLS)).toEqual(['ACK']);
    late.handshake.refuseOptions();
    late.secured();
    expect(ask(late, GO, infoData('disk'))).toEqual(['SHUTDOWN']);
  });
});

describe('bytes in the clear behind STARTTLS', () => {
  it.each([
    ['an option', GO_DISK],
    ['a single byte', Buffer.from([0x16])],
    ['another STARTTLS', START],
  ])('cut the connection without an answer: %s', (_what, behind) => {
    const talk = started('allow');
    talk.say(Buffer.concat([START, behind]));
    expect(talk.outcome).toEqual({
      kind: 'rejected',
      reason: `${behind.length} bytes behind STARTTLS, before TLS was up`,
    });
    expect(talk.take().length).toBe(0);
  });

  it('are no answer to an earlier option either: options before STARTTLS in one piece are served', () => {
    const talk = started('allow');
    talk.say(Buffer.concat([optionBytes(LIST), START]));
    expect(talk.replies().map((reply) => reply.name)).toEqual(['SERVER', 'ACK', 'ACK']);
    expect(talk.outcome).toEqual({ kind: 'upgrade' });
  });
});

describe('with TLS required, before TLS', () => {
  const everyOption = [...Object.values(NBD_OPT), 0, 12, 99, 0x7fffffff, 0xffffffff];

  it.each(everyOption.filter((option) => ![STARTTLS, EXPORT_NAME, ABORT].includes(option as 1)))(
    'option %i is answered TLS_REQD, whatever its data',
    (option) => {
      const talk = started('require');
      for (const data of [
        undefined,
        infoData('disk'),
        infoData('nope', [1, 2], 0xffffffff),
        Buffer.alloc(100 * KiB, 'IHAVEOPT'),
      ]) {
        expect(ask(talk, option, data)).toEqual(['TLS_REQD']);
      }
      expect(talk.outcome).toBeUndefined();
      expect(ask(talk, STARTTLS)).toEqual(['ACK']);
    },
  );

  it('no option reaches the exports', () => {
    const untouchable: ExportDirectory<ExportInfo> = {
      list: () => expect.fail('listed'),
      find: () => expect.fail('looked up'),
    };
    const talk = started('require', undefined, untouchable);
    for (const option of [LIST, INFO, GO]) expect(ask(talk, option, infoData('disk'))).toEqual(['TLS_REQD']);
    talk.say(optionBytes(EXPORT_NAME, Buffer.from('disk')));
    expect(talk.outcome).toMatchObject({ kind: 'rejected', reason: expect.stringContaining('without TLS') });
    expect(talk.take().length).toBe(0);
  });

  it('EXPORT_NAME ends the connection before its name is awaited', () => {
    const talk = started('require');
    talk.say(optionBytes(EXPORT_NAME, Buffer.alloc(0), 4));
    expect(talk.outcome?.kind).toBe('rejected');
  });

  it('ABORT is answered, with data or without', () => {
    for (const data of [undefined, Buffer.from('bye')]) {
      const talk = started('require');
      expect(ask(talk, ABORT, data)).toEqual(['ACK']);
      expect(talk.outcome).toEqual({ kind: 'aborted' });
    }
  });

  it.each([0, 2])('a client without fixed newstyle (flags %i) can do nothing', (flags) => {
    for (const option of everyOption) {
      const talk = started('require', flags);
      talk.say(optionBytes(option));
      expect(talk.outcome?.kind, `option ${option}`).toBe('rejected');
      expect(talk.take().length).toBe(0);
    }
  });

  it('limits hold: data that is too long, and too many options', () => {
    const long = started('require');
    long.say(optionBytes(LIST, Buffer.alloc(0), MAX_SKIPPED_OPTION_BYTES + 1));
    expect(long.outcome?.kind).toBe('rejected');
    const many = started('require');
    for (let i = 0; i < MAX_OPTIONS; i += 1) expect(ask(many, GO)).toEqual(['TLS_REQD']);
    many.say(START);
    expect(many.outcome).toMatchObject({ kind: 'rejected', reason: expect.stringContaining('options') });
  });
});

describe('inside TLS', () => {
  it.each(['allow', 'require'] as const)('every option works as without it, with mode %s', (tls) => {
    const talk = secured(tls);
    expect(ask(talk, LIST)).toEqual(['SERVER', 'ACK']);
    expect(ask(talk, 99)).toEqual(['UNSUP']);
    expect(ask(talk, INFO, infoData('nope'))).toEqual(['UNKNOWN']);
    expect(ask(talk, INFO, infoData('disk'))).toEqual(['INFO', 'ACK']);
    talk.say(GO_DISK);
    expect(talk.outcome).toEqual({ kind: 'transmission', target: DISK, style: 'simple', contexts: [] });
  });

  it('no greeting comes again, and an option is what is awaited', () => {
    const talk = secured('require');
    expect(talk.handshake.takeOutput()).toEqual([]);
    expect(talk.wantBytes).toBe(16);
  });

  it.each([
    [3, 10],
    [1, 134],
  ])('the flags of the client, %i, are still known', (flags, bytes) => {
    const talk = secured('require', flags);
    talk.say(optionBytes(EXPORT_NAME, Buffer.from('disk')));
    expect(talk.take().length).toBe(bytes);
    expect(talk.outcome?.kind).toBe('transmission');
  });

  it('options before it count', () => {
    const talk = started('allow');
    for (let i = 0; i < 100; i += 1) ask(talk, LIST);
    ask(talk, STARTTLS);
    talk.secured();
    for (let i = 0; i < MAX_OPTIONS - 101; i += 1) expect(ask(talk, LIST)).toHaveLength(2);
    talk.say(optionBytes(LIST));
    expect(talk.outcome).toMatchObject({ kind: 'rejected', reason: expect.stringContaining('options') });
  });

  it.each([
    ['structured replies', NBD_OPT.STRUCTURED_REPLY],
    ['extended headers', NBD_OPT.EXTENDED_HEADERS],
  ])('%s that were agreed on before it are forgotten', (_what, option) => {
    const style = (talk: Talk): unknown => {
      talk.say(GO_DISK);
      expect(talk.outcome?.kind).toBe('transmission');
      return (talk.outcome as { style?: unknown }).style;
    };
    const plain = started('allow');
    expect(ask(plain, option)).toEqual(['ACK']);
    const talk = started('allow');
    expect(ask(talk, option)).toEqual(['ACK']);
    expect(ask(talk, STARTTLS)).toEqual(['ACK']);
    talk.secured();
    expect(style(plain)).not.toEqual(style(started('allow')));
    expect(style(talk)).toEqual(style(started('allow')));
  });

  it('comes only after STARTTLS', () => {
    expect(() => started('allow').handshake.secured()).toThrow('without STARTTLS');
  });
});

describe('with TLS allowed, before TLS', () => {
  const tlsOnly = (): ExportDirectory<ExportInfo> => ({ ...directory([DISK]), hasTlsOnly: true });

  it('exports that need none are served', () => {
    expect(ask(started('allow'), LIST)).toEqual(['SERVER', 'ACK']);
    const talk = started('allow', undefined, tlsOnly());
    expect(ask(talk, GO, infoData('disk'))).toEqual(['INFO', 'ACK']);
  });

  it('a name that is not found may be there with TLS, if any is', () => {
    expect(ask(started('allow'), INFO, infoData('secret'))).toEqual(['UNKNOWN']);
    for (const option of [INFO, GO]) {
      expect(ask(started('allow', undefined, tlsOnly()), option, infoData('secret'))).toEqual(['TLS_REQD']);
      expect(ask(secured('allow', undefined, tlsOnly()), option, infoData('secret'))).toEqual(['UNKNOWN']);
      expect(ask(started('off', undefined, tlsOnly()), option, infoData('secret'))).toEqual(['UNKNOWN']);
    }
  });
});
