// `repagent status`: its options. The body is in run/status.ts.
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseControl } from '../parse-address.ts';
import { askControlOption } from './shared-options.ts';

const STATUS_OPTIONS = {
  control: askControlOption,
  json: { type: 'flag', describe: 'print one JSON object' },
  watch: { type: 'flag', describe: 'again each second, until interrupted' },
} as const satisfies OptionTable;

export const statusCommand = defineCommand({
  name: 'status',
  describe: 'Show what a running agent or hub does',
  options: STATUS_OPTIONS,
  examples: [
    ['status', 'the one process that runs'],
    ['status --watch', 'the table, redrawn each second'],
    ['status --control 127.0.0.1:7070 --json', 'for scripts'],
  ],
  configFile: true,
  run: async (raw) => {
    const control = raw.control === undefined ? undefined : parseControl(raw.control);
    const { runStatus } = await import('../run/status.ts');
    return runStatus({ control, json: raw.json ?? false, watch: raw.watch ?? false });
  },
});
