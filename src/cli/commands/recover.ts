// `repagent recover`: its options. The body is in run/recover.ts.
import { resolve } from 'node:path';
import { UsageError } from '../../base/errors.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parsePairs } from '../parse-image.ts';
import { hubStateDir } from '../parse-values.ts';
import { logLevelOption } from './shared-options.ts';

const RECOVER_OPTIONS = {
  image: {
    type: 'text',
    positional: 'IMAGE',
    describe: 'NAME=PATH as the hub was given it, or the PATH of a replica below its --store',
  },
  'state-dir': {
    type: 'text',
    describe: "the hub's, for NAME=PATH",
    fallback: "repagent/hub in the user's state folder",
  },
  check: { type: 'flag', describe: 'change nothing; only say which point in time it would be' },
  json: { type: 'flag', describe: 'say it as one JSON object' },
  'log-level': { ...logLevelOption, fallback: 'warn' },
} as const satisfies OptionTable;

export const recoverCommand = defineCommand({
  name: 'recover',
  describe: 'Put a replica back to the last consistent state that it held, while its hub is stopped',
  options: RECOVER_OPTIONS,
  examples: [
    [
      'recover disk=replica.img',
      'undoes what an unfinished resync has overwritten, and says which time that is',
    ],
    ['recover /srv/replicas/vm/disk --check', 'only says what it would do'],
  ],
  configFile: false,
  run: async (raw) => {
    const { image } = raw;
    if (image === undefined) {
      throw new UsageError('name the image: repagent recover NAME=PATH, as on the command line of the hub');
    }
    const isPair = /^[^/]+=/.test(image);
    const [pair] = isPair ? parsePairs([image]) : [];
    const { runRecover } = await import('../run/recover.ts');
    return runRecover({
      volumeName: pair?.name,
      path: resolve(pair?.source ?? image),
      stateDir: hubStateDir(raw['state-dir']),
      checkOnly: raw.check ?? false,
      json: raw.json ?? false,
      logLevel: raw['log-level'] ?? 'warn',
    });
  },
});
