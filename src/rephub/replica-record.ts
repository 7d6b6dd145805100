// What a hub keeps durably of one replica: whose it is, which attachment it is at and how far, and what its image looked
// like. A record is whole or damaged; nothing is ever guessed from half of one.
import { openSealed, sealText } from '../base/sealed-text.ts';
import type { RecoveryPoint } from './recovery-point.ts';

const VERSION = 1;

/** An image as it looks from outside. */
export interface ImageLook {
  /** Stays while the file is the same; another file has another. */
  readonly identity: string;
  /** When it was last written, Unix nanoseconds. */
  readonly changedAtNs: string;
  /** Nothing was ever written to it. */
  readonly isEmpty: boolean;
}

export interface ReplicaRecord {
  readonly vmName: string;
  readonly volumeName: string;
  readonly sizeBytes: number;
  /** Hexadecimal; null: an agent that has no id, or whoever comes next. */
  readonly agentId: string | null;
  /** Names the relation of volume and replica; 0: none that an agent could remember. */
  readonly pairing: bigint;
  /** Counts the attachments. */
  readonly generation: number;
  /** What the agent had kept before this attachment, and whether it has kept this one. */
  readonly previousPairing: bigint;
  readonly previousGeneration: number;
  readonly isConfirmed: boolean;
  /** The newest position of this attachment that is durable here and that the agent may rely on. */
  readonly sequence: number;
  /** The position before: the agent is known to have kept it. */
  readonly previousSequence: number;
  /** The replica was complete at `sequence`. */
  readonly isComplete: boolean;
  /** The last state of the volume that the image was known to hold; what an undo log says comes before this. */
  readonly point: RecoveryPoint | null;
  /** The undo log without which the image is no state of its volume; null: it can do without. */
  readonly undoId: string | null;
  readonly image: ImageLook | null;
  /** The hub closed the image in order: it must look exactly as it is said here. */
  readonly isClean: boolean;
  /** Unix milliseconds. */
  readonly writtenAtMs: number;
  /** When a verification of all of it had ended, Unix milliseconds; 0 or nothing: never. */
  readonly verifiedAtMs?: number;
  /** An operator chose the agent: nobody else may begin. */
  readonly isChosen: boolean;
  /** An operator chose to keep the replica as it is. */
  readonly isHeld: boolean;
}

/** Of a volume of which nothing is known. */
export function emptyRecord(volumeName: string): ReplicaRecord {
  return {
    vmName: '',
    volumeName,
    sizeBytes: 0,
    agentId: null,
    pairing: 0n,
    generation: 0,
    previousPairing: 0n,
    previousGeneration: 0,
    isConfirmed: true,
    sequence: 0,
    previousSequence: 0,
    isComplete: false,
    point: null,
    undoId: null,
    image: null,
    isClean: false,
    writtenAtMs: 0,
    isChosen: false,
    isHeld: false,
  };
}

/** What the image held as it was closed, or, when the hub was killed, at least. */
export function recordedPoint(record: ReplicaRecord | undefined): RecoveryPoint | null {
  if (!record?.point) return null;
  return { ...record.point, isExact: record.point.isExact && record.isClean };
}

/** As it stands in the file. */
type Written = Omit<ReplicaRecord, 'pairing' | 'previousPairing'> & {
  readonly version: number;
  readonly pairing: string;
  readonly previousPairing?: string;
};

export function encodeRecord(record: ReplicaRecord): string {
  return sealText({
    version: VERSION,
    ...record,
    pairing: record.pairing.toString(16),
    previousPairing: record.previousPairing.toString(16),
  });
}

/** @returns undefined when it is damaged, or of another version */
export function decodeRecord(text: string): ReplicaRecord | undefined {
  // The seal says that these are our own words: their types need no check.
  const written = openSealed(text) as Written | undefined;
  if (written?.version !== VERSION) return undefined;
  const { version: _, ...rest } = written;
  const pairing = BigInt(`0x${rest.pairing}`);
  const { previousPairing } = rest;
  // The first of these records had none of these: the pairing is taken for the same, and no point is known.
  return {
    ...rest,
    point: rest.point ?? null,
    undoId: rest.undoId ?? null,
    pairing,
    previousPairing: previousPairing === undefined ? pairing : BigInt(`0x${previousPairing}`),
  };
}
