// Cuts a length into pieces, and works on pieces a few at a time.

/** [start, end) within a length, bytes. */
export interface Chunk {
  readonly start: number;
  readonly end: number;
}

/** The pieces of `length` bytes, each of `largest` bytes but the last. */
export function* chunksOf(length: number, largest: number): Generator<Chunk> {
  for (let start = 0; start < length; start += largest) {
    yield { start, end: Math.min(length, start + largest) };
  }
}

/**
 * Runs `work` on each chunk, at most `limit` at once. After a failure no further one begins; rejects with it
 * once those under way have ended.
 */
export async function inTurn(
  chunks: Iterable<Chunk>,
  limit: number,
  work: (chunk: Chunk) => Promise<void>,
): Promise<void> {
  const source = chunks[Symbol.iterator]();
  let failed = false;
  async function worker(): Promise<void> {
    for (let next = source.next(); !next.done && !failed; next = source.next()) {
      try {
        await work(next.value);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  }
  const outcomes = await Promise.allSettled(Array.from({ length: limit }, worker));
  const failure = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failure) throw failure.reason;
}
