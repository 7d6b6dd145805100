// `repagent resume`: its options. The body is in run/pause-volume.ts.
import { UsageError } from '../../base/errors.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseControl } from '../parse-address.ts';
import { askControlOption, volumeNameOption } from './shared-options.ts';

const RESUME_OPTIONS = {
  volume: volumeNameOption,
  control: askControlOption,
} as const satisfies OptionTable;

export const resumeCommand = defineCommand({
  name: 'resume',
  describe: 'Let a paused volume go on; exit 1 when its pause had ended before',
  options: RESUME_OPTIONS,
  examples: [
    [
      'resume disk',
      'exit 0 means: nothing changed the image since it was paused, so a copy of it is consistent',
    ],
  ],
  configFile: false,
  run: async (raw) => {
    if (raw.volume === undefined) throw new UsageError('name the volume: repagent resume disk');
    const control = raw.control === undefined ? undefined : parseControl(raw.control);
    const { runResume } = await import('../run/pause-volume.ts');
    return runResume({ control, volume: raw.volume });
  },
});
