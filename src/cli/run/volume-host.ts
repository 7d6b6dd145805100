// What `serve` asks of whoever has its volumes: this process itself, or the workers that they are spread over.
import type { MaybePromise } from '../../base/maybe.ts';
import type { ChainHandlers } from '../../control/server.ts';
import type { ProcessStatus, VerifyProgress, VerifyResult } from '../../control/status.ts';
import type { ExportSpec } from '../../nbd/exports.ts';
import type { ClientTaker } from '../../nbd/hand-over.ts';
import type { Startup } from './service.ts';

/** The parts of a status that are about volumes. */
export type HostStatus = Pick<ProcessStatus, 'link' | 'links' | 'resyncReads' | 'volumes' | 'workers'>;

export interface VolumeHost {
  /** Opens the volumes, and registers how to stop all that was started. @throws UsageError or OperationError */
  open(startup: Startup): Promise<void>;
  /** In the order of the images. Their devices are closed by the host, after the server. */
  readonly exports: readonly ExportSpec[];
  /** Who carries out what clients ask for; undefined: the server that they talk to. */
  readonly taker: ClientTaker | undefined;
  /** Dials the hubs. */
  start(): void;
  /** Lets everything go on that is held, since clients' requests in flight are waited for. */
  endPauses(): void;
  status(): MaybePromise<HostStatus>;
  stats(): unknown;
  /** @throws OperationError when it can't be done, or not finished */
  verify(volume: string, onProgress: (progress: VerifyProgress) => void, hub?: string): Promise<VerifyResult>;
  /** @throws OperationError when it can't be done */
  resize(volume: string, sizeBytes: number): Promise<void>;
  readonly chains: ChainHandlers;
}
