// Pauses a volume for whoever takes a snapshot of it. A guest must never hang for longer than was agreed: a pause has
// a deadline from the start, and ends by itself when that comes, when it can't be reached, or when nobody awaits it.
import { BlockError, OperationError } from '../base/errors.ts';
import { type Deferred, deferred } from '../base/lifecycle.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { formatDuration } from '../base/size.ts';

/** What can be paused: a guard. */
export interface Pausable {
  hold(): void;
  release(): void;
  drained(): Promise<void>;
  flushHeld(): MaybePromise<void>;
  readonly heldCalls: number;
}

export interface PauseRequest {
  /** The volume goes on by itself after so long, counted from when calls began to wait, milliseconds. */
  readonly timeoutMs: number;
  /** Make everything durable before the pause is acknowledged. */
  readonly flush: boolean;
  /** Aborted when whoever asked has gone; a pause that is not acknowledged yet then ends. */
  readonly signal?: AbortSignal;
}

export interface PauseStatus {
  /** How long calls have been waiting, milliseconds. */
  readonly pausedMs: number;
  /** When the volume goes on by itself, milliseconds from now. */
  readonly leftMs: number;
  readonly waitingCalls: number;
  /** Nothing is in flight any more, and the flush, if there was to be one, has ended. */
  readonly isQuiet: boolean;
}

interface Pause {
  readonly startedAt: number;
  readonly timeoutMs: number;
  readonly timer: NodeJS.Timeout;
  /** Rejected when the pause ends before it is acknowledged. */
  readonly ended: Deferred<never>;
  isQuiet: boolean;
}

export class Pauser {
  readonly #target: Pausable;
  readonly #logger: Logger;
  #pause: Pause | undefined;
  /** When the last pause came to its deadline; undefined when it was resumed. */
  #expiredAt: number | undefined;
  #isClosed = false;

  constructor(target: Pausable, logger: Logger) {
    this.#target = target;
    this.#logger = logger;
  }

  /** Undefined while calls go through. */
  status(): PauseStatus | undefined {
    if (!this.#pause) return undefined;
    const { startedAt, timeoutMs, isQuiet } = this.#pause;
    const pausedMs = performance.now() - startedAt;
    return {
      pausedMs: Math.round(pausedMs),
      leftMs: Math.max(0, Math.round(timeoutMs - pausedMs)),
      waitingCalls: this.#target.heldCalls,
      isQuiet,
    };
  }

  /**
   * Lets new calls wait, and resolves when those in flight have ended. Until resume(), or until the deadline, nothing
   * of the volume changes by what clients do.
   * @throws OperationError when it is paused already, or can't be brought to rest in time; then it goes on
   */
  async pause(request: PauseRequest): Promise<void> {
    const { timeoutMs, flush, signal } = request;
    if (this.#isClosed) throw new OperationError('the volume is being closed');
    if (this.#pause) {
      const left = formatDuration(this.status()?.leftMs ?? 0);
      throw new OperationError(`the volume is paused already, for another ${left} at most`, {
        hint: 'wait until whoever paused it is done, or resume it',
      });
    }
    const pause = this.#begin(timeoutMs);
    const leave = (): void => {
      if (!pause.isQuiet) this.#end(pause, 'whoever asked for the pause has gone');
    };
    signal?.addEventListener('abort', leave, { once: true });
    if (signal?.aborted) leave();
    try {
      await Promise.race([this.#comeToRest(flush), pause.ended.promise]);
      pause.isQuiet = true;
    } catch (error) {
      this.#end(pause, 'it failed');
      if (!(error instanceof BlockError)) throw error;
      throw new OperationError(`the volume can't be paused: ${error.message}`, { cause: error });
    } finally {
      signal?.removeEventListener('abort', leave);
    }
    this.#logger.info({ timeoutMs, flush }, 'paused');
  }

  /**
   * Lets calls go on.
   * @returns how long they waited, milliseconds
   * @throws OperationError when the volume isn't paused (any more): whoever relied on the pause must know
   */
  resume(): number {
    const pause = this.#pause;
    if (!pause) throw this.#notPaused();
    const pausedMs = performance.now() - pause.startedAt;
    this.#end(pause, 'it was resumed');
    this.#logger.info({ pausedMs: Math.round(pausedMs) }, 'resumed');
    return pausedMs;
  }

  /** Ends a pause, and allows no more of them. To be called before anything waits for clients' calls to end. */
  close(): void {
    this.#isClosed = true;
    if (this.#pause) this.#end(this.#pause, 'the volume is being closed');
  }

  #begin(timeoutMs: number): Pause {
    this.#expiredAt = undefined;
    this.#target.hold();
    const ended = deferred<never>();
    // Once the pause is acknowledged nobody waits for this.
    ended.promise.catch(() => {});
    const pause: Pause = {
      startedAt: performance.now(),
      timeoutMs,
      timer: setTimeout(() => this.#expire(pause), timeoutMs),
      ended,
      isQuiet: false,
    };
    this.#pause = pause;
    return pause;
  }

  async #comeToRest(flush: boolean): Promise<void> {
    await this.#target.drained();
    if (flush) await this.#target.flushHeld();
  }

  #expire(pause: Pause): void {
    const after = formatDuration(pause.timeoutMs);
    const why = pause.isQuiet
      ? `nobody resumed it within ${after}`
      : `what was in flight did not end within ${after}`;
    this.#end(pause, why);
    this.#expiredAt = performance.now();
    this.#logger.warn({ timeoutMs: pause.timeoutMs }, `the pause ended by itself: ${why}`);
  }

  #end(pause: Pause, why: string): void {
    if (this.#pause !== pause) return;
    this.#pause = undefined;
    clearTimeout(pause.timer);
    this.#target.release();
    pause.ended.reject(
      new OperationError(`the volume goes on without having been paused: ${why}`, {
        hint: 'allow more time with --timeout, or find out what keeps the disk busy',
      }),
    );
  }

  #notPaused(): OperationError {
    if (this.#expiredAt === undefined) return new OperationError('the volume is not paused');
    const ago = formatDuration(performance.now() - this.#expiredAt);
    return new OperationError(
      `the volume is not paused any more: the pause came to its deadline ${ago} ago`,
      {
        hint: 'what was copied meanwhile may be inconsistent: do it again with a longer --timeout',
      },
    );
  }
}
