// What a connection to the hub needs of its agent.
import type { Logger } from '../base/log.ts';
import type { CompressMode } from './compression.ts';
import type { LinkLimiter } from './link-limiter.ts';
import type { ProtectedVolume } from './protected-volume.ts';
import type { RemoteIoOptions } from './remote-io.ts';

export interface SessionOptions extends Pick<RemoteIoOptions, 'stream' | 'stats' | 'pace'> {
  readonly vmName: string;
  /** 16 bytes. */
  readonly agentId: Buffer;
  readonly epoch: bigint;
  /** The hub has said its id, 16 bytes. @throws OperationError when it can't be followed */
  readonly admitHub: (hubId: Buffer) => void;
  /** Feature bits of HELLO. */
  readonly features: number;
  readonly pingIntervalMs: number;
  readonly pingDeadMs: number;
  /** How often a volume that the hub refused is reported again, ms. */
  readonly reportRetryMs: number;
  readonly volumes: ReadonlyMap<string, ProtectedVolume>;
  readonly limiter: LinkLimiter;
  readonly compress: CompressMode;
  readonly nowUs: () => number;
  readonly logger: Logger;
  /** The hub has said what it speaks. */
  readonly onNegotiated: () => void;
  /** It's over. Called once. */
  readonly onEnded: (reason: Error | undefined) => void;
}
