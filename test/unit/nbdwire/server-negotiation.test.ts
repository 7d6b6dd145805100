// What structured replies, extended headers and meta contexts are agreed on, in every order of their options.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KiB } from '../../../src/base/limits.ts';
import { NBD_OPT } from '../../../src/nbdwire/constants.ts';
import type { ExportInfo } from '../../../src/nbdwire/server-exports.ts';
import { directory, Talk } from '../../support/handshake-talk.ts';
import {
  clientFlagsBytes,
  contextData,
  exportFacts,
  infoData,
  optionBytes,
} from '../../support/raw-nbd-client.ts';

const {
  EXPORT_NAME,
  LIST,
  INFO,
  GO,
  STRUCTURED_REPLY,
  LIST_META_CONTEXT,
  SET_META_CONTEXT,
  EXTENDED_HEADERS,
} = NBD_OPT;
const DF = 1 << 7;
const STAT_PAYLOAD = 1 << 12;

function info(name: string, contexts: readonly string[]): ExportInfo {
  const sizes = { minBlockBytes: 1, preferredBlockBytes: 4096, maxPayloadBytes: 1 << 25 };
  return { name, description: undefined, sizeBytes: 1 << 20, transmissionFlags: 1, ...sizes, contexts };
}

const DISK = info('disk', ['base:allocation', 'x-test:one', 'x-test:two', 'x-tester:one']);
const OTHER = info('other', ['base:allocation']);

function started(): Talk {
  const talk = new Talk(directory([DISK, OTHER]));
  talk.take();
  talk.say(clientFlagsBytes());
  return talk;
}

/** The replies to an option, by name; contexts as `id name`. */
function ask(talk: Talk, option: number, data?: Buffer): string[] {
  talk.say(optionBytes(option, data));
  return talk.replies().map(({ name, data: bytes }) => {
    if (name !== 'META_CONTEXT') return name;
    return `${bytes.readUInt32BE(0)} ${bytes.toString('utf8', 4)}`;
  });
}

const structured = (): Talk => {
  const talk = started();
  expect(ask(talk, STRUCTURED_REPLY)).toEqual(['ACK']);
  return talk;
};

describe('STRUCTURED_REPLY and EXTENDED_HEADERS', () => {
  it('decide the style, extended headers for good', () => {
    const talk = started();
    expect(ask(talk, STRUCTURED_REPLY)).toEqual(['ACK']);
    expect(ask(talk, STRUCTURED_REPLY)).toEqual(['ACK']);
    expect(ask(talk, EXTENDED_HEADERS)).toEqual(['ACK']);
    expect(ask(talk, STRUCTURED_REPLY)).toEqual(['EXT_HEADER_REQD']);
    expect(ask(talk, EXTENDED_HEADERS)).toEqual(['ACK']);
    expect(ask(talk, GO, infoData('disk'))).toEqual(['INFO', 'ACK']);
    expect(talk.outcome).toMatchObject({ style: 'extended', contexts: [] });
  });

  it('take no data, and with data change nothing', () => {
    const talk = started();
    expect(ask(talk, STRUCTURED_REPLY, Buffer.alloc(1))).toEqual(['INVALID']);
    expect(ask(talk, EXTENDED_HEADERS, Buffer.alloc(1))).toEqual(['INVALID']);
    expect(ask(talk, EXTENDED_HEADERS, Buffer.alloc(20 * KiB))).toEqual(['TOO_BIG']);
    ask(talk, GO, infoData('disk'));
    expect(talk.outcome).toMatchObject({ style: 'simple' });
  });

  it('leave EXPORT_NAME to compact headers', () => {
    const compact = structured();
    compact.say(optionBytes(EXPORT_NAME, Buffer.from('disk')));
    expect(compact.take().readUInt16BE(8)).toBe(1 | DF);
    expect(compact.outcome).toMatchObject({ kind: 'transmission', style: 'structured' });
    const extended = started();
    ask(extended, EXTENDED_HEADERS);
    extended.say(optionBytes(EXPORT_NAME, Buffer.from('disk')));
    expect(extended.outcome).toMatchObject({
      kind: 'rejected',
      reason: expect.stringContaining('EXPORT_NAME'),
    });
  });

  it('show in the transmission flags', () => {
    const flags = (talk: Talk, option: number, name = 'disk'): number => {
      talk.say(optionBytes(option, infoData(name)));
      return exportFacts(talk.replies()).transmissionFlags;
    };
    expect(flags(started(), INFO)).toBe(1);
    expect(flags(structured(), INFO)).toBe(1 | DF);
    expect(flags(structured(), GO)).toBe(1 | DF);
    const talk = started();
    ask(talk, EXTENDED_HEADERS);
    expect(flags(talk, INFO)).toBe(1 | DF | STAT_PAYLOAD);
    ask(talk, SET_META_CONTEXT, contextData('disk', ['base:allocation']));
    expect(flags(talk, INFO)).toBe(1 | DF | STAT_PAYLOAD);
    expect(flags(talk, GO)).toBe(1 | DF | STAT_PAYLOAD);
    const without = started();
    ask(without, EXTENDED_HEADERS);
    expect(flags(without, GO)).toBe(1 | DF);
    const elsewhere = started();
    ask(elsewhere, EXTENDED_HEADERS);
    ask(elsewhere, SET_META_CONTEXT, contextData('other', ['base:allocation']));
    expect(flags(elsewhere, GO)).toBe(1 | DF);
  });
});

describe('LIST_META_CONTEXT', () => {
  it.each([
    [[], DISK.contexts],
    [['base:'], ['base:allocation']],
    [['base:allocation'], ['base:allocation']],
    [['base:nothing'], []],
    [['x-test:'], ['x-test:one', 'x-test:two']],
    [
      ['x-test:two', 'base:'],
      ['base:allocation', 'x-test:two'],
    ],
    [['x-test:o'], []],
    [['base:', 'base:', 'base:allocation'], ['base:allocation']],
    [['nowhere:', 'x'], []],
    [[''], []],
    [[':'], []],
  ])('%j lists %j', (queries, names) => {
    const listed = names.map((name) => `0 ${name}`);
    expect(ask(structured(), LIST_META_CONTEXT, contextData('disk', queries))).toEqual([...listed, 'ACK']);
  });

  it('leaves the selection alone', () => {
    const talk = structured();
    ask(talk, SET_META_CONTEXT, contextData('disk', ['x-test:one']));
    ask(talk, LIST_META_CONTEXT, contextData('other', []));
    ask(talk, LIST_META_CONTEXT, Buffer.alloc(3));
    ask(talk, GO, infoData('disk'));
    expect(talk.outcome).toMatchObject({ contexts: [1] });
  });
});

describe('SET_META_CONTEXT', () => {
  it.each([
    [[], []],
    [['base:allocation'], ['0 base:allocation']],
    [['base:'], []],
    [['x-test:'], []],
    [
      ['x-test:two', 'base:allocation'],
      ['0 base:allocation', '2 x-test:two'],
    ],
    [['x-test:two', 'x-test:two'], ['2 x-test:two']],
    [['nowhere:thing', 'x-tester:one', 'no colon'], ['3 x-tester:one']],
  ])('%j selects %j', (queries, selected) => {
    const talk = structured();
    expect(ask(talk, SET_META_CONTEXT, contextData('disk', queries))).toEqual([...selected, 'ACK']);
    ask(talk, GO, infoData('disk'));
    const ids = selected.map((text) => Number.parseInt(text, 10));
    expect(talk.outcome).toMatchObject({ style: 'structured', contexts: ids });
  });

  it('counts for the export that it names, by whichever name, and for no other', () => {
    const chosen = (named: string, gone: string): unknown => {
      const talk = structured();
      ask(talk, SET_META_CONTEXT, contextData(named, ['base:allocation']));
      ask(talk, GO, infoData(gone));
      return talk.outcome;
    };
    expect(chosen('disk', 'disk')).toMatchObject({ contexts: [0] });
    expect(chosen('', 'disk')).toMatchObject({ contexts: [0] });
    expect(chosen('disk', '')).toMatchObject({ contexts: [0] });
    expect(chosen('other', 'disk')).toMatchObject({ contexts: [] });
    expect(chosen('disk', 'other')).toMatchObject({ contexts: [] });
  });

  const failing: Array<[string, Buffer]> = [
    ['an unknown export', contextData('nowhere', ['base:allocation'])],
    ['no data', Buffer.alloc(0)],
    ['a name that does not fit', Buffer.from('000000ff0000000000', 'hex')],
    ['a count that does not fit', Buffer.from('0000000000000002', 'hex')],
    ['a huge count', Buffer.from('00000000ffffffff', 'hex')],
    ['a query that does not fit', Buffer.from('0000000000000001000000ff', 'hex')],
    ['bytes behind the queries', Buffer.concat([contextData('disk', ['base:allocation']), Buffer.alloc(1)])],
    ['a query that is no text', Buffer.from('000000000000000100000002ff00', 'hex')],
    ['a query that is too long', contextData('disk', [`base:${'x'.repeat(4092)}`])],
    ['too much of it', contextData('disk', Array<string>(2000).fill('base:allocation'))],
  ];
  it.each(failing)('replaces what was selected even when it fails for %s', (_what, data) => {
    const talk = structured();
    expect(ask(talk, SET_META_CONTEXT, contextData('disk', ['base:allocation']))).toContain('ACK');
    expect(ask(talk, SET_META_CONTEXT, data)).toEqual([expect.stringMatching(/^(INVALID|UNKNOWN|TOO_BIG)$/)]);
    expect(ask(talk, GO, infoData('disk'))).toContain('ACK');
    expect(talk.outcome).toMatchObject({ contexts: [] });
  });

  it('and LIST_META_CONTEXT need structured replies first', () => {
    const talk = started();
    for (const option of [SET_META_CONTEXT, LIST_META_CONTEXT]) {
      expect(ask(talk, option, contextData('disk', ['base:allocation']))).toEqual(['INVALID']);
    }
    expect(ask(talk, STRUCTURED_REPLY)).toEqual(['ACK']);
    ask(talk, GO, infoData('disk'));
    expect(talk.outcome).toMatchObject({ contexts: [] });
  });
});

describe('options in any order', () => {
  // A model in a few lines: what the spec says each option does to what is agreed on.
  const step = fc.oneof(
    fc.constantFrom('structured', 'extended', 'list', 'info'),
    fc.record({
      set: fc.constantFrom('disk', 'other', '', 'nowhere'),
      queries: fc.subarray(['base:allocation', 'x-test:one', 'base:']),
    }),
  );

  it('agree on what a plain reading of the spec says', () => {
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 12 }),
        fc.constantFrom('disk', 'other', ''),
        (steps, chosen) => {
          const talk = started();
          let style = 'simple';
          let selected: { name: string; ids: number[] } = { name: '', ids: [] };
          for (const one of steps) {
            if (typeof one === 'object') {
              const data = contextData(one.set, one.queries);
              const answer = ask(talk, SET_META_CONTEXT, data);
              const target = one.set === '' ? DISK : [DISK, OTHER].find((each) => each.name === one.set);
              const works = style !== 'simple' && target !== undefined;
              expect(answer.at(-1) === 'ACK').toBe(works);
              const ids = works
                ? target.contexts.flatMap((name, id) => (one.queries.includes(name) ? [id] : []))
                : [];
              selected = { name: target?.name ?? '', ids };
            } else if (one === 'structured') {
              expect(ask(talk, STRUCTURED_REPLY)).toEqual([style === 'extended' ? 'EXT_HEADER_REQD' : 'ACK']);
              if (style === 'simple') style = 'structured';
            } else if (one === 'extended') {
              ask(talk, EXTENDED_HEADERS);
              style = 'extended';
            } else if (one === 'list') {
              expect(ask(talk, LIST)).toEqual(['SERVER', 'SERVER', 'ACK']);
            } else {
              expect(ask(talk, INFO, infoData('other')).at(-1)).toBe('ACK');
            }
          }
          ask(talk, GO, infoData(chosen));
          const contexts = selected.name === (chosen === '' ? 'disk' : chosen) ? selected.ids : [];
          expect(talk.outcome).toMatchObject({ kind: 'transmission', style, contexts });
        },
      ),
    );
  });
});
