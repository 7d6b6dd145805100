// The parts of docs/filters.md that must be what the filters say of themselves, written from their descriptions.
import type { FilterDescription } from '../../src/filter/registry.ts';

/** The lines that the section of a filter begins with: summary, options, examples. */
export function filterSection(filter: FilterDescription): string {
  const parts = [`${filter.summary}.`, optionTable(filter)];
  parts.push(filter.examples.map(({ spec, text }) => `- \`--filter ${spec}\`: ${text}.`).join('\n'));
  return parts.filter((part) => part !== '').join('\n\n');
}

function optionTable({ options }: FilterDescription): string {
  if (options.length === 0) return '';
  const rows = options.map(
    (option) => `| \`${option.name}\` | ${option.type} | ${option.default} | ${option.description} |`,
  );
  return ['| option | type | default | meaning |', '| --- | --- | --- | --- |', ...rows].join('\n');
}
