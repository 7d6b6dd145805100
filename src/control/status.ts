// What a process tells of each volume: one shape for agent and hub, for people and for scripts.

/**
 * The states of a volume's protection, in the order in which a volume usually meets them.
 * `degraded`: changes are only recorded in the dirty map, the hub is not following (link lost or queue overflowed).
 * `converging`: everything was read, the stream has to catch up with the last read before the replica is consistent.
 */
export const VOLUME_STATES = [
  'unprotected',
  'initial-sync',
  'resync',
  'converging',
  'protected',
  'degraded',
  'failed',
] as const;
export type VolumeState = (typeof VOLUME_STATES)[number];

export interface VolumeStatus {
  readonly name: string;
  /** The machine the volume belongs to, as the agent names it. */
  readonly vmName: string;
  readonly state: VolumeState;
  readonly sizeBytes: number;
  /** Bytes of disk whose replica is not known to be durable and equal, in units of the map's granularity. */
  readonly dirtyBytes: number;
  /** Bytes of mirrored changes that wait to be sent. */
  readonly queuedBytes: number;
  /** The newest change in the stream, and the newest that is durable at the hub. */
  readonly sequence: number;
  readonly ackedSequence: number;
  /** Age of the oldest change that is not durable at the hub, milliseconds (RPO); null when unknown. */
  readonly lagMs: number | null;
  /** 0..100; null when no sync is under way and none has finished. */
  readonly syncPercent: number | null;
  readonly syncDoneBytes: number;
  readonly syncTotalBytes: number;
  readonly syncBytesPerSecond: number | null;
  readonly syncTimeLeftMs: number | null;
  readonly lastError: string | null;
}

/** What `repagent status --json` prints and GET /status answers. */
export interface ProcessStatus {
  readonly role: 'agent' | 'hub';
  readonly pid: number;
  readonly version: string;
  /** Where it listens, as URLs. */
  readonly listening: readonly string[];
  /** Agent: the hub's address and the link's state. Hub: null. */
  readonly link: { readonly hub: string; readonly state: string; readonly lastError: string | null } | null;
  readonly volumes: readonly VolumeStatus[];
}

export interface VerifyProgress {
  readonly comparedBytes: number;
  readonly totalBytes: number;
}

export interface VerifyResult {
  readonly volume: string;
  readonly comparedBytes: number;
  readonly differing: readonly { readonly offset: number; readonly length: number }[];
}
