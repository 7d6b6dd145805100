// The link to one export over any number of connections: requests submitted here survive a lost connection and are
// sent once more on the next. States are in link-states.ts; each has one handler here.
//
// What may be sent again: every change has an absolute place, so doing it twice is doing it once, as long as no
// other change to the same blocks comes between. Overlapping changes never are in flight together (the device
// that orders them sits above), and answered ones are replayed before anything else. See unflushed-log.ts.
// A limit of the protocol remains: a server that lives on behind a broken network may carry out a request of the old
// connection late, after newer ones of the new connection. No client can know.
import { BlockError } from '../../base/errors.ts';
import { type Deferred, deferred } from '../../base/lifecycle.ts';
import { GiB } from '../../base/limits.ts';
import type { Logger } from '../../base/log.ts';
import type { NbdExport } from '../../nbdwire/client-export.ts';
import { replyErrorName } from '../../nbdwire/client-replies.ts';
import { NBD_CMD, NBD_FLAG_READ_ONLY, NBD_FLAG_SEND_FLUSH } from '../../nbdwire/constants.ts';
import type { ReplyStyle } from '../../nbdwire/reply.ts';
import type { StatusList } from '../../nbdwire/status-list.ts';
import type { NbdAddress } from '../nbd-uri.ts';
import type { BackoffOptions } from './backoff.ts';
import { lossMessage, type Security } from './connection.ts';
import { Durability } from './durability.ts';
import { whatChanged } from './export-change.ts';
import { Fleet, type FleetEnd, type FleetOptions, type FleetOwner } from './fleet.ts';
import { type LinkEvent, type LinkState, nextLinkState } from './link-states.ts';
import { Outage } from './outage.ts';
import { Replay, splitEntries } from './replay.ts';
import { type Request, RequestPool, RequestQueue } from './request.ts';

export interface LinkOptions extends FleetOptions {
  /** How long requests wait for a lost server before they fail with EIO, milliseconds. */
  readonly reconnectTimeoutMs: number;
  /** See UnflushedLog. */
  readonly unflushedBytes: number;
  readonly backoff: BackoffOptions;
}

/** Largest change that is sent once more without extended headers, bytes: a multiple of every block size. */
const COMPACT_CHANGE_BYTES = 1 * GiB;

/** Connections that a request may cost, by what the server sends in reply, before it fails. */
const MAX_BREAKS = 3;

export class NbdLink implements FleetOwner {
  readonly #address: NbdAddress;
  readonly #options: LinkOptions;
  readonly #log: Logger;
  #state: LinkState = 'idle';
  #export: NbdExport | undefined;
  /** Of the present connection. */
  #style: ReplyStyle = 'simple';
  readonly #opened: Deferred<NbdExport> = deferred();
  readonly #closed: Deferred<void> = deferred();
  readonly #fleet: Fleet;
  #upSinceMs: number | undefined;
  #fatal: Error | undefined;

  // Requests that wait to be sent. Changes have a queue of their own, so that reads pass when changes have to wait.
  readonly #pool = new RequestPool();
  readonly #changes = new RequestQueue();
  readonly #others = new RequestQueue();
  #serial = 0;
  /** Requests that were submitted and not answered. */
  #pending = 0;
  #drained: Deferred<void> | undefined;

  readonly #outage: Outage;
  #durability: Durability;
  #replay: Replay | undefined;

  constructor(address: NbdAddress, security: Security | undefined, options: LinkOptions, log: Logger) {
    this.#address = address;
    this.#options = options;
    this.#log = log;
    this.#fleet = new Fleet(address, security, options, this, log);
    this.#durability = new Durability(undefined, () => {});
    this.#outage = new Outage(options.backoff, options.reconnectTimeoutMs, () => this.#giveUp());
  }

  get state(): LinkState {
    return this.#state;
  }

  /** Connections that carry requests. */
  get connections(): number {
    return this.#fleet.size;
  }

  /** Requests that wait to be sent. */
  get queued(): number {
    return this.#changes.size + this.#others.size;
  }

  /** Whether a FLUSH has something to make durable, or a loss to tell. */
  get owesFlush(): boolean {
    return this.#durability.owesFlush;
  }

  /** Connects for the first time. Rejects with the reason when that fails: the first attempt isn't repeated. */
  open(): Promise<NbdExport> {
    this.#dispatch('open');
    return this.#opened.promise;
  }

  /**
   * Submits a request and resolves with its answer.
   * @param buffer WRITE: the data, READ: the target; lent until the answer
   * @throws BlockError (rejects): the server's error; EIO when the server is gone for too long; ESHUTDOWN when closed
   */
  submit(command: number, flags: number, offset: number, length: number, buffer?: Buffer): Promise<void> {
    const refusal = this.#refusal();
    if (refusal) return Promise.reject(refusal);
    const request = this.#make(command, flags, offset, length, buffer);
    const promise = request.promise();
    this.#enqueue(request);
    return promise;
  }

  /**
   * Asks for the allocation of a range.
   * @param status where the answer goes: something of the range's start at least
   * @throws BlockError (rejects) as `submit` does
   */
  blockStatus(offset: number, length: number, status: StatusList): Promise<void> {
    const refusal = this.#refusal();
    if (refusal) return Promise.reject(refusal);
    const request = this.#make(NBD_CMD.BLOCK_STATUS, 0, offset, length, undefined);
    request.status = status;
    const promise = request.promise();
    this.#enqueue(request);
    return promise;
  }

  /**
   * Submits a FLUSH.
   * @param reportsLoss it fails when changes that it should cover are known to be lost
   */
  flush(reportsLoss: boolean): Promise<void> {
    const refusal = this.#refusal();
    if (refusal) return Promise.reject(refusal);
    const request = this.#makeFlush();
    request.reportsLoss = reportsLoss;
    const promise = request.promise();
    this.#enqueue(request);
    return promise;
  }

  /** Resolves when every request submitted so far and meanwhile is answered. */
  drained(): Promise<void> {
    if (this.#pending === 0) return Promise.resolve();
    this.#drained ??= deferred();
    return this.#drained.promise;
  }

  /** Says goodbye and lets go; what is still unanswered fails with ESHUTDOWN. Idempotent. */
  close(): Promise<void> {
    if (this.#state !== 'closing' && this.#state !== 'closed') this.#dispatch('close');
    return this.#closed.promise;
  }

  // The life of the link.

  readonly #enter: Readonly<Record<LinkState, () => void>> = {
    idle: () => {},
    dialing: () => this.#fleet.dial(),
    handshake: () => {},
    replaying: () => this.#startReplay(),
    live: () => {
      this.#outage.ended();
      this.#checkpoint();
      this.#fleet.wake();
      this.#fleet.expand(this.#export!);
    },
    leaving: () => this.#fleet.leave(),
    waiting: () => this.#outage.pause(() => this.#dispatch('retry')),
    failed: () => {
      this.#outage.stop();
      this.#failWaiting(this.#refusal()!);
      this.#fleet.abandon(new Error('given up'));
    },
    closing: () => this.#fleet.disconnect(),
    closed: () => {
      this.#outage.stop();
      this.#failWaiting(this.#refusal()!);
      this.#durability.close();
      this.#opened.promise.catch(() => {});
      this.#opened.reject(this.#refusal());
      this.#closed.resolve();
    },
  };

  #dispatch(event: LinkEvent): void {
    const next = nextLinkState(this.#state, event);
    this.#log.debug({ from: this.#state, event, to: next }, 'NBD link');
    this.#state = next;
    this.#enter[next]();
  }

  // What a connection tells.

  connected(): void {
    if (this.#state === 'dialing') this.#dispatch('connected');
  }

  ready(found: NbdExport): void {
    if (this.#state !== 'handshake') return;
    const changed = this.#export && whatChanged(this.#export, found);
    if (changed !== undefined) {
      this.#fatal = new Error(`the export is no longer the one that was opened: ${changed}`);
      this.#log.error({ reason: changed }, 'the NBD export changed; its requests fail from now on');
      this.#dispatch('refused');
      return;
    }
    this.#style = found.style;
    if (!this.#export) this.#begin(found);
    else this.#welcomeBack(this.#export, found);
    this.#upSinceMs = performance.now();
    this.#dispatch('ready');
  }

  #welcomeBack(before: NbdExport, found: NbdExport): void {
    if (found.sizeBytes > before.sizeBytes) {
      const sizes = { from: before.sizeBytes, to: found.sizeBytes };
      this.#log.info(sizes, 'the NBD export has grown; start anew to use all of it');
    }
    this.#log.info({ unflushed: this.#durability.unflushed, waiting: this.#pending }, 'NBD server is back');
  }

  unsuited(found: NbdExport): string | undefined {
    return whatChanged(this.#export!, found);
  }

  breaking(): void {
    if (this.#state === 'live' || this.#state === 'replaying') this.#dispatch('leave');
  }

  lost(end: FleetEnd): void {
    const { error } = end;
    this.#takeBack(end);
    if (this.#state === 'failed') return;
    if (this.#state === 'closing') {
      this.#dispatch('lost');
      return;
    }
    if (!this.#export) {
      this.#fatal = error;
      this.#opened.reject(error);
      this.#dispatch('refused');
      return;
    }
    this.#noteOutage(end);
    this.#dispatch('lost');
  }

  #begin(found: NbdExport): void {
    this.#export = found;
    const flushable = (found.flags & NBD_FLAG_READ_ONLY) === 0 && (found.flags & NBD_FLAG_SEND_FLUSH) !== 0;
    this.#durability = new Durability(flushable ? this.#options.unflushedBytes : undefined, (message) =>
      this.#log.error(message),
    );
    this.#opened.resolve(found);
  }

  #takeBack({ error: reason, unanswered }: FleetEnd): void {
    const changes: Request[] = [];
    const others: Request[] = [];
    const broken: Request[] = [];
    for (const request of unanswered) {
      if (request.origin === 'replay') this.#pool.give(request);
      else if (request.breaks >= MAX_BREAKS) broken.push(request);
      else (request.changesDisk ? changes : others).push(request);
    }
    this.#changes.unshift(changes);
    this.#others.unshift(others);
    this.#replay = undefined;
    this.#durability.connectionLost(this.#serial);
    for (const request of broken) {
      const words = `${this.#address.uri}: ${request}: ${lossMessage(reason)}, time and again`;
      this.#fail(request, new BlockError('EIO', words));
    }
  }

  #noteOutage({ error, answers }: FleetEnd): void {
    const upMs = this.#upSinceMs === undefined ? undefined : performance.now() - this.#upSinceMs;
    this.#upSinceMs = undefined;
    this.#outage.began({ upMs, answers, wanted: this.#pending > 0 });
    const fields = { reason: lossMessage(error), waiting: this.#pending, attempts: this.#outage.attempts };
    if (upMs !== undefined) this.#log.warn(fields, 'lost the NBD server; reconnecting');
    else this.#log.debug(fields, 'the NBD server is still away');
  }

  #giveUp(): void {
    if (this.#pending === 0) return;
    const error = this.#refusal()!;
    this.#log.error({ waiting: this.#pending }, `${error.message}; requests fail until it is back`);
    this.#failWaiting(error);
  }

  // Requests.

  #refusal(): BlockError | undefined {
    switch (this.#state) {
      case 'closing':
      case 'closed':
        return new BlockError('ESHUTDOWN', `${this.#address.uri} is closed`);
      case 'failed':
        return new BlockError(
          'EIO',
          `${this.#address.uri}: ${this.#fatal ? lossMessage(this.#fatal) : 'failed'}`,
        );
      default:
        if (!this.#outage.overdue) return undefined;
        return new BlockError(
          'EIO',
          `${this.#address.uri}: the NBD server has been away for more than ${this.#options.reconnectTimeoutMs} ms`,
        );
    }
  }

  #make(command: number, flags: number, offset: number, length: number, buffer: Buffer | undefined): Request {
    const request = this.#pool.take();
    this.#serial += 1;
    request.origin = 'caller';
    request.command = command;
    request.flags = flags;
    request.offset = offset;
    request.length = length;
    request.buffer = buffer;
    request.serial = this.#serial;
    request.reportsLoss = false;
    return request;
  }

  #makeFlush(): Request {
    const request = this.#make(NBD_CMD.FLUSH, 0, 0, 0, undefined);
    this.#durability.flushSubmitted(request);
    return request;
  }

  #enqueue(request: Request): void {
    this.#pending += 1;
    if (request.changesDisk) this.#changes.push(request);
    else this.#others.push(request);
    this.#fleet.wake();
  }

  nextToSend(): Request | undefined {
    if (this.#state === 'replaying') return this.#nextToReplay();
    if (this.#state !== 'live') return undefined;
    const change = this.#durability.roomForChange ? this.#changes.first : undefined;
    const other = this.#others.first;
    if (!change) return this.#others.shift();
    if (other && other.serial < change.serial) return this.#others.shift();
    this.#durability.changeSent(change);
    return this.#changes.shift();
  }

  answered(request: Request): void {
    const error = request.progress.error === 0 ? undefined : this.#serverError(request);
    if (request.origin === 'replay') {
      this.#replayed(request, error);
    } else if (request.changesDisk) {
      this.#durability.changeAnswered(request, error !== undefined);
      this.#settle(request, error);
      this.#checkpoint();
    } else if (request.command === NBD_CMD.FLUSH) {
      this.#settle(request, this.#durability.flushAnswered(request, error));
      this.#checkpoint();
    } else {
      this.#settle(request, error);
    }
  }

  #serverError(request: Request): BlockError {
    const { error, errorText } = request.progress;
    const name = replyErrorName(error);
    const words = errorText === '' ? '' : `: ${errorText}`;
    return new BlockError(name, `${this.#address.uri}: ${request}: the server answered ${name}${words}`);
  }

  #checkpoint(): void {
    if (!this.#durability.wantsCheckpoint) return;
    const request = this.#makeFlush();
    request.origin = 'checkpoint';
    this.#enqueue(request);
  }

  #settle(request: Request, error: Error | undefined): void {
    const { resolve, reject } = request;
    this.#pool.give(request);
    this.#pending -= 1;
    if (error) reject?.(error);
    else resolve?.();
    if (this.#pending === 0 && this.#drained) {
      this.#drained.resolve();
      this.#drained = undefined;
    }
  }

  /** Fails what isn't on a connection. */
  #failWaiting(error: BlockError): void {
    for (const queue of [this.#others, this.#changes]) {
      for (let request = queue.shift(); request; request = queue.shift()) {
        this.#fail(request, error);
      }
    }
  }

  /** Fails a request that isn't on a connection. */
  #fail(request: Request, error: BlockError): void {
    if (request.command === NBD_CMD.FLUSH) this.#durability.flushAbandoned();
    this.#settle(request, error);
  }

  // Replaying.

  #startReplay(): void {
    const largest = this.#style === 'extended' ? Number.MAX_SAFE_INTEGER : COMPACT_CHANGE_BYTES;
    this.#replay = new Replay(splitEntries(this.#durability.toReplay(), largest));
    if (this.#replay.finished) this.#dispatch('replayed');
    else this.#fleet.wake();
  }

  #nextToReplay(): Request | undefined {
    const entry = this.#replay?.take();
    if (!entry) return undefined;
    const request = this.#make(entry.command, entry.flags, entry.offset, entry.length, entry.data?.bytes);
    request.origin = 'replay';
    request.entry = entry;
    return request;
  }

  #replayed(request: Request, error: BlockError | undefined): void {
    const replay = this.#replay;
    if (request.entry) replay?.answered(request.entry);
    this.#pool.give(request);
    if (error) this.#durability.replayFailed(error, this.#serial);
    // Answers may still come while the link is being closed or the server left.
    if (replay?.finished && this.#state === 'replaying') this.#dispatch('replayed');
  }
}
