// One client's connection: moves bytes between the socket engine, the handshake and the requests, in passes over what
// has arrived, and stops reading while too much is unanswered. It takes nothing else down with it, whenever it ends.
import { sharedPool } from '../base/buffer-pool.ts';
import { errorMessage } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import { type Agreement, ServerHandshake } from '../nbdwire/server-handshake.ts';
import { encodeOldstyleGreeting } from '../nbdwire/server-options.ts';
import { ReceiveBuffer } from '../transport/receive-buffer.ts';
import type { SocketEngine, SocketHandler } from '../transport/socket-engine.ts';
import type { TlsServerEvents } from '../transport/tls-server.ts';
import { type ClientIdentity, describeIdentity, type TlsIdentity } from './client-identity.ts';
import { type ConnectionState, nextState } from './connection-states.ts';
import type { ExportList, ServedExport } from './exports.ts';
import type { ChosenExport, ClientTaker, NegotiatedHere } from './hand-over.ts';
import { LINGER_MS, MAX_REQUESTS_PER_PASS } from './limits.ts';
import { isOverloaded } from './overload.ts';
import { ReplyQueue } from './reply-queue.ts';
import { RequestReader } from './request-reader.ts';
import type { ServerTls } from './server-tls.ts';
import { SlabTally } from './slab-tally.ts';
import { Transmission, type TransmissionEvents } from './transmission.ts';

export interface ConnectionOptions {
  readonly exports: ExportList;
  /** Who connected. */
  readonly client: ClientIdentity;
  /** Undefined: TLS is off. */
  readonly tls?: ServerTls | undefined;
  /** Speak first, and serve the default export, as servers did before there were options. Not together with TLS. */
  readonly oldstyle?: boolean | undefined;
  /** Takes clients over that have chosen an export; undefined: their requests are carried out here. */
  readonly taker?: ClientTaker | undefined;
  /** What the client has agreed on with another server, which gave it away; undefined: the talk begins here. */
  readonly negotiated?: NegotiatedHere | undefined;
  readonly logger: Logger;
  readonly handshakeTimeoutMs: number;
  /** Takes over the accepted socket. */
  readonly openEngine: (handler: SocketHandler) => SocketEngine;
  /** A request in flight was answered, or the connection died: what waits for that may look again. */
  readonly onChange: (connection: Connection) => void;
}

export class Connection implements SocketHandler, TransmissionEvents, TlsServerEvents {
  readonly client: ClientIdentity;
  readonly #logger: Logger;
  readonly #onChange: (connection: Connection) => void;
  readonly #tls: ServerTls | undefined;
  readonly #taker: ClientTaker | undefined;
  #handshake: ServerHandshake<ServedExport>;
  readonly #received = new ReceiveBuffer(sharedPool);
  readonly #tally = new SlabTally();
  readonly #replies: ReplyQueue;
  #engine: SocketEngine;
  #reader: RequestReader | undefined;
  #transmission: Transmission | undefined;
  #state: ConnectionState = 'handshake';
  /** The device served, for logs. */
  #exportName: string | undefined;
  /** Receiving is stopped until what is unanswered becomes less. */
  #blocked = false;
  /**
   * The socket goes elsewhere, and nothing is read here: `due` while the last answer in this place leaves. From STARTTLS
   * on it is `begun` until TLS is up.
   */
  #upgrade: 'due' | 'begun' | undefined;
  /** What the client chose, when someone else carries that out. */
  #chosen: ChosenExport | undefined;
  #passing = false;
  #flushDue = false;
  /** Looks in a row that found nothing going on. */
  #quiet = 0;
  #ended = false;
  #failures = 0;
  #deadline: NodeJS.Timeout | undefined;
  #lingerMs = LINGER_MS;

  constructor(options: ConnectionOptions) {
    this.#logger = options.logger;
    this.#onChange = options.onChange;
    this.client = options.client;
    this.#tls = options.tls;
    this.#taker = options.taker;
    const exports = options.exports.forClient(options.client);
    this.#handshake = new ServerHandshake(exports, { tls: options.tls?.mode ?? 'off' });
    this.#received.want(this.#handshake.wantBytes, false);
    this.#replies = new ReplyQueue(sharedPool, this.#tally, (chunks) => this.#engine.send(chunks));
    // Before the engine has memory of it to receive into.
    const { negotiated } = options;
    if (negotiated) this.#received.add(negotiated.received);
    this.#engine = options.openEngine(this);
    if (negotiated) {
      this.#startTransmission(negotiated.target, negotiated);
      if (this.#received.available > 0) this.#yieldTurn();
      return;
    }
    this.#deadline = setTimeout(() => this.#handshakeTimedOut(), options.handshakeTimeoutMs);
    if (options.oldstyle) this.#startOldstyle(exports.find(''));
    else this.#sendHandshakeOutput();
    this.#replies.flush();
  }

  get state(): ConnectionState {
    return this.#state;
  }

  get peer(): string {
    return this.#engine.peer;
  }

  /** Requests that the device has in hand. */
  get inFlight(): number {
    return this.#transmission?.inFlightRequests ?? 0;
  }

  /** The server goes down: what is in flight is finished, everything new is refused. */
  drain(): void {
    if (this.#state === 'dead' || this.#state === 'closing' || this.#state === 'away') return;
    this.#state = nextState(this.#state, 'drain');
    this.#handshake.refuseOptions();
    this.#reader?.refuseAll();
  }

  /** Ends in order. @param lingerMs how long a client may take nothing before it is cut off */
  finish(lingerMs: number): void {
    if (this.#state === 'dead' || this.#state === 'away') return;
    this.#lingerMs = lingerMs;
    // Again, with the new patience, when it has ended already.
    if (this.#ended) this.#startLinger();
    else this.#finish();
  }

  /** Ends at once. */
  destroy(): void {
    if (this.#state !== 'dead' && this.#state !== 'away') this.#engine.destroy();
  }

  /** Counts looks that found no byte come or go since the one before, and nothing in flight, in transmission only. */
  quietChecks(): number {
    if (this.#state === 'transmission' && this.inFlight === 0) this.#quiet += 1;
    else this.#quiet = 0;
    // The first only starts the time.
    return this.#quiet - 1;
  }

  receiveBuffer(): Buffer {
    return this.#received.region();
  }

  received(bytes: number): boolean {
    this.#received.filled(bytes);
    this.#quiet = 0;
    if (this.#blocked) return false;
    this.#pass();
    return !this.#blocked;
  }

  ended(): void {
    if (this.#reader?.isMidRequest && this.#state === 'transmission') {
      this.#logger.info({ peer: this.peer }, 'NBD client left in the middle of a request');
    }
    this.#finish();
  }

  sent(): void {
    this.#replies.sent();
    if (this.#upgrade === 'due' && this.#replies.unsentBytes === 0) this.#leave();
    this.#quiet = 0;
    if (this.#ended) this.#startLinger();
    if (this.#blocked) this.#unblock();
  }

  secured(identity: TlsIdentity): void {
    this.#upgrade = undefined;
    this.client.tls = identity;
    this.#handshake = this.#handshake.secured();
    this.#received.want(this.#handshake.wantBytes, false);
    this.#resume();
  }

  unsecured(reason: string): void {
    // It may be us who had enough.
    if (this.#state === 'closing') return;
    this.#state = nextState(this.#state, 'finish');
    this.#warnLimited({ reason }, 'NBD client refused: TLS failed');
  }

  closed(error: Error | undefined): void {
    // A client that said goodbye may go before it has read the rest.
    const surprising = error !== undefined && this.#state !== 'closing';
    this.#state = nextState(this.#state, 'lost');
    clearTimeout(this.#deadline);
    this.#received.close();
    this.#replies.close();
    const about = { peer: this.peer, export: this.#exportName, failures: this.#failures };
    if (surprising) this.#logger.info({ ...about, err: errorMessage(error) }, 'NBD connection lost');
    else this.#logger.debug(about, 'NBD connection closed');
    this.#onChange(this);
  }

  completed(): void {
    this.#onChange(this);
    if (this.#flushDue || this.#state === 'dead') return;
    this.#flushDue = true;
    // After every answer of this turn of the event loop, so that they leave together.
    setImmediate(() => {
      this.#flushDue = false;
      if (this.#state === 'dead') return;
      this.#replies.flush();
      this.#endWhenAnswered();
      if (this.#blocked) this.#unblock();
    });
  }

  failed(error: unknown): void {
    this.#failures += 1;
    const about = { peer: this.peer, export: this.#exportName, err: errorMessage(error) };
    // A broken disk fails every request: the first is enough to know.
    if (this.#failures === 1)
      this.#logger.warn(about, 'NBD request failed; more on this connection at debug level');
    else this.#logger.debug(about, 'NBD request failed');
  }

  /** Handles everything complete that has arrived, and sends all the replies. */
  #pass(): void {
    this.#passing = true;
    let budget = MAX_REQUESTS_PER_PASS;
    while (this.#step()) {
      budget -= 1;
      if (this.#isOverloaded()) this.#blocked = true;
      else if (budget === 0) this.#yieldTurn();
      if (this.#blocked) break;
    }
    this.#passing = false;
    this.#replies.flush();
  }

  /** Takes one message. @returns false when nothing more can be done with what is there */
  #step(): boolean {
    switch (this.#state) {
      case 'handshake':
      case 'transmission':
      case 'draining':
        return this.#reader ? this.#stepRequest(this.#reader) : this.#stepHandshake();
      case 'away':
      case 'closing':
      case 'dead':
        this.#received.discard();
        return false;
    }
  }

  #stepHandshake(): boolean {
    const received = this.#received;
    const used = this.#handshake.step(received.bytes, received.start, received.end);
    received.consume(used);
    received.want(this.#handshake.wantBytes, false);
    this.#sendHandshakeOutput();
    const outcome = this.#handshake.outcome;
    if (outcome === undefined) return used > 0;
    if (outcome.kind === 'upgrade') {
      this.#upgrade = 'due';
      this.#blocked = true;
      return false;
    }
    if (outcome.kind === 'transmission' && this.#taker) {
      this.#choose(outcome);
      return false;
    }
    clearTimeout(this.#deadline);
    if (outcome.kind === 'transmission') {
      this.#startTransmission(outcome.target, outcome);
    } else if (outcome.kind === 'aborted') {
      this.#finish();
    } else {
      this.#cut(outcome.reason);
    }
    return true;
  }

  /** The last answer in this place has left. */
  #leave(): void {
    if (this.#chosen && this.#taker) this.#giveAway(this.#chosen, this.#taker);
    else this.#startTls();
  }

  #choose(chosen: ChosenExport): void {
    this.#chosen = chosen;
    this.#upgrade = 'due';
    this.#blocked = true;
  }

  #giveAway({ target, style, contexts }: ChosenExport, taker: ClientTaker): void {
    if (this.#state !== 'handshake') return;
    clearTimeout(this.#deadline);
    const socket = this.#engine.giveAway();
    const received = this.#received.rest();
    this.#received.close();
    this.#replies.close();
    this.#state = nextState(this.#state, 'handed');
    this.#exportName = target.name;
    if (!socket) {
      this.#gone();
      return;
    }
    const { client, peer } = this;
    const { name: exportName, sizeBytes } = target;
    taker.take({ client, peer, exportName, sizeBytes, style, contexts, received }, socket, () =>
      this.#gone(),
    );
  }

  /** Whoever carried the requests out is done with the client. */
  #gone(): void {
    this.#state = nextState(this.#state, 'lost');
    this.#onChange(this);
  }

  /** STARTTLS was answered, and the answer has left: what comes now is TLS. */
  #startTls(): void {
    const engine = this.#received.available > 0 ? undefined : this.#tls!.upgrade(this.#engine, this, this);
    if (engine === undefined) {
      this.#cut('bytes behind STARTTLS, before TLS was up');
      return;
    }
    this.#engine = engine;
    this.#upgrade = 'begun';
  }

  #startOldstyle(target: ServedExport | undefined): void {
    if (target === undefined) {
      this.#cut('oldstyle has the default export only, and that is not for this client');
      return;
    }
    if (!this.#taker) clearTimeout(this.#deadline);
    this.#replies.addBytes(encodeOldstyleGreeting(target));
    const agreement: Agreement = { style: 'simple', contexts: [] };
    if (this.#taker) this.#choose({ target, ...agreement });
    else this.#startTransmission(target, agreement);
  }

  #startTransmission(target: ServedExport, { style, contexts }: Agreement): void {
    this.#exportName = target.name;
    this.#replies.useStyle(style);
    this.#transmission = new Transmission(target, this.#replies, this.#tally, this);
    const rules = { ...target.rules, style, contexts };
    this.#reader = new RequestReader(this.#received, this.#replies, this.#transmission, rules);
    this.#state = nextState(this.#state, 'negotiated');
    const who = { peer: this.peer, ...describeIdentity(this.client) };
    this.#logger.info({ ...who, export: target.name }, 'NBD client connected');
  }

  #stepRequest(reader: RequestReader): boolean {
    switch (reader.take()) {
      case 'taken':
        return true;
      case 'starved':
        return false;
      case 'disconnect':
        this.#finish();
        return true;
      case 'lost':
        this.#cut(reader.problem);
        return true;
    }
  }

  #sendHandshakeOutput(): void {
    for (const bytes of this.#handshake.takeOutput()) this.#replies.addBytes(bytes);
  }

  /** The client broke the protocol: nothing that follows can be understood. */
  #cut(reason: string): void {
    this.#logger.warn({ peer: this.peer, export: this.#exportName, reason }, 'NBD connection cut');
    this.#finish();
  }

  #finish(): void {
    if (this.#ended) return;
    this.#state = nextState(this.#state, 'finish');
    clearTimeout(this.#deadline);
    this.#received.discard();
    // In the middle of TLS's handshake there is no goodbye.
    if (this.#upgrade === 'begun') this.#engine.destroy();
    this.#upgrade = undefined;
    if (this.#blocked) this.#resume();
    this.#endWhenAnswered();
  }

  #endWhenAnswered(): void {
    if (this.#state !== 'closing' || this.#ended || this.inFlight > 0) return;
    this.#replies.flush();
    this.#ended = true;
    this.#engine.end();
    this.#startLinger();
  }

  #startLinger(): void {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#engine.destroy(), this.#lingerMs);
  }

  #handshakeTimedOut(): void {
    const stage = this.#upgrade === undefined || this.#chosen ? {} : { reason: 'TLS was not done' };
    this.#warnLimited(stage, 'NBD handshake timed out');
    this.#state = nextState(this.#state, 'finish');
    this.#engine.destroy();
  }

  /** For what any stranger can cause, as often as it likes. */
  #warnLimited(about: object, message: string): void {
    const more = this.#tls ? this.#tls.logLimit.admit() : {};
    if (more) this.#logger.warn({ peer: this.peer, ...about, ...more }, message);
  }

  #isOverloaded(): boolean {
    return isOverloaded(this.#replies, this.#tally, this.#transmission);
  }

  /** Lets other connections work before this one goes on. */
  #yieldTurn(): void {
    this.#blocked = true;
    setImmediate(() => this.#unblock());
  }

  #unblock(): void {
    if (this.#passing || this.#upgrade || this.#state === 'dead' || this.#isOverloaded()) return;
    this.#blocked = false;
    this.#pass();
    if (!this.#blocked) this.#engine.resume();
  }

  #resume(): void {
    this.#blocked = false;
    this.#engine.resume();
  }
}
