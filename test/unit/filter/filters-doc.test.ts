// docs/filters.md says what the filters say: options, types, defaults and examples can't drift.
import fs from 'node:fs';
import { describe, expect, it } from 'vitest';
import { describeFilters } from '../../../src/filter/registry.ts';
import { filterSection } from '../../support/filter-docs.ts';

const text = fs.readFileSync(new URL('../../../docs/filters.md', import.meta.url), 'utf8');
const sections = new Map(
  text
    .split(/^## /m)
    .slice(1)
    .map((section) => {
      const [title = '', ...rest] = section.split('\n');
      return [title, rest.join('\n').trim()] as const;
    }),
);
// Filters that other tests register are not the documentation's business.
const filters = describeFilters();

describe('docs/filters.md', () => {
  for (const filter of filters) {
    it(`describes ${filter.name} as it is`, () => {
      const section = sections.get(`Filter ${filter.name}`) ?? '';
      const expected = filterSection(filter);
      expect(section.slice(0, expected.length)).toBe(expected);
      expect(section.slice(expected.length)).not.toMatch(/^\||^- `--filter/m);
    });
  }

  it('has a section for each filter, in order, and none for others', () => {
    const titles = [...sections.keys()].filter((title) => title.startsWith('Filter '));
    expect(titles).toEqual(filters.map(({ name }) => `Filter ${name}`));
  });
});
