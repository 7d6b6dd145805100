// The commands as values: byte offsets and lengths instead of sectors, texts instead of padded fields.
// Payload buffers are lent: they lie in the receive buffer and are valid only until the handler returns.
import type { ResyncReason } from '../base/resync-reason.ts';
import type { AckState, ClaimFinding, PackCodec } from './constants.ts';

/** A range of a disk, bytes, whole sectors. */
export interface DiskRange {
  readonly offset: number;
  readonly length: number;
}

export interface ReportedVolume {
  readonly name: string;
  readonly volumeId: bigint;
  readonly sizeBytes: number;
}

export interface ProtectedWrite {
  readonly kind: 'protectedWrite';
  readonly volumeId: bigint;
  readonly offset: number;
  readonly length: number;
  /** 0, or the write failed at the agent and `data` is empty. */
  readonly status: number;
  /** 0 without HELLO, as are the next two. */
  readonly sequence: number;
  readonly timeUs: number;
  readonly crc32: number;
  readonly data: Buffer;
}

export interface ReportVmVolumes {
  readonly kind: 'reportVmVolumes';
  /** The agent can say HELLO. */
  readonly offersHello: boolean;
  readonly volumes: readonly ReportedVolume[];
}

export interface StartProtect {
  readonly kind: 'startProtect';
  readonly volumeId: bigint;
  readonly name: string;
  /** With HELLO: the hub kept the replica and holds itself responsible for everything up to this sequence; else null. */
  readonly resumeSequence: number | null;
  /** With FEATURE_PAIRING: what both sides keep of this attachment; else null. */
  readonly pairing: StartPairing | null;
}

/** An attachment of a replica, by names that survive both sides' ends. */
export interface StartPairing {
  /** Names the relation of volume and replica; random, never 0. */
  readonly pairing: bigint;
  /** Counts the attachments of it. */
  readonly generation: number;
  /** The replica lacks what the agent's kept map names, and nothing else. */
  readonly recalls: boolean;
}

/** `length` and `offset` are as the peer sent them and may be hostile: negative, or beyond any disk. */
export interface RemoteIoRequest {
  readonly kind: 'remoteIoRequest';
  readonly requestId: number;
  readonly volumeId: bigint;
  readonly offsetSectors: bigint;
  readonly sizeSectors: number;
  readonly isRead: boolean;
  readonly data: Buffer;
}

export interface RemoteIoResponse {
  readonly kind: 'remoteIoResponse';
  readonly requestId: number;
  readonly volumeId: bigint;
  /** 0 or -1. */
  readonly status: number;
  /** With HELLO: the newest sequence of the stream when the data was read; else 0. */
  readonly sequence: number;
  /** With HELLO: the range is all zero and `data` is empty. */
  readonly allZero: boolean;
  /** Of a wide read: so much of its start is answered, bytes; 0: all of it. */
  readonly answeredBytes: number;
  readonly data: Buffer;
}

export interface AgentShutdown {
  readonly kind: 'agentShutdown';
  /** With HELLO: the newest sequence of the stream; else 0. */
  readonly sequence: number;
}

export interface Hello {
  readonly kind: 'hello';
  readonly version: number;
  readonly features: number;
  /** Who: 16 bytes, persistent. */
  readonly id: Buffer;
  /** Which life of it: what it keeps in memory only is gone when this changes. */
  readonly epoch: bigint;
  /** The sender pings at least this often; 0: it doesn't. */
  readonly pingIntervalMs: number;
  /** Agent: the machine's name. Hub: its own. */
  readonly name: string;
}

export interface Ack {
  readonly kind: 'ack';
  readonly volumeId: bigint;
  /** Everything of this volume up to here is durable at the hub and its replica is complete. */
  readonly sequence: number;
  readonly state: AckState;
  readonly syncDoneBytes: number;
  readonly syncTotalBytes: number;
  /** Why the hub synchronises, or did last. */
  readonly reason: ResyncReason;
}

export interface ProtectedZero {
  readonly kind: 'protectedZero';
  readonly volumeId: bigint;
  readonly offset: number;
  readonly length: number;
  readonly sequence: number;
  readonly timeUs: number;
  readonly trim: boolean;
}

export interface ProtectedFlush {
  readonly kind: 'protectedFlush';
  readonly volumeId: bigint;
  readonly sequence: number;
  readonly timeUs: number;
}

export interface Dirty {
  readonly kind: 'dirty';
  readonly volumeId: bigint;
  readonly sequence: number;
  readonly timeUs: number;
  readonly extents: readonly DiskRange[];
  /** More frames with this sequence follow; the list is complete only with the last. */
  readonly more: boolean;
  /** Why the stream did not bring them. */
  readonly reason: ResyncReason;
  /** What guests wrote meanwhile, each time counted; null: not known. */
  readonly changedBytes: number | null;
}

export interface HashRequest {
  readonly kind: 'hashRequest';
  readonly requestId: number;
  readonly volumeId: bigint;
  readonly offsetSectors: bigint;
  readonly sizeSectors: number;
}

export interface HashResponse {
  readonly kind: 'hashResponse';
  readonly requestId: number;
  readonly volumeId: bigint;
  /** One of HASH_STATUS. */
  readonly status: number;
  /** The stream's position at which the digest is true: the response travels in stream order. */
  readonly sequence: number;
  readonly digest: Buffer;
}

export interface Ping {
  readonly kind: 'ping' | 'pong';
  readonly token: bigint;
  /** The sender's clock, Unix microseconds. */
  readonly timeUs: number;
}

export interface VerifyRequest {
  readonly kind: 'verifyRequest';
  readonly requestId: number;
  readonly volumeId: bigint;
}

export interface VerifyResponse {
  readonly kind: 'verifyResponse';
  readonly requestId: number;
  readonly volumeId: bigint;
  /** One of VERIFY_STATUS. */
  readonly status: number;
  readonly comparedBytes: number;
  readonly totalBytes: number;
  readonly differing: readonly DiskRange[];
}

/** The hub can't replicate a volume and says why: size mismatch, no pair, storage error, claimed by another agent. */
export interface VolumeError {
  readonly kind: 'volumeError';
  readonly volumeId: bigint;
  readonly text: string;
}

/** What the agent remembers of a volume's replica. */
export interface Claim {
  readonly kind: 'claim';
  readonly volumeId: bigint;
  /** 0: of none. */
  readonly pairing: bigint;
  readonly generation: number;
  /** The newest position of that generation that the hub said is in its record. */
  readonly recordedSequence: number;
  /** The agent's map names everything that the replica may lack. */
  readonly isBelieved: boolean;
  readonly finding: ClaimFinding;
}

/** The hub's record has come to `sequence`; the agent echoes it once it has kept that too. */
export interface Recorded {
  readonly kind: 'recorded';
  readonly volumeId: bigint;
  readonly pairing: bigint;
  readonly generation: number;
  readonly sequence: number;
}

/** Frames that were packed together; see packed-frames.ts. */
export interface Packed {
  readonly kind: 'packed';
  readonly codec: PackCodec;
  /** Bytes of the frames, within the limit. */
  readonly contentBytes: number;
  readonly data: Buffer;
}

/** A command of a later version: its payload was skipped. */
export interface UnknownCommand {
  readonly kind: 'unknown';
  readonly commandId: number;
}

export type RepMessage =
  | ProtectedWrite
  | ReportVmVolumes
  | StartProtect
  | RemoteIoRequest
  | RemoteIoResponse
  | AgentShutdown
  | Hello
  | Ack
  | ProtectedZero
  | ProtectedFlush
  | Dirty
  | HashRequest
  | HashResponse
  | Ping
  | VerifyRequest
  | VerifyResponse
  | VolumeError
  | Claim
  | Recorded
  | Packed
  | UnknownCommand;

export type RepMessageKind = RepMessage['kind'];
