// What is asked by a request, and what has come of its reply so far: all that is needed to tell a right reply from
// a wrong one.
import { ReadCoverage } from './read-coverage.ts';
import type { StatusList } from './status-list.ts';

/** A request that waits for its reply, as far as the reply depends on it. */
export interface AwaitedRequest {
  /** One of NBD_CMD. */
  readonly command: number;
  readonly offset: number;
  readonly length: number;
  /** READ: where the data go; `length` bytes. */
  readonly buffer: Buffer | undefined;
  /** BLOCK_STATUS: where the extents go. */
  readonly status: StatusList | undefined;
  readonly progress: ReplyProgress;
  toString(): string;
}

export class ReplyProgress {
  readonly coverage = new ReadCoverage();
  /** A chunk has arrived. */
  begun = false;
  /** The reply is complete: another one would be for nobody. */
  done = false;
  /** BLOCK_STATUS: the extents have been told. */
  statusTold = false;
  /** The first error of the reply, an NBD error value; 0 while there is none. */
  error = 0;
  /** What the server said of it, made harmless; '' when it said nothing. */
  errorText = '';

  /** The request is about to be sent, perhaps once more. */
  begin(offset: number, length: number): void {
    this.coverage.reset(offset, length);
    this.begun = false;
    this.done = false;
    this.statusTold = false;
    this.error = 0;
    this.errorText = '';
  }

  /** An error chunk arrived. The first one counts: others are often its consequence. */
  fail(error: number, text: string): void {
    if (this.error !== 0) return;
    this.error = error;
    this.errorText = text;
  }
}
