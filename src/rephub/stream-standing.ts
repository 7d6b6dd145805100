// Where a replica stands towards the agent whose stream it follows: whose that is, up to where it was taken in, and
// whether the agent has said what the replica lacks. It must never take a replica for known that nobody described.
import { type AgentIdentity, isSameLife } from './replica-link.ts';
import type { Beginning } from './replica-memory.ts';

export class StreamStanding {
  #agent: AgentIdentity | null = null;
  #received = 0;
  #awaitsDirty = false;
  #isTold = false;
  /** How the present attachment began; undefined: both sides remembered. */
  #kind: Beginning['kind'] | undefined;

  /** Up to where the stream was taken in, when the last connection ended. */
  get received(): number {
    return this.#received;
  }

  /** With HELLO, until the agent has said what the replica lacks: nothing may be read, resumed or trusted. */
  get awaitsDirty(): boolean {
    return this.#awaitsDirty;
  }

  /** What is known to be unread is all that the replica lacks. */
  get isKnown(): boolean {
    return this.#isTold && !this.#awaitsDirty;
  }

  /** Whether both sides still have in memory what the replica lacks. */
  remembers(agent: AgentIdentity | null): boolean {
    return isSameLife(agent, this.#agent);
  }

  /** What the agent knows of the replica is void. */
  forget(): void {
    this.#agent = null;
  }

  /** A connection begins. @param resumes its agent is remembered @param kind how, if that is known */
  begin(agent: AgentIdentity | null, resumes: boolean, kind: Beginning['kind'] | undefined): void {
    this.#kind = kind;
    this.#agent = agent;
    this.#awaitsDirty = agent !== null;
    if (resumes) return;
    this.#isTold = agent === null;
    this.#received = 0;
  }

  /** @param isAllNamed as lacking, which may only be because what is lacking isn't known: much of it may be there */
  mayBeEqual(isAllNamed: boolean): boolean {
    return this.#kind === 'compare' || (this.#kind === 'recall' && isAllNamed);
  }

  /** The agent has said what the replica lacks. */
  told(): void {
    this.#awaitsDirty = false;
    this.#isTold = true;
  }

  /** The connection is over. @param received up to where the stream was taken in */
  end(received: number): void {
    this.#received = received;
    // The agent never said what the replica lacks, and nothing of its stream was taken in: there is nothing to resume.
    if (this.#awaitsDirty && received === 0) this.#agent = null;
    this.#awaitsDirty = false;
  }
}
