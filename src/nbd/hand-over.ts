// How a client that has chosen an export goes from the server that talked to it to the one that carries its requests out.
// Plain values and a socket: both may cross processes. No request is ever read on the way.
import type { Agreement } from '../nbdwire/server-handshake.ts';
import type { GivenSocket } from '../transport/socket-engine.ts';
import type { ClientIdentity } from './client-identity.ts';
import type { ServedExport } from './exports.ts';

/** What a client and this server agreed on. */
export interface ChosenExport extends Agreement {
  readonly target: ServedExport;
}

/** The same where a client goes on that another server gave away. */
export interface NegotiatedHere extends ChosenExport {
  /** What it has sent behind its choice. */
  readonly received: Buffer;
}

/** A client whose handshake is over. Structured cloning keeps all of it. */
export interface NegotiatedClient extends Agreement {
  readonly client: ClientIdentity;
  /** What its engine called it. */
  readonly peer: string;
  /** The export's own name, whichever the client used. */
  readonly exportName: string;
  /** The size that it was told, bytes: what it asks for is held against that to its end. */
  readonly sizeBytes: number;
  /** What it has sent behind its choice. */
  readonly received: Buffer;
}

/** Carries out what clients of other servers' handshakes ask for. */
export interface ClientTaker {
  /**
   * Takes a client over, with its socket, whatever becomes of it.
   * @param gone to be called once, when nothing is left of it
   */
  take(client: NegotiatedClient, socket: GivenSocket, gone: () => void): void;
}
