// The volumes that this process has itself: their chains, what replicates them, and what can be asked of them.
import { assert } from '../../base/assert.ts';
import { BlockError, OperationError } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { ChainHandlers } from '../../control/server.ts';
import type { VerifyProgress, VerifyResult, VolumeStatus } from '../../control/status.ts';
import type { ExportSpec } from '../../nbd/exports.ts';
import type { ServeConfig } from '../commands/serve.ts';
import type { ExportSettings } from '../parse-export.ts';
import { isNbdUri } from '../parse-image.ts';
import { openVolume, type PlannedLink, type Volume } from './build-volume.ts';
import { type Replication, unprotectedVolume } from './replication.ts';
import type { Startup } from './service.ts';
import type { HostStatus, VolumeHost } from './volume-host.ts';

export interface LocalVolumesOptions {
  readonly config: ServeConfig;
  readonly plan: readonly PlannedLink[];
  readonly replication: () => Promise<Replication>;
  readonly logger: Logger;
}

/** A volume as clients are shown it. */
export function describeExport(
  config: ServeConfig,
  { name, device, contexts }: Pick<Volume, 'name' | 'device' | 'contexts'>,
): ExportSpec {
  const kind = config.hubs.length > 0 ? `${config.format} image, replicated` : `${config.format} image`;
  const { description = kind, readOnly, rotational, visibility } = settingsOf(config, name);
  return { name, device, description, contexts, readOnly, rotational, visibility };
}

function settingsOf({ exports }: ServeConfig, name: string): ExportSettings {
  const settings = exports.get(name);
  assert(settings !== undefined, `no settings for the export ${name}`);
  return settings;
}

export class LocalVolumes implements VolumeHost {
  readonly taker = undefined;
  readonly chains: ChainHandlers = {
    pause: (volume, order, signal) => this.#volume(volume).pauser.pause({ ...order, signal }),
    resume: (volume) => this.#volume(volume).pauser.resume(),
    adjust: async (volume, filter, changes) => {
      const one = this.#volume(volume);
      await one.adjust(filter, changes);
      return one.stats()[filter];
    },
  };
  readonly #options: LocalVolumesOptions;
  readonly #volumes: Volume[] = [];
  #replication: Replication | undefined;

  constructor(options: LocalVolumesOptions) {
    this.#options = options;
  }

  async open(startup: Startup): Promise<void> {
    const { config, plan, logger } = this.#options;
    const replication = await this.#options.replication();
    this.#replication = replication;
    for (const image of config.images) {
      const { format, upstreamConnections } = config;
      const { readOnly } = this.#settings(image.name);
      const createSizeBytes = isNbdUri(image.source) ? undefined : config.createSizeBytes;
      const from = { image, format, readOnly, createSizeBytes, upstreamConnections };
      const options = { ...from, plan, replication, logger };
      const volume = await startup.step(`volume ${image.name}`, openVolume(options), (one) =>
        one.device.close(),
      );
      this.#volumes.push(volume);
    }
    // Before the images: until the goodbye the hub may still read what it lacks.
    await startup.step('replication', Promise.resolve(replication), (one) => one.close());
  }

  get exports(): readonly ExportSpec[] {
    return this.#volumes.map((volume) => describeExport(this.#options.config, volume));
  }

  start(): void {
    this.#replication?.start();
  }

  endPauses(): void {
    for (const { pauser } of this.#volumes) pauser.close();
  }

  status(): HostStatus {
    const replicated = this.#replication?.status();
    const known = new Set(replicated?.volumes.map((volume) => volume.name));
    const others = this.#volumes.filter((volume) => !known.has(volume.name));
    return {
      link: replicated?.link ?? null,
      ...(replicated?.links && { links: replicated.links }),
      ...(replicated?.resyncReads && { resyncReads: replicated.resyncReads }),
      volumes: [
        ...(replicated?.volumes ?? []),
        ...others.map(({ name, device }) =>
          unprotectedVolume(name, this.#options.config.vmName, device.sizeBytes),
        ),
      ].map((volume) => ({ ...volume, ...this.#chainStatus(volume.name) })),
    };
  }

  stats(): unknown {
    return {
      filters: Object.fromEntries(this.#volumes.map((volume) => [volume.name, volume.stats()])),
      agent: this.#replication?.stats(),
    };
  }

  verify(
    volume: string,
    onProgress: (progress: VerifyProgress) => void,
    hub?: string,
  ): Promise<VerifyResult> {
    return this.#replication!.verify(volume, onProgress, hub);
  }

  async resize(name: string, sizeBytes: number): Promise<void> {
    const volume = this.#volume(name);
    try {
      await volume.device.resize(sizeBytes);
    } catch (error) {
      if (error instanceof BlockError) throw new OperationError(error.message, { cause: error });
      throw error;
    }
    this.#options.logger.info({ volume: name, sizeBytes }, 'resized');
  }

  #settings(name: string): ExportSettings {
    return settingsOf(this.#options.config, name);
  }

  #volume(name: string): Volume {
    const volume = this.#volumes.find((one) => one.name === name);
    if (!volume) throw new OperationError(`there is no volume ${JSON.stringify(name)}`);
    return volume;
  }

  /** What the chain says of a volume, beside what replication does. */
  #chainStatus(name: string): Pick<VolumeStatus, 'paused' | 'readOnly'> {
    const volume = this.#volumes.find((one) => one.name === name);
    if (!volume) return {};
    const paused = volume.pauser.status();
    return {
      paused: paused
        ? { forMs: paused.pausedMs, leftMs: paused.leftMs, waitingCalls: paused.waitingCalls }
        : null,
      readOnly: this.#settings(name).readOnly || volume.device.limits.readOnly,
    };
  }
}
