// A state of a volume that its replica holds, or can be put back to: which one, and how well it is known.

export interface RecoveryPoint {
  /** The attachment whose stream `sequence` belongs to. */
  readonly generation: number;
  /** Everything up to here is there; null: unknown (an agent without sequences, or nobody's doing). */
  readonly sequence: number | null;
  /** When the newest change in it was made, by the agent's clock, Unix milliseconds; null: unknown. */
  readonly timeMs: number | null;
  /** Exactly the volume at `sequence`; false: what came shortly after may be there too, in part. */
  readonly isExact: boolean;
}

/** An image of which nothing is known but that it was there. */
export const UNKNOWN_POINT: RecoveryPoint = { generation: 0, sequence: null, timeMs: null, isExact: false };

/** Whether a point is what a verification left: known to differ from the volume, and not at any position. */
export function isStrange(point: RecoveryPoint | null): boolean {
  return point !== null && point.generation === 0 && point.sequence === null;
}

/** The one that lies further on in the stream of an attachment; of two attachments `b`. */
export function furtherOf(a: RecoveryPoint | null, b: RecoveryPoint): RecoveryPoint {
  return a?.generation === b.generation && (a.sequence ?? 0) > (b.sequence ?? 0) ? a : b;
}

/** The same, and maybe parts of what came after it. */
export function inexactly(point: RecoveryPoint | null | undefined): RecoveryPoint | null {
  return point ? { ...point, isExact: false } : null;
}

/** @param sequence without HELLO none: 0 or less @param timeUs as the stream has it; 0: unknown */
export function pointAt(
  generation: number,
  sequence: number,
  timeUs: number,
  isExact: boolean,
): RecoveryPoint {
  return {
    generation,
    sequence: sequence <= 0 ? null : sequence,
    timeMs: timeUs === 0 ? null : Math.floor(timeUs / 1000),
    isExact,
  };
}

/**
 * Whether what was kept to go back to `point` is out of date: it lies before a position that was recorded as durable, or
 * the image is no longer what it was kept for.
 */
export function isOutdated(
  point: RecoveryPoint,
  record: {
    readonly generation: number;
    readonly sequence: number;
    readonly isChosen: boolean;
    readonly isHeld: boolean;
    readonly point: RecoveryPoint | null;
  },
): boolean {
  // Somebody chose what is to become of an image that others had changed.
  if ((record.isChosen || record.isHeld) && record.point === null) return true;
  if (record.sequence === 0 || point.sequence === null) return false;
  if (record.generation !== point.generation) return record.generation > point.generation;
  return record.sequence > point.sequence;
}

/** For people. */
export function pointText({ generation, sequence, timeMs, isExact }: RecoveryPoint): string {
  const at = timeMs === null ? 'an unknown time' : new Date(timeMs).toISOString();
  if (sequence === null) return at;
  const position = `${at} (sequence ${sequence} of attachment ${generation})`;
  return isExact ? position : `${position}; of what came shortly after, parts may be there too`;
}
