// `repagent readonly`: its options. The body is in run/adjust.ts.
import { UsageError } from '../../base/errors.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseControl } from '../parse-address.ts';
import { askControlOption, volumeNameOption } from './shared-options.ts';

const SWITCH = ['on', 'off'];

const READONLY_OPTIONS = {
  volume: volumeNameOption,
  switch: { type: 'text', positional: 'ON|OFF', describe: 'on: changes are refused; off: they pass' },
  control: askControlOption,
} as const satisfies OptionTable;

export const readonlyCommand = defineCommand({
  name: 'readonly',
  describe: 'Fence a volume against changes, or open it again, by its filter readonly',
  options: READONLY_OPTIONS,
  examples: [
    ['readonly disk on', 'returns when no change is in flight; from then on clients get EPERM'],
    ['readonly disk off', 'changes pass; clients that saw it read-only must connect anew'],
  ],
  configFile: false,
  run: async (raw) => {
    const { volume, switch: wanted } = raw;
    if (volume === undefined || wanted === undefined) {
      throw new UsageError('name the volume and say on or off: repagent readonly disk on');
    }
    // No guess: `of` is as near to the one as to the other, and they are opposites.
    if (!SWITCH.includes(wanted)) {
      throw new UsageError(`${JSON.stringify(wanted)} is neither on nor off`);
    }
    const control = raw.control === undefined ? undefined : parseControl(raw.control);
    const { runAdjust } = await import('../run/adjust.ts');
    return runAdjust({ control, volume, filter: 'readonly', settings: [`active=${wanted}`], json: false });
  },
});
