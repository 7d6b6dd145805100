// Times and sizes of the hub that are no options of the command line: what they are, and what tests may make shorter.
import { KiB, MiB, TiB } from '../base/limits.ts';
import { FEATURE_BROTLI, FEATURE_PAIRING, FEATURE_WIDE_READS } from '../repwire/constants.ts';
import { DEFAULT_SYNC_TUNING, type SyncTuning } from './sync-engine.ts';

export interface HubTuning {
  readonly sync: SyncTuning;
  /** From the start of one commit to the start of the next, ms: bounds the syncs and the acks of a busy volume. */
  readonly gatherMs: number;
  /** The same while a volume is read: nothing is acknowledged then, but the last commit must not become huge. */
  readonly syncGatherMs: number;
  /** First and longest wait before something that failed is tried again, ms. */
  readonly retryFirstMs: number;
  readonly retryLongestMs: number;
  /** How often an agent is told of a sync's progress at most, ms. */
  readonly progressMs: number;
  /** An agent must have said who it is by then, ms. */
  readonly handshakeMs: number;
  /** A connection on which nothing arrives for so long is dead, ms. */
  readonly deadMs: number;
  /** Reads of all volumes of one agent on their way. */
  readonly maxSessionReads: number;
  /** Bytes that an agent may leave unread before its connection is ended. */
  readonly maxUnsentBytes: number;
  /** What an agent packed is unpacked at once up to this size, in a few milliseconds; on the thread pool above, bytes. */
  readonly unpackAtOnceBytes: number;
  /** From one durable record of a replica's position to the next, ms. */
  readonly recordMs: number;
  readonly verify: VerifyTuning;
}

export interface VerifyTuning {
  /** Bytes of one digest, and the fewest that a range which keeps changing is divided into. */
  readonly rangeBytes: number;
  readonly minRangeBytes: number;
  /** Digests on their way. */
  readonly window: number;
  /** How long a verification may make no progress, ms. */
  readonly stallMs: number;
  /** Before a range that was busy is asked for again, ms. */
  readonly retryMs: number;
}

export const DEFAULT_TUNING: HubTuning = {
  sync: DEFAULT_SYNC_TUNING,
  gatherMs: 5,
  syncGatherMs: 500,
  retryFirstMs: 1000,
  retryLongestMs: 30_000,
  progressMs: 250,
  handshakeMs: 10_000,
  deadMs: 10_000,
  maxSessionReads: 32,
  maxUnsentBytes: 16 * MiB,
  unpackAtOnceBytes: 512 * KiB,
  recordMs: 1000,
  verify: { rangeBytes: 256 * KiB, minRangeBytes: 16 * KiB, window: 4, stallMs: 60_000, retryMs: 50 },
};

/** What the hub can do, as its HELLO says it. */
export const HUB_FEATURES = FEATURE_PAIRING + FEATURE_BROTLI + FEATURE_WIDE_READS;

/** How often agents are told to expect a sign of life, ms. */
export const DEFAULT_PING_INTERVAL_MS = 2000;

/** Most agents connected at one time. */
export const MAX_SESSIONS = 1024;

/** Largest volume that is replicated: bounds the bitmaps of its chunks to 128 MiB each. */
export const MAX_REPLICA_BYTES = 64 * TiB;
