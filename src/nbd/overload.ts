// How much of a client's may be unanswered before it is read no further: what bounds the memory of one connection.
import { MAX_HELD_BYTES, MAX_IN_FLIGHT_BYTES, MAX_IN_FLIGHT_REQUESTS, MAX_UNSENT_BYTES } from './limits.ts';
import type { ReplyQueue } from './reply-queue.ts';
import type { SlabTally } from './slab-tally.ts';
import type { Transmission } from './transmission.ts';

/** Whether no request may be taken now. @param transmission undefined while the client chooses an export */
export function isOverloaded(
  replies: ReplyQueue,
  tally: SlabTally,
  transmission: Transmission | undefined,
): boolean {
  if (replies.unsentBytes > MAX_UNSENT_BYTES || tally.bytes > MAX_HELD_BYTES) return true;
  if (transmission === undefined) return false;
  return (
    transmission.inFlightRequests >= MAX_IN_FLIGHT_REQUESTS ||
    transmission.inFlightBytes >= MAX_IN_FLIGHT_BYTES
  );
}
