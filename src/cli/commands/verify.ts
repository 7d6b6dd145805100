// `repagent verify`: its options. The body is in run/verify.ts.
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseControl } from '../parse-address.ts';
import { askControlOption, hubOption, volumeOption } from './shared-options.ts';

const VERIFY_OPTIONS = {
  volume: volumeOption,
  hub: hubOption,
  control: askControlOption,
  json: { type: 'flag', describe: 'print one JSON object' },
} as const satisfies OptionTable;

export const verifyCommand = defineCommand({
  name: 'verify',
  describe: 'Compare volume and replica by digests, without stopping writes',
  options: VERIFY_OPTIONS,
  examples: [
    ['verify', 'every volume of the one process that runs; exit 0 when all are equal'],
    ['verify --volume disk', 'one volume; ranges that differ are listed'],
    ['verify --hub near', 'the replicas at one of several hubs'],
  ],
  configFile: true,
  run: async (raw) => {
    const control = raw.control === undefined ? undefined : parseControl(raw.control);
    const { runVerifyCommand } = await import('../run/verify.ts');
    const { volume, hub, json = false } = raw;
    return runVerifyCommand({ control, volume, hub, json });
  },
});
