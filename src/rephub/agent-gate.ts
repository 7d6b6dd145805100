// What stands before a session on a hub that demands TLS: agents prove who they are by certificates, or are gone.
// Nothing of what an agent says reaches a session before that, and no agent speaks for a machine it is not.
import type { Socket } from 'node:net';
import type { Logger } from '../base/log.ts';
import { LogLimit } from '../base/log-limit.ts';
import type { ServerCredentials } from '../transport/tls-credentials.ts';
import { acceptTls } from '../transport/tls-server.ts';

/** Failures that are logged in a minute: anybody may cause them. */
const LOG_LINES = 30;
const LOG_INTERVAL_MS = 60_000;

export interface HubTls {
  /** Asked for each connection, so that they may be replaced. */
  readonly credentials: () => ServerCredentials;
  /** Let an agent replicate whatever machine it says it is, as long as its certificate is good. */
  readonly anyName: boolean;
}

/** Who an agent proved to be: the names in its certificate. */
export interface ProvenAgent {
  readonly names: readonly string[];
  /** Why it may not replicate a machine of this name; undefined when it may. */
  refusal(vmName: string): string | undefined;
}

export interface AgentGateOptions {
  readonly tls: HubTls;
  /** For the whole TLS handshake, ms. */
  readonly handshakeMs: number;
  readonly logger: Logger;
  readonly proven: (secure: Socket, agent: ProvenAgent) => void;
}

export class AgentGate {
  readonly #options: AgentGateOptions;
  readonly #logLimit = new LogLimit({ maxLines: LOG_LINES, intervalMs: LOG_INTERVAL_MS });
  readonly #waiting = new Set<Socket>();

  constructor(options: AgentGateOptions) {
    this.#options = options;
  }

  /** Agents that have not proved who they are. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Takes over an accepted socket. */
  admit(socket: Socket): void {
    const { tls, handshakeMs, proven } = this.#options;
    const peer = `${socket.remoteAddress ?? 'gone'}:${socket.remotePort ?? 0}`;
    this.#waiting.add(socket);
    const timer = setTimeout(() => {
      this.#refused(peer, `the agent did not finish TLS within ${handshakeMs} ms`);
      socket.destroy();
    }, handshakeMs);
    socket.once('close', () => {
      clearTimeout(timer);
      this.#waiting.delete(socket);
    });
    const secure = acceptTls(
      socket,
      { credentials: tls.credentials(), clientCertificates: 'required' },
      {
        secured: (identity) => {
          clearTimeout(timer);
          this.#waiting.delete(socket);
          const names = identity.kind === 'certificate' ? identity.names : [];
          proven(secure, { names, refusal: (vmName) => refusal(names, vmName, tls.anyName) });
        },
        unsecured: (reason) => this.#refused(peer, reason),
      },
    );
  }

  /** Ends every handshake that is under way. */
  close(): void {
    for (const socket of this.#waiting) socket.destroy();
  }

  #refused(peer: string, reason: string): void {
    const more = this.#logLimit.admit();
    if (more) this.#options.logger.warn({ agent: peer, reason, ...more }, 'TLS with an agent failed');
  }
}

function refusal(names: readonly string[], vmName: string, anyName: boolean): string | undefined {
  if (anyName || names.includes(vmName)) return undefined;
  const list = names.map((name) => JSON.stringify(name)).join(', ') || 'nobody';
  return (
    `the agent's certificate is for ${list}, not for the machine ${JSON.stringify(vmName)}; ` +
    'give the agent --vm-name with that name, or a certificate for this one'
  );
}
