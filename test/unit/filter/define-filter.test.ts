import { describe, expect, expectTypeOf, it } from 'vitest';
import { AssertionError } from '../../../src/base/assert.ts';
import { defineFilter, definitionProblem } from '../../../src/filter/define-filter.ts';

const option = { kind: 'size', description: 'how much' } as const;
const sound = { name: 'probe', summary: 'A probe', options: { size: option }, create: () => {} };

it('gives create the types of its options', () => {
  const filter = defineFilter({
    name: 'probe',
    summary: 'A probe',
    options: {
      size: { kind: 'size', required: true, description: 'how much' },
      mode: { kind: 'choice', choices: ['a', 'b'], description: 'how' },
    },
    create(below, options) {
      expectTypeOf(options).toEqualTypeOf<{ readonly size: number; readonly mode: 'a' | 'b' | undefined }>();
      return below;
    },
  });
  expect(filter.options.mode.choices).toEqual(['a', 'b']);
});

describe('a definition', () => {
  it('that is sound has no problem', () => {
    expect(definitionProblem(sound)).toBeUndefined();
    expect(definitionProblem({ ...sound, options: {} })).toBeUndefined();
  });

  for (const [what, value] of [
    ['is an object made by defineFilter', undefined],
    ['is an object made by defineFilter', null],
    ['is an object made by defineFilter', () => {}],
    ['lower-case letters', { ...sound, name: 'Probe' }],
    ['lower-case letters', { ...sound, name: '' }],
    ['lower-case letters', { ...sound, name: './probe' }],
    ['lower-case letters', { ...sound, name: 7 }],
    ['no summary', { ...sound, summary: '' }],
    ['no create function', { ...sound, create: 'x' }],
    ['no options object', { ...sound, options: undefined }],
    ['option "a,b" must be', { ...sound, options: { 'a,b': option } }],
    ['option size has no known kind', { ...sound, options: { size: { ...option, kind: 'bytes' } } }],
    ['option size has no known kind', { ...sound, options: { size: null } }],
    ['option size has no description', { ...sound, options: { size: { kind: 'size' } } }],
    [
      'required and has a default',
      { ...sound, options: { size: { ...option, required: true, default: 1 } } },
    ],
  ] as const) {
    it(`that is wrong is told: ${what}`, () => {
      expect(definitionProblem(value)).toContain(what);
    });
  }

  it('that is wrong is refused by defineFilter', () => {
    expect(() => defineFilter({ ...sound, name: 'No Name', create: (below) => below })).toThrow(
      AssertionError,
    );
  });
});
