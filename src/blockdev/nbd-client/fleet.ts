// The connections to one export, of which there are several where the server allows it. The first is dialed alone; the
// others join once requests flow, and are done without when they don't come about. When one is lost, all are renewed:
// whatever was answered on any of them may be forgotten with it, and must be sent again before anything newer. The
// others finish what is on its way first: a living server would carry it out anyhow, perhaps behind what comes later.
import type { Logger } from '../../base/log.ts';
import type { NbdExport } from '../../nbdwire/client-export.ts';
import { NBD_FLAG_CAN_MULTI_CONN } from '../../nbdwire/constants.ts';
import type { NbdAddress } from '../nbd-uri.ts';
import {
  Connection,
  type ConnectionOptions,
  type ConnectionOwner,
  lossMessage,
  type Security,
} from './connection.ts';
import type { Request } from './request.ts';

export interface FleetOptions extends ConnectionOptions {
  /** Connections to a server that allows several. */
  readonly connections: number;
}

/** What is left of all connections. */
export interface FleetEnd {
  /** Why the first of them was lost. */
  readonly error: Error;
  /** What was sent and not answered, in order of submission. */
  readonly unanswered: Request[];
  /** Replies that they brought. */
  readonly answers: number;
}

export interface FleetOwner {
  /** Requests that wait to be sent. */
  readonly queued: number;
  connected(): void;
  ready(found: NbdExport): void;
  /** What makes an export that a further connection found another than the first one's; undefined when nothing does. */
  unsuited(found: NbdExport): string | undefined;
  nextToSend(): Request | undefined;
  answered(request: Request): void;
  /** A connection is lost, or the server wants to be left: `leave` is due, unless all end anyway. */
  breaking(): void;
  /** No connection is left. */
  lost(end: FleetEnd): void;
}

/** How long a server may take to end a connection that was told DISC. */
const GOODBYE_MS = 2000;

/** How long a good connection may take to answer what is on its way, when all are to be renewed. */
const DRAIN_MS = 5000;

/** Attempts for a further connection, and the pause between them, milliseconds. */
const ATTEMPTS = 3;
const PAUSE_MS = 1000;

export class Fleet implements ConnectionOwner {
  readonly #address: NbdAddress;
  readonly #security: Security | undefined;
  readonly #options: FleetOptions;
  readonly #owner: FleetOwner;
  readonly #log: Logger;
  /** Those whose handshake has ended, and the first one from its beginning. */
  #members: Connection[] = [];
  #joining = new Set<Connection>();
  #refused = new Set<Connection>();
  #leaving = false;
  #attempts = 0;
  #retryTimer: NodeJS.Timeout | undefined;
  #error: Error | undefined;
  #unanswered: Request[] = [];
  #answers = 0;

  constructor(
    address: NbdAddress,
    security: Security | undefined,
    options: FleetOptions,
    owner: FleetOwner,
    log: Logger,
  ) {
    this.#address = address;
    this.#security = security;
    this.#options = options;
    this.#owner = owner;
    this.#log = log;
  }

  /** How many connections carry requests. */
  get size(): number {
    return this.#members.length;
  }

  /** Makes the first connection; there is none. */
  dial(): void {
    this.#leaving = false;
    this.#attempts = 0;
    this.#error = undefined;
    this.#unanswered = [];
    this.#answers = 0;
    this.#refused.clear();
    this.#members = [this.#connect()];
  }

  /** Requests flow: makes the others. @param found the export, for whether it allows them */
  expand(found: NbdExport): void {
    if ((found.flags & NBD_FLAG_CAN_MULTI_CONN) === 0 || this.#leaving) return;
    while (this.#members.length + this.#joining.size < this.#options.connections) {
      this.#joining.add(this.#connect());
    }
  }

  /** There may be requests to send. */
  wake(): void {
    for (const member of this.#members) member.wake();
  }

  /** Nothing new is sent; what is on its way is answered, then every connection is ended. */
  leave(): void {
    this.#leaving = true;
    this.#stopJoining();
    for (const member of [...this.#members]) {
      if (this.#refused.has(member)) member.disconnect(GOODBYE_MS);
      else member.drain(DRAIN_MS, GOODBYE_MS);
    }
  }

  /** Tells the server that this was all. */
  disconnect(): void {
    this.#leaving = true;
    this.#stopJoining();
    for (const member of [...this.#members]) member.disconnect(GOODBYE_MS);
  }

  /** Ends everything now. */
  abandon(reason: Error): void {
    this.#leaving = true;
    this.#stopJoining();
    for (const member of [...this.#members]) member.abandon(reason);
  }

  // What a connection tells.

  connected(connection: Connection): void {
    if (connection === this.#members[0]) this.#owner.connected();
  }

  ready(connection: Connection, found: NbdExport): void {
    if (connection === this.#members[0]) {
      this.#owner.ready(found);
      return;
    }
    if (!this.#joining.delete(connection)) return;
    const other = this.#owner.unsuited(found);
    if (other !== undefined) {
      this.#log.warn({ reason: other }, 'a further NBD connection found another export; doing without it');
      connection.disconnect(GOODBYE_MS);
      return;
    }
    this.#members.push(connection);
    this.#log.debug({ connections: this.#members.length }, 'one more NBD connection');
    connection.wake();
  }

  /** Each takes its share, so that none waits for the others' requests. */
  nextToSend(connection: Connection): Request | undefined {
    if (this.#leaving) return undefined;
    const members = this.#members;
    if (members.length > 1) {
      let total = this.#owner.queued;
      for (const member of members) total += member.outstanding;
      if (connection.outstanding >= Math.ceil(total / members.length)) return undefined;
    }
    return this.#owner.nextToSend();
  }

  answered(request: Request): void {
    this.#owner.answered(request);
    // Its place may have been what another connection waited for.
    if (this.#members.length > 1 && this.#owner.queued > 0) this.wake();
  }

  refused(connection: Connection): void {
    this.#refused.add(connection);
    if (this.#leaving) connection.disconnect(GOODBYE_MS);
    else this.#owner.breaking();
  }

  lost(connection: Connection, error: Error): void {
    if (this.#joining.delete(connection)) {
      this.#joinLater(error);
      return;
    }
    const at = this.#members.indexOf(connection);
    if (at < 0) return;
    this.#members.splice(at, 1);
    this.#error ??= error;
    this.#unanswered.push(...connection.takeUnanswered());
    this.#answers += connection.answers;
    if (this.#members.length > 0) {
      if (!this.#leaving) this.#owner.breaking();
      return;
    }
    this.#leaving = true;
    this.#stopJoining();
    const unanswered = this.#unanswered.sort((a, b) => a.serial - b.serial);
    this.#unanswered = [];
    this.#owner.lost({ error: this.#error, unanswered, answers: this.#answers });
  }

  #connect(): Connection {
    return new Connection(this.#address, this.#security, this.#options, this);
  }

  #joinLater(error: Error): void {
    this.#attempts += 1;
    const fields = { reason: lossMessage(error), connections: this.#members.length };
    if (this.#attempts >= ATTEMPTS) {
      if (this.#attempts === ATTEMPTS) {
        this.#log.info(fields, 'the NBD server takes no more connections; going on with these');
      }
      return;
    }
    this.#log.debug(fields, 'a further NBD connection did not come about');
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => {
      if (!this.#leaving) this.#joining.add(this.#connect());
    }, PAUSE_MS);
  }

  #stopJoining(): void {
    clearTimeout(this.#retryTimer);
    const joining = [...this.#joining];
    this.#joining.clear();
    for (const connection of joining) connection.abandon(new Error('not needed any more'));
  }
}
