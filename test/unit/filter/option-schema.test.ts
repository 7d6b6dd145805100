import { describe, expect, expectTypeOf, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import {
  type ByteSpan,
  type Option,
  type OptionValues,
  optionDefault,
  optionType,
  parseOption,
} from '../../../src/filter/option-schema.ts';

const description = 'what it is for';
const WHAT = 'filter x: option y';

function parse(option: Option, ...texts: string[]): unknown {
  return parseOption(option, texts, WHAT);
}

function refusal(option: Option, ...texts: string[]): string {
  try {
    parse(option, ...texts);
  } catch (error) {
    expect(error).toBeInstanceOf(UsageError);
    expect((error as Error).message).toContain(WHAT);
    return (error as Error).message.slice(WHAT.length);
  }
  expect.unreachable(`${texts.join()} should have been refused`);
}

describe('size', () => {
  const size: Option = { kind: 'size', min: 512, max: 1024 ** 3, multipleOf: 512, description };

  it('is bytes or with a unit', () => {
    expect(parse(size, '512')).toBe(512);
    expect(parse(size, '64K')).toBe(65_536);
    expect(parse(size, '1G')).toBe(1024 ** 3);
  });

  it('says what is allowed', () => {
    expect(refusal(size, 'big')).toContain('"big" is not a size; use');
    expect(refusal(size, '-512')).toContain('is not a size');
    expect(refusal(size, '')).toContain('is not a size');
    expect(refusal(size, '513')).toBe(': 513 is not a multiple of 512 bytes');
    expect(refusal(size, '0')).toBe(': 0 B is out of range; allowed is 512 B to 1 GiB');
    expect(refusal(size, '2G')).toBe(': 2 GiB is out of range; allowed is 512 B to 1 GiB');
  });
});

describe('duration', () => {
  const duration: Option = { kind: 'duration', max: 60_000, description };

  it('is milliseconds', () => {
    expect(parse(duration, '250ms')).toBe(250);
    expect(parse(duration, '1.5s')).toBe(1500);
    expect(parse(duration, '0')).toBe(0);
  });

  it('says what is allowed', () => {
    expect(refusal(duration, 'soon')).toContain('is not a duration; use 250ms');
    expect(refusal(duration, '2m')).toBe(': 2m00s is out of range; allowed is at most 1m00s');
  });
});

describe('integer', () => {
  it('is whole and exact', () => {
    const integer: Option = { kind: 'integer', min: -5, description };
    expect(parse(integer, '-5')).toBe(-5);
    expect(parse(integer, '+7')).toBe(7);
    expect(parse(integer, '9007199254740991')).toBe(Number.MAX_SAFE_INTEGER);
    for (const text of ['', ' 1', '1.0', '1e3', '0x10', 'NaN', 'Infinity', '9007199254740992', '--1']) {
      expect(refusal(integer, text)).toBe(`: ${JSON.stringify(text)} is not a whole number`);
    }
    expect(refusal(integer, '-6')).toBe(': -6 is out of range; allowed is at least -5');
  });
});

describe('number', () => {
  it('may have a fraction', () => {
    const rate: Option = { kind: 'number', min: 0, max: 1, description };
    expect(['0', '1', '0.25', '.5', '1.'].map((text) => parse(rate, text))).toEqual([0, 1, 0.25, 0.5, 1]);
    for (const text of ['', '.', '1%', '1e-3', 'NaN', 'Infinity', '0,5', `${'9'.repeat(400)}`]) {
      expect(refusal(rate, text)).toContain('is not a number');
    }
    expect(refusal(rate, '1.01')).toBe(': 1.01 is out of range; allowed is 0 to 1');
    expect(refusal(rate, '-0.1')).toContain('out of range');
  });
});

describe('boolean', () => {
  it('is on or off, in the usual words', () => {
    const flag: Option = { kind: 'boolean', description };
    expect(['on', 'true', 'yes'].map((text) => parse(flag, text))).toEqual([true, true, true]);
    expect(['off', 'false', 'no'].map((text) => parse(flag, text))).toEqual([false, false, false]);
    for (const text of ['', '1', 'ON', 'constructor', 'toString']) {
      expect(refusal(flag, text)).toContain('is neither on nor off');
    }
  });
});

describe('string', () => {
  it('is anything but nothing', () => {
    const text: Option = { kind: 'string', description };
    expect(parse(text, '/tmp/a b=c,d')).toBe('/tmp/a b=c,d');
    expect(refusal(text, '')).toBe(' is empty; give it a value');
  });
});

describe('choice', () => {
  it('is one of those listed', () => {
    const choice: Option = { kind: 'choice', choices: ['EIO', 'ENOSPC'], description };
    expect(parse(choice, 'ENOSPC')).toBe('ENOSPC');
    expect(refusal(choice, 'eio')).toBe(': "eio" is not allowed; use one of EIO, ENOSPC');
  });
});

describe('list', () => {
  const list: Option = { kind: 'list', choices: ['read', 'write', 'trim'], description };

  it('joins its elements by + or by being repeated', () => {
    expect(parse(list, 'read')).toEqual(['read']);
    expect(parse(list, 'read+trim')).toEqual(['read', 'trim']);
    expect(parse(list, 'read', 'write+trim')).toEqual(['read', 'write', 'trim']);
    expect(parse({ kind: 'list', description }, 'any+thing')).toEqual(['any', 'thing']);
  });

  it('says what is allowed', () => {
    expect(refusal(list, 'read+flush')).toBe(': "flush" is not allowed; use one of read, write, trim');
    for (const text of ['', '+', 'read+', 'read++trim'])
      expect(refusal(list, text)).toContain('empty element');
  });
});

describe('a ranges option', () => {
  const ranges: Option = { kind: 'ranges', description };

  it('reads where each begins and where it ends', () => {
    expect(parse(ranges, '1M-2M')).toEqual([{ start: 2 ** 20, end: 2 ** 21 }]);
    expect(parse(ranges, '-512+4G-', '1K-1025')).toEqual([
      { start: 0, end: 512 },
      { start: 2 ** 32, end: Number.POSITIVE_INFINITY },
      { start: 1024, end: 1025 },
    ]);
  });

  it('says what is allowed', () => {
    for (const text of ['', '1M', '1M-2M-3M', '1M-2M+']) {
      expect(refusal(ranges, text)).toContain('is not a range; write 1M-2M');
    }
    expect(refusal(ranges, '2M-1M')).toBe(': "2M-1M" is empty: it must end after it begins');
    expect(refusal(ranges, '1M-1M')).toContain('is empty');
    expect(refusal(ranges, 'a-b')).toContain('is not a size');
  });
});

it('takes every option but a list only once', () => {
  const kinds: Option[] = [
    { kind: 'size', description },
    { kind: 'boolean', description },
    { kind: 'string', description },
  ];
  for (const option of kinds) expect(refusal(option, '1', '1')).toBe(' is given 2 times; once is allowed');
});

describe('documentation', () => {
  it('tells the type with its range', () => {
    const types = (
      [
        [{ kind: 'size', description }, 'size'],
        [{ kind: 'size', min: 512, multipleOf: 512, description }, 'size, at least 512 B, multiple of 512'],
        [{ kind: 'duration', min: 0, max: 3_600_000, description }, 'duration, 0ms to 1h00m'],
        [{ kind: 'number', min: 0, max: 1, description }, 'number, 0 to 1'],
        [{ kind: 'integer', max: 9, description }, 'integer, at most 9'],
        [{ kind: 'boolean', description }, 'boolean'],
        [{ kind: 'string', description }, 'string'],
        [{ kind: 'choice', choices: ['a', 'b'], description }, 'one of a, b'],
        [{ kind: 'list', choices: ['a', 'b'], description }, 'list of a, b'],
        [{ kind: 'list', description }, 'list'],
        [{ kind: 'ranges', description }, 'ranges'],
        [{ kind: 'integer', max: 9, adjustable: true, description }, 'integer, at most 9, adjustable'],
      ] satisfies Array<[Option, string]>
    ).map(([option, text]) => [optionType(option), text]);
    for (const [told, text] of types) expect(told).toBe(text);
  });

  it('tells the default as one would write it, so that it can be read back', () => {
    const options: Array<[Option, string]> = [
      [{ kind: 'size', default: 4096, description }, '4096'],
      [{ kind: 'duration', default: 0, description }, '0ms'],
      [{ kind: 'duration', default: 1250, description }, '1250ms'],
      [{ kind: 'duration', default: 120_000, description }, '120s'],
      [{ kind: 'integer', default: 0, description }, '0'],
      [{ kind: 'number', default: 0.5, description }, '0.5'],
      [{ kind: 'boolean', default: true, description }, 'on'],
      [{ kind: 'boolean', default: false, description }, 'off'],
      [{ kind: 'string', default: 'x', description }, 'x'],
      [{ kind: 'choice', choices: ['a'], default: 'a', description }, 'a'],
      [{ kind: 'list', default: ['a', 'b'], description }, 'a+b'],
    ];
    for (const [option, text] of options) {
      expect(optionDefault(option)).toBe(text);
      expect(parse(option, text)).toEqual(option.default);
    }
    expect(optionDefault({ kind: 'string', description })).toBe('');
    expect(optionDefault({ kind: 'string', required: true, description })).toBe('required');
  });
});

it('infers the types of the values', () => {
  const schema = {
    size: { kind: 'size', required: true, description },
    wait: { kind: 'duration', default: 0, description },
    maybe: { kind: 'integer', description },
    flag: { kind: 'boolean', default: false, description },
    path: { kind: 'string', description },
    code: { kind: 'choice', choices: ['EIO', 'EPERM'], default: 'EIO', description },
    on: { kind: 'list', choices: ['read', 'write'], default: ['read'], description },
    words: { kind: 'list', description },
    spans: { kind: 'ranges', description },
  } as const;
  expectTypeOf<OptionValues<typeof schema>>().toEqualTypeOf<{
    readonly size: number;
    readonly wait: number;
    readonly maybe: number | undefined;
    readonly flag: boolean;
    readonly path: string | undefined;
    readonly code: 'EIO' | 'EPERM';
    readonly on: readonly ('read' | 'write')[];
    readonly words: readonly string[] | undefined;
    readonly spans: readonly ByteSpan[] | undefined;
  }>();
});
