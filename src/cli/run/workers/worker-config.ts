// What one worker makes of the options of the whole: its volumes, and its part of every limit. Pure.
import { UsageError } from '../../../base/errors.ts';
import { SECTOR_BYTES } from '../../../base/limits.ts';
import type { Bandwidth } from '../../../repagent/bandwidth-schedule.ts';
import type { ServeConfig } from '../../commands/serve.ts';
import { MIN_BYTES_PER_SECOND } from '../../parse-bandwidth.ts';
import { MIN_RESYNC_RATE } from '../../parse-replication.ts';

/**
 * The configuration of one worker: its volumes, and of every limit that is for the whole agent its part, by their number.
 * @throws UsageError when a part is too small to work with
 */
export function workerConfig(config: ServeConfig, volumes: readonly string[]): ServeConfig {
  const part = volumes.length / config.images.length;
  const { queueBytes, bandwidth, resyncRate } = config;
  const limit = (rate: Bandwidth): Bandwidth =>
    rate === null ? null : atLeast(MIN_BYTES_PER_SECOND, Math.floor(rate * part), '--hub-bandwidth', config);
  return {
    ...config,
    images: config.images.filter((image) => volumes.includes(image.name)),
    queueBytes: atLeast(SECTOR_BYTES, Math.floor(queueBytes * part), '--queue-bytes', config),
    bandwidth: bandwidth && {
      rules: bandwidth.rules.map((rule) => ({ ...rule, limit: limit(rule.limit) })),
      otherwise: limit(bandwidth.otherwise),
    },
    resyncRate:
      resyncRate === 'auto'
        ? resyncRate
        : atLeast(MIN_RESYNC_RATE, Math.floor(resyncRate * part), '--resync-rate', config),
  };
}

function atLeast(least: number, value: number, option: string, { placement }: ServeConfig): number {
  if (value >= least) return value;
  throw new UsageError(
    `${option}: a worker's part of it, for its share of the volumes, would be ${value}; the least is ${least}; give more, or have fewer than ${placement.length} workers`,
  );
}
