// `repagent filters`: its options. The body is in run/filters.ts.
import { defineCommand } from '../command.ts';

export const filtersCommand = defineCommand({
  name: 'filters',
  describe: 'List the filters and their options',
  options: { json: { type: 'flag', describe: 'print one JSON object' } },
  examples: [['filters', 'what --filter of `repagent serve` takes']],
  configFile: false,
  run: async (raw) => {
    const { runFilters } = await import('../run/filters.ts');
    return runFilters({ json: raw.json ?? false });
  },
});
