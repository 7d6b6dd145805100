// `repagent resize`: its options. The body is in run/resize.ts.
import { UsageError } from '../../base/errors.ts';
import { SECTOR_BYTES } from '../../base/limits.ts';
import { parseSize } from '../../base/size.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseControl } from '../parse-address.ts';
import { askControlOption, volumeNameOption } from './shared-options.ts';

const RESIZE_OPTIONS = {
  volume: volumeNameOption,
  size: { type: 'text', positional: 'SIZE', describe: 'the new size (20G), or by how much it grows (+5G)' },
  control: askControlOption,
} as const satisfies OptionTable;

/** A size, or what is to be added to it. */
export interface NewSize {
  readonly bytes: number;
  readonly isRelative: boolean;
}

/** @throws UsageError */
export function parseNewSize(text: string): NewSize {
  const isRelative = text.startsWith('+');
  const bytes = parseSize(isRelative ? text.slice(1) : text, 'SIZE');
  if (bytes === 0 || bytes % SECTOR_BYTES !== 0) {
    throw new UsageError(`SIZE: ${text} is no multiple of ${SECTOR_BYTES} bytes above 0`);
  }
  return { bytes, isRelative };
}

export const resizeCommand = defineCommand({
  name: 'resize',
  describe: 'Make a served image and its replica larger, while guests use it',
  options: RESIZE_OPTIONS,
  examples: [
    ['resize disk 20G', 'the image `disk` gets 20 GiB; clients that connect from then on see it'],
    ['resize disk +5G', '5 GiB more than now'],
  ],
  configFile: false,
  run: async (raw) => {
    if (raw.volume === undefined || raw.size === undefined) {
      throw new UsageError('name the volume and its new size: repagent resize disk 20G');
    }
    const size = parseNewSize(raw.size);
    const control = raw.control === undefined ? undefined : parseControl(raw.control);
    const { runResize } = await import('../run/resize.ts');
    return runResize({ control, volume: raw.volume, size });
  },
});
