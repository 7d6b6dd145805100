// What a process tells of each volume: one shape for agent and hub, for people and for scripts.

import type { LagWindows } from '../base/lag-history.ts';
import type { ResyncRecord } from '../base/resync-log.ts';
import type { NotedError } from '../base/sticky-error.ts';

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

/** What became of a verification. */
export interface VerificationStatus {
  readonly by: 'schedule' | 'request';
  /** ISO 8601. */
  readonly startedAt: string;
  readonly durationMs: number;
  readonly outcome: 'equal' | 'differs' | 'failed';
  readonly comparedBytes: number;
  /** All that differs, and the first ranges of it. */
  readonly differingBytes: number;
  readonly differing: readonly { readonly offset: number; readonly length: number }[];
  /** What was done about it: it was read anew from the agent, or only told. */
  readonly action: 'none' | 'resync' | 'report';
  readonly error: string | null;
}

/** What a failover would give right now. */
export interface FailoverTo {
  /** `replica`: as it is; `recover`: after `repagent recover` has put it back. */
  readonly by: 'replica' | 'recover';
  /** Everything that the guest had written until then is there, Unix milliseconds; null: unknown. */
  readonly timeMs: number | null;
  /** The same as a position of the stream; null: unknown. */
  readonly sequence: number | null;
  /** Nothing later is there; false: what followed shortly after may be there in part, as after a crash. */
  readonly isExact: boolean;
}

export interface VolumeStatus {
  readonly name: string;
  /** The machine the volume belongs to, as the agent names it. */
  readonly vmName: string;
  readonly state: VolumeState;
  readonly sizeBytes: number;
  /** Bytes of disk whose replica is not known to be durable and equal, in units of the map's granularity. */
  readonly dirtyBytes: number;
  /** Bytes of mirrored changes that wait to be sent; null: unknown, as it is to hubs. */
  readonly queuedBytes: number | null;
  /** The newest change in the stream, and the newest that is durable at the hub. */
  readonly sequence: number;
  readonly ackedSequence: number;
  /** Age of the oldest change that is not durable at the hub, milliseconds (RPO); null when unknown. */
  readonly lagMs: number | null;
  /** How that went in the last minute and hour. A hub speaks of what has reached it. */
  readonly lagHistory?: LagWindows;
  /** What was read again, and why: newest first, what runs included. */
  readonly resyncs?: readonly ResyncRecord[];
  /**
   * With --on-hub-lag=throttle: by how much a guest's change is delayed now, the most that it may be, and how many were
   * since the start; null without. Told by agents.
   */
  readonly throttle?: {
    readonly delayMs: number;
    readonly maxDelayMs: number;
    readonly delayedChanges: number;
  } | null;
  /** Until what is queued has been sent, at the present rate, milliseconds; null when unknown. Told by agents. */
  readonly queueTimeLeftMs?: number | null;
  /** 0..100; null when no sync is under way and none has finished. */
  readonly syncPercent: number | null;
  readonly syncDoneBytes: number;
  readonly syncTotalBytes: number;
  readonly syncBytesPerSecond: number | null;
  readonly syncTimeLeftMs: number | null;
  readonly lastError: string | null;
  /** The first error since the process began, which no recovery and no later one hides. */
  readonly firstError?: NotedError | null;
  /** The last verification since the hub was started, and when the replica was last compared in full. Told by hubs. */
  readonly verification?: VerificationStatus | null;
  readonly verifiedAt?: string | null;
  /** What a failover would give right now; null: nothing usable. Told by hubs. */
  readonly failoverTo?: FailoverTo | null;
  /** Since when its clients' requests wait, until when, and how many do; null while they don't. Told by agents. */
  readonly paused?: { readonly forMs: number; readonly leftMs: number; readonly waitingCalls: number } | null;
  /** Whether clients may change it. Told by agents. */
  readonly readOnly?: boolean;
  /**
   * The same at each hub that the volume is replicated to. The volume's own figures are those of the hub where it is
   * worst off, so that it is `protected` when it is so at every hub. Told by agents that have a hub.
   */
  readonly hubs?: readonly HubVolumeStatus[];
}

/** What of a volume is about one of its hubs. */
export interface HubVolumeStatus
  extends Omit<VolumeStatus, 'name' | 'vmName' | 'sizeBytes' | 'paused' | 'readOnly' | 'hubs'> {
  /** Its name: the address, unless it was given one. */
  readonly hub: string;
  /** HOST:PORT. */
  readonly address: string;
  /** The state of the link to it. */
  readonly link: string;
}

/** What an agent sends to its hub, frames as they are on the wire; TLS and TCP not counted. */
export interface LinkTraffic {
  /** Since the process began. */
  readonly sentBytes: number;
  /** What those were before they were compressed; the same where nothing is. */
  readonly plainBytes: number;
  /** Over the last seconds; null in the first one. */
  readonly bytesPerSecond: number | null;
  /** The limit that holds now; null: none. */
  readonly limitBytesPerSecond: number | null;
}

/** What an agent reads of its disks for its hubs: resyncs, initial syncs, verifications. */
export interface ResyncReads {
  /** --resync-rate: it gives way to guests, or so many bytes a second at most. */
  readonly rate: 'auto' | number;
  /** Since the process began. */
  readonly readBytes: number;
  /** Over the last seconds; null in the first one. */
  readonly bytesPerSecond: number | null;
  /** Whether it gives way to guests now. */
  readonly yielding: boolean;
}

/** The agent's connection to a hub. */
export interface LinkStatus {
  /** The hub's name: the address, unless it was given one. */
  readonly name?: string;
  /** HOST:PORT. */
  readonly hub: string;
  readonly state: string;
  readonly lastError: string | null;
  /** The first since the process began. */
  readonly firstError?: NotedError | null;
  readonly traffic?: LinkTraffic;
  /** The codec that both sides agreed on; null: nothing is compressed on this connection. */
  readonly compression?: string | null;
}

/** What `repagent status --json` prints and GET /status answers. */
export interface ProcessStatus {
  readonly role: 'agent' | 'hub';
  readonly pid: number;
  readonly version: string;
  /** Where it listens, as URLs. */
  readonly listening: readonly string[];
  /** Agent: the hub's address and the link's state; of several hubs the first one whose link is not live. Hub: null. */
  readonly link: LinkStatus | null;
  /** Agent with a hub: all of them. */
  readonly links?: readonly LinkStatus[];
  /** Agent with a hub. */
  readonly resyncReads?: ResyncReads;
  /** Agent whose volumes are spread over workers: all of them. */
  readonly workers?: readonly WorkerStatus[];
  readonly volumes: readonly VolumeStatus[];
}

/** A process that has some of an agent's volumes. */
export interface WorkerStatus {
  /** Null while there is none. */
  readonly pid: number | null;
  /** `restarting`: it ended by itself, and is started again; its clients are gone, its volumes `failed`. */
  readonly state: 'starting' | 'running' | 'restarting' | 'stopping';
  readonly volumes: readonly string[];
  /** How often it was started again. */
  readonly restarts: number;
  readonly lastError: string | null;
}

/** Longest pause, milliseconds: a guest that hangs for longer has lost its disk by its own judgement. */
export const MAX_PAUSE_MS = 3_600_000;

/** How a volume is to be paused. */
export interface PauseOrder {
  /** When it goes on by itself, milliseconds after calls began to wait; at most {@link MAX_PAUSE_MS}. */
  readonly timeoutMs: number;
  /** Make everything durable first. */
  readonly flush: boolean;
}

export interface VerifyProgress {
  readonly comparedBytes: number;
  readonly totalBytes: number;
}

export interface VerifyResult {
  readonly volume: string;
  /** Whose replica it was; told by agents. */
  readonly hub?: string;
  readonly comparedBytes: number;
  readonly differing: readonly { readonly offset: number; readonly length: number }[];
}
