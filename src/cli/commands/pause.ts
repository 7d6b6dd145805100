// `repagent pause`: its options. The body is in run/pause-volume.ts.
import { UsageError } from '../../base/errors.ts';
import { formatDuration, parseDurationMs } from '../../base/size.ts';
import { MAX_PAUSE_MS } from '../../control/status.ts';
import { defineCommand } from '../command.ts';
import type { OptionTable } from '../option-table.ts';
import { parseControl } from '../parse-address.ts';
import { askControlOption, volumeNameOption } from './shared-options.ts';

/** A guest notices a disk that doesn't answer for as long as this, but does not give up on it yet. */
const DEFAULT_TIMEOUT_MS = 30_000;

const PAUSE_OPTIONS = {
  volume: volumeNameOption,
  timeout: {
    type: 'text',
    describe: 'when it goes on by itself, resumed or not: 500ms, 30s, 2m, at most 1h',
    fallback: formatDuration(DEFAULT_TIMEOUT_MS),
  },
  flush: { type: 'flag', describe: 'also make everything durable before it counts as paused' },
  control: askControlOption,
} as const satisfies OptionTable;

/** Milliseconds. @throws UsageError */
export function parsePauseTimeout(text: string | undefined): number {
  if (text === undefined) return DEFAULT_TIMEOUT_MS;
  const ms = Math.ceil(parseDurationMs(text, '--timeout'));
  if (ms > 0 && ms <= MAX_PAUSE_MS) return ms;
  throw new UsageError(
    `--timeout: ${text} is out of range; allowed is 1ms to ${formatDuration(MAX_PAUSE_MS)}`,
  );
}

export const pauseCommand = defineCommand({
  name: 'pause',
  describe: "Hold a volume's requests, so that its image can be copied while nothing changes it",
  options: PAUSE_OPTIONS,
  examples: [
    [
      'pause disk',
      'returns when nothing is in flight; the guest waits until `repagent resume disk`, or 30 s',
    ],
    ['pause disk --flush --timeout 5s', 'for a snapshot of the storage below: all is durable'],
  ],
  configFile: false,
  run: async (raw) => {
    if (raw.volume === undefined) throw new UsageError('name the volume: repagent pause disk');
    const timeoutMs = parsePauseTimeout(raw.timeout);
    const control = raw.control === undefined ? undefined : parseControl(raw.control);
    const { runPause } = await import('../run/pause-volume.ts');
    return runPause({ control, volume: raw.volume, timeoutMs, flush: raw.flush ?? false });
  },
});
