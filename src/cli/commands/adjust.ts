// `repagent adjust`: its options. The body is in run/adjust.ts.
import { UsageError } from '../../base/errors.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseControl } from '../parse-address.ts';
import { askControlOption, volumeNameOption } from './shared-options.ts';

const ADJUST_OPTIONS = {
  volume: volumeNameOption,
  filter: {
    type: 'text',
    positional: 'FILTER',
    describe: 'as --filter of `repagent serve` named it; the second one of a name is `rate#2`',
  },
  setting: {
    type: 'text',
    positional: 'OPTION=VALUE',
    repeatable: true,
    describe: 'what changes, of those options that `repagent filters` calls adjustable',
  },
  json: { type: 'flag', describe: 'print what the filter then says of itself, as one JSON object' },
  control: askControlOption,
} as const satisfies OptionTable;

export const adjustCommand = defineCommand({
  name: 'adjust',
  describe: 'Change options of a filter while it runs',
  options: ADJUST_OPTIONS,
  examples: [
    ['adjust disk rate write-bytes=20M', 'from now on 20 MiB are written a second'],
    ['adjust disk rate bytes=0 requests=0', 'no limit'],
  ],
  configFile: false,
  run: async (raw) => {
    const { volume, filter, setting = [] } = raw;
    if (volume === undefined || filter === undefined || setting.length === 0) {
      throw new UsageError(
        'name the volume, the filter and what changes: repagent adjust disk rate write-bytes=20M',
      );
    }
    for (const one of setting) {
      if (!/^[^=]+=/.test(one)) throw new UsageError(`${JSON.stringify(one)} is not OPTION=VALUE`);
    }
    const control = raw.control === undefined ? undefined : parseControl(raw.control);
    const { runAdjust } = await import('../run/adjust.ts');
    return runAdjust({ control, volume, filter, settings: setting, json: raw.json ?? false });
  },
});
