// `repagent filters`: prints what the registry says of each filter.
import { describeFilters, type FilterDescription } from '../../filter/registry.ts';

export function runFilters(request: { readonly json: boolean }): number {
  const filters = describeFilters();
  process.stdout.write(request.json ? `${JSON.stringify(filters)}\n` : filterList(filters));
  return 0;
}

const REPAGENT_NOTE =
  'repagent\n  copies every change to the hub of --hub; place it among the others with --filter repagent,\n' +
  '  else it is the innermost\n';

/** The list as people read it. */
export function filterList(filters: readonly FilterDescription[]): string {
  return `${filters.map(filterText).join('\n')}\n${REPAGENT_NOTE}`;
}

function filterText(filter: FilterDescription): string {
  const lines = [filter.name, `  ${filter.summary}`];
  const nameWidth = Math.max(
    0,
    ...filter.options.map((option) => option.name.length + option.type.length + 1),
  );
  for (const option of filter.options) {
    const fallback =
      option.default === '' ? '' : option.default === 'required' ? ' (required)' : ` (${option.default})`;
    lines.push(`    ${`${option.name}=${option.type}`.padEnd(nameWidth)}  ${option.description}${fallback}`);
  }
  for (const example of filter.examples) lines.push(`  e.g. --filter ${example.spec}: ${example.text}`);
  return `${lines.join('\n')}\n`;
}
