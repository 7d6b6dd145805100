// What a FLUSH stands for across connections: which answered changes it covers, and whether it has to fail because
// some of them were lost. Why, is told in unflushed-log.ts.
import { BlockError } from '../../base/errors.ts';
import type { Request } from './request.ts';
import { type LogEntry, logCost, UnflushedLog } from './unflushed-log.ts';

export class Durability {
  readonly #log: UnflushedLog | undefined;
  readonly #tell: (message: string) => void;
  /** What the changes in flight will count for in the log. */
  #changingBytes = 0;
  #flushesInFlight = 0;
  /** Changes were lost. FLUSHes up to `serial` were under way then; they fail, and so does the next. */
  #loss: { readonly error: BlockError; readonly serial: number } | undefined;

  /**
   * @param limitBytes what may be kept of unflushed changes; 0 keeps nothing; undefined when the disk can't be
   *   changed, or has no FLUSH: nothing would ever be released, and such a server is trusted to forget nothing
   * @param tell says a loss in the log
   */
  constructor(limitBytes: number | undefined, tell: (message: string) => void) {
    this.#log = limitBytes === undefined ? undefined : new UnflushedLog(limitBytes);
    this.#tell = tell;
  }

  /** What a FLUSH that is submitted now covers. */
  get mark(): number {
    return this.#log?.mark ?? 0;
  }

  /** Changes that no FLUSH covers. */
  get unflushed(): number {
    return this.#log?.size ?? 0;
  }

  get owesFlush(): boolean {
    return this.unflushed > 0 || this.#loss !== undefined;
  }

  /** Whether one more change may be sent: they wait while the log is full. One larger than the log passes alone. */
  get roomForChange(): boolean {
    const log = this.#log;
    return !log?.keeps || log.bytes + this.#changingBytes < log.limitBytes;
  }

  /** Whether a FLUSH is due on our own account, to empty the log before it is full. */
  get wantsCheckpoint(): boolean {
    const log = this.#log;
    if (!log?.keeps || this.#flushesInFlight > 0) return false;
    return log.bytes >= log.limitBytes / 2;
  }

  /** What has to be sent once more on a new connection, oldest first. */
  toReplay(): LogEntry[] {
    return this.#log?.entries() ?? [];
  }

  changeSent(request: Request): void {
    this.#changingBytes += logCost(request.command, request.length);
  }

  /** Called while the request's data is still lent. */
  changeAnswered(request: Request, failed: boolean): void {
    const { command, flags, offset, length, buffer } = request;
    this.#changingBytes -= logCost(command, length);
    if (!failed) this.#log?.add(command, flags, offset, length, buffer);
  }

  flushSubmitted(request: Request): void {
    request.mark = this.mark;
    this.#flushesInFlight += 1;
  }

  /** @returns the error that the FLUSH's submitter is told: the server's, or that of an earlier loss */
  flushAnswered(request: Request, error: BlockError | undefined): BlockError | undefined {
    this.#flushesInFlight -= 1;
    if (!error) this.#log?.release(request.mark);
    else if (request.origin === 'checkpoint') {
      this.#lose(`a flush that nobody waited for failed (${error.message})`, request.serial);
      this.#log?.release(request.mark);
    }
    if (!this.#loss || !request.reportsLoss) return error;
    const told = error ?? this.#loss.error;
    if (request.serial > this.#loss.serial) this.#loss = undefined;
    return told;
  }

  /** A FLUSH failed without having been answered. */
  flushAbandoned(): void {
    this.#flushesInFlight -= 1;
  }

  /**
   * The connection broke; changes in flight are back in the queue.
   * @param serial the newest request's
   */
  connectionLost(serial: number): void {
    this.#changingBytes = 0;
    if (!this.#log || this.#log.keeps || this.#log.size === 0) return;
    this.#lose('the server was lost with changes that had not been flushed', serial);
    this.#log.release(this.#log.mark);
  }

  /** A change failed when it was sent once more. It stays in the log: it may succeed on yet another connection. */
  replayFailed(error: BlockError, serial: number): void {
    this.#lose(`${error.message} when it was sent once more`, serial);
  }

  /** Gives back what is kept. */
  close(): void {
    this.#log?.close();
  }

  #lose(why: string, serial: number): void {
    const error = new BlockError('EIO', `${why}; answered changes may be lost`);
    this.#tell(error.message);
    this.#loss = { error, serial };
  }
}
