// `repagent wait`: its options. The body is in run/wait.ts.
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseControl } from '../parse-address.ts';
import { parseTimeout } from '../parse-values.ts';
import { askControlOption, hubOption, stateOption, volumeOption } from './shared-options.ts';

const WAIT_OPTIONS = {
  state: stateOption,
  volume: volumeOption,
  hub: hubOption,
  timeout: { type: 'text', describe: 'seconds, or 500ms, 2m, 1h; then exit 1', fallback: 'for ever' },
  control: askControlOption,
} as const satisfies OptionTable;

export const waitCommand = defineCommand({
  name: 'wait',
  describe: 'Wait until volumes reach a state',
  options: WAIT_OPTIONS,
  examples: [
    ['wait --state protected', 'until every volume is protected, at every hub that it is replicated to'],
    ['wait --hub near', 'until every volume is protected at the hub called near'],
    ['wait --volume disk --timeout 60', 'exit 1 when `disk` is not protected within a minute'],
  ],
  configFile: true,
  run: async (raw) => {
    const control = raw.control === undefined ? undefined : parseControl(raw.control);
    const timeoutMs = parseTimeout(raw.timeout, '--timeout');
    const { runWait } = await import('../run/wait.ts');
    const { state = 'protected', volume, hub } = raw;
    return runWait({ control, state, volume, hub, timeoutMs });
  },
});
