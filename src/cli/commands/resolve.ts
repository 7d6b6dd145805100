// `repagent resolve`: its options. The body is in run/resolve.ts.
import { UsageError } from '../../base/errors.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseControl } from '../parse-address.ts';
import { askControlOption } from './shared-options.ts';

const RESOLVE_OPTIONS = {
  volume: { type: 'text', positional: 'VOLUME', describe: 'the volume that the hub refuses' },
  use: {
    type: 'text',
    choices: ['agent', 'replica'],
    describe:
      "who is right; agent: the replica is compared with the agent's disk and made equal, replica: it stays",
  },
  agent: {
    type: 'text',
    describe: 'id of the agent that may have the replica, 32 hexadecimal digits',
    fallback: 'the one that was refused last',
  },
  control: askControlOption,
} as const satisfies OptionTable;

export const resolveCommand = defineCommand({
  name: 'resolve',
  describe: "Say who is right when a hub refuses a volume because agent's and replica's stories don't fit",
  options: RESOLVE_OPTIONS,
  examples: [
    ['resolve disk --use agent', "the agent's disk counts; what differs in the replica is overwritten"],
    ['resolve disk --use replica', 'nobody may write to the replica, until --use agent is said'],
  ],
  configFile: false,
  run: async (raw) => {
    if (raw.volume === undefined || raw.use === undefined) {
      throw new UsageError('name the volume and who is right: repagent resolve disk --use agent|replica');
    }
    if (raw.agent !== undefined && !/^[0-9a-f]{32}$/.test(raw.agent)) {
      throw new UsageError(`--agent: ${raw.agent} is no agent's id; the hub's log and status name it`);
    }
    const control = raw.control === undefined ? undefined : parseControl(raw.control);
    const { runResolve } = await import('../run/resolve.ts');
    return runResolve({ control, volume: raw.volume, use: raw.use, agentId: raw.agent });
  },
});
