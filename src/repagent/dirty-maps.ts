// Opens the dirty map of each volume of an agent, whatever is found there, and says what it was.
import { errorMessage, OperationError } from '../base/errors.ts';
import { DIRTY_GRANULARITY_BYTES } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import { DirtySidecar } from './dirty-sidecar.ts';
import type { SidecarFile } from './sidecar-file.ts';
import type { ImageMark } from './sidecar-finding.ts';

export interface DirtyMapsOptions {
  readonly agentId: Buffer;
  /** 16 bytes that differ after every start of the machine. */
  readonly bootId: Buffer;
  /** Opens the file of a volume's map, or creates it. @throws Error with `code` */
  readonly open: (volumeName: string) => SidecarFile;
  /** Bytes of disk that one bit of a map stands for. */
  readonly granularityBytes?: number | undefined;
  /** Makes each new bit durable before its data is written. */
  readonly exact?: boolean | undefined;
  readonly logger: Logger;
}

export interface MapRequest {
  readonly volumeName: string;
  readonly sizeBytes: number;
  readonly image: ImageMark | undefined;
  readonly onBroken: (error: unknown) => void;
}

export class DirtyMaps {
  readonly #options: DirtyMapsOptions;

  constructor(options: DirtyMapsOptions) {
    this.#options = options;
  }

  /** @throws OperationError when its file can't be used */
  openMap(request: MapRequest): DirtySidecar {
    const { agentId, bootId, open, granularityBytes, exact, logger } = this.#options;
    const { volumeName } = request;
    try {
      const sidecar = new DirtySidecar({
        ...request,
        file: open(volumeName),
        agentId,
        granularityBytes: granularityBytes ?? DIRTY_GRANULARITY_BYTES,
        bootId,
        exact: exact ?? false,
        logger,
      });
      tell(logger, volumeName, sidecar);
      return sidecar;
    } catch (error) {
      throw new OperationError(`the dirty map of ${volumeName} can't be kept: ${errorMessage(error)}`, {
        hint: 'make room there, or name another directory with --state-dir',
        cause: error,
      });
    }
  }
}

function tell(logger: Logger, volume: string, { finding, bits, granularityBytes }: DirtySidecar): void {
  const about = { volume, finding, dirtyBytes: bits.count * granularityBytes };
  switch (finding) {
    case 'new':
    case 'clean':
    case 'exact':
    case 'agent-crash':
      logger.info(about, 'the dirty map was opened');
      return;
    case 'host-crash':
      logger.warn(
        about,
        'the machine ended without a shutdown: the volume will be compared with its replica',
      );
      return;
    case 'image-changed':
      logger.warn(
        about,
        'the image was changed while this map was not kept: it will be compared with its replica',
      );
      return;
    case 'corrupt':
      logger.error(about, 'the dirty map is damaged: the volume will be compared with its replica');
      return;
    case 'foreign':
      logger.error(about, 'the dirty map is of another agent or volume: it is not used');
      return;
  }
}
