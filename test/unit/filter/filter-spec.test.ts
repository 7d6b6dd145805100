import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { defineFilter } from '../../../src/filter/define-filter.ts';
import { checkOptions, splitSpec } from '../../../src/filter/filter-spec.ts';
import { nearestName } from '../../../src/filter/nearest-name.ts';

function split(text: string) {
  const { name, values } = splitSpec(text);
  return [name, Object.fromEntries(values)];
}

describe('splitSpec', () => {
  it('takes a name and options apart', () => {
    expect(split('log')).toEqual(['log', {}]);
    expect(split('delay,read=5ms,write=1s')).toEqual(['delay', { read: ['5ms'], write: ['1s'] }]);
  });

  it('reads an option without a value as on', () => {
    expect(split('log,start')).toEqual(['log', { start: ['on'] }]);
  });

  it('keeps an empty value, and everything after the first =', () => {
    expect(split('log,file=')).toEqual(['log', { file: [''] }]);
    expect(split('log,file=a=b==c')).toEqual(['log', { file: ['a=b==c'] }]);
  });

  it('reads ,, as a comma, wherever it stands', () => {
    expect(split('log,file=/a,,b,start')).toEqual(['log', { file: ['/a,b'], start: ['on'] }]);
    expect(split('./a,,b.js,x=1')).toEqual(['./a,b.js', { x: ['1'] }]);
    expect(split('log,file=,,,,')).toEqual(['log', { file: [',,'] }]);
    expect(split('log,file=a,,,start')).toEqual(['log', { file: ['a,'], start: ['on'] }]);
  });

  it('keeps every value of a repeated option, in order', () => {
    expect(split('error,on=read,on=write')).toEqual(['error', { on: ['read', 'write'] }]);
  });

  it('is not fooled by names that objects have', () => {
    expect([...splitSpec('log,__proto__=1,constructor=2').values.keys()]).toEqual([
      '__proto__',
      'constructor',
    ]);
  });

  for (const text of ['', ',', ',file=x', '=x', 'file=x', 'file=x,log']) {
    it(`refuses ${JSON.stringify(text)}: there is no name`, () => {
      expect(() => splitSpec(text)).toThrow(UsageError);
      expect(() => splitSpec(text)).toThrow(/must start with a name, as in name,option=value/);
    });
  }

  for (const text of ['log,', 'log,=x', 'log,file=x,', 'log,start,=']) {
    it(`refuses ${JSON.stringify(text)}: an option has no name`, () => {
      expect(() => splitSpec(text)).toThrow(/is not option=value \(write ,, for a comma\)/);
    });
  }

  it('takes apart what was put together, for all names and values', () => {
    // A name that begins with a comma can't be written: it would pair with the separator before it.
    const word = fc.string({ minLength: 1 }).filter((text) => !text.includes('=') && !text.startsWith(','));
    fc.assert(
      fc.property(
        word,
        fc.uniqueArray(fc.tuple(word, fc.string()), { selector: ([key]) => key }),
        (name, pairs) => {
          const text = [name, ...pairs.map(([key, value]) => `${key}=${value}`)]
            .map((part) => part.replaceAll(',', ',,'))
            .join(',');
          const { name: first, values } = splitSpec(text);
          expect(first).toBe(name);
          expect([...values]).toEqual(pairs.map(([key, value]) => [key, [value]]));
        },
      ),
    );
  });
});

describe('checkOptions', () => {
  const filter = defineFilter({
    name: 'probe',
    summary: 'A filter to test with',
    options: {
      size: { kind: 'size', required: true, description: 'how much' },
      rate: { kind: 'number', default: 0.5, min: 0, max: 1, description: 'how often' },
      file: { kind: 'string', description: 'where' },
    },
    create: (below) => below,
  });
  const check = (text: string) => checkOptions(filter, splitSpec(text).values);

  it('converts values and fills in defaults', () => {
    expect(check('probe,size=1K')).toEqual({ size: 1024, rate: 0.5, file: undefined });
    expect(check('probe,size=0,rate=1,file=x')).toEqual({ size: 0, rate: 1, file: 'x' });
  });

  it('names what is missing, and what it is for', () => {
    expect(() => check('probe')).toThrow('filter probe: option size is required: how much');
  });

  it('names what is wrong', () => {
    expect(() => check('probe,size=1K,rate=2')).toThrow('filter probe: option rate: 2 is out of range');
  });

  it('refuses what it does not know, and says what it knows', () => {
    expect(() => check('probe,size=1,colour=red')).toThrow(
      'filter probe: unknown option "colour": it takes size, rate, file',
    );
    expect(() => check('probe,size=1,flie=x')).toThrow('did you mean file?');
    expect(() => check('probe,size=1,__proto__=x')).toThrow('unknown option "__proto__"');
    expect(() => check('probe,size=1,toString')).toThrow('unknown option "toString"');
  });

  it('says so when there are no options at all', () => {
    const bare = defineFilter({ name: 'bare', summary: 'None', options: {}, create: (below) => below });
    expect(() => checkOptions(bare, splitSpec('bare,x').values)).toThrow('unknown option "x": it takes none');
  });

  it('complains about an unknown option before a missing one: it is likely the same, misspelt', () => {
    expect(() => check('probe,sise=1')).toThrow('did you mean size?');
  });
});

describe('nearestName', () => {
  const known = ['align', 'delay', 'error', 'log', 'offset', 'readonly', 'stats'];

  it('finds what was meant', () => {
    const found = ['aling', 'delya', 'eror', 'lgo', 'ofset', 'read-only', 'READONLY', 'stat'].map((name) =>
      nearestName(name, known),
    );
    expect(found).toEqual(['align', 'delay', 'error', 'log', 'offset', 'readonly', 'readonly', 'stats']);
  });

  it('offers nothing far off', () => {
    for (const name of ['', 'x', 'compress', 'cow', 'a'.repeat(100_000)]) {
      expect(nearestName(name, known)).toBeUndefined();
    }
    expect(nearestName('log', [])).toBeUndefined();
  });
});
