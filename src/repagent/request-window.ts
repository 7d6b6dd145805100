// Bounds what the hub may have asked for and not got yet, in requests and bytes. A hub that asks for more isn't read
// from until enough was answered: it must never make the agent take memory without limit.
import { MiB } from '../base/limits.ts';

const MAX_REQUESTS = 256;
const MAX_BYTES = 32 * MiB;

export interface PausableLink {
  pause(): void;
  resume(): void;
}

export class RequestWindow {
  readonly #link: PausableLink;
  #requests = 0;
  #bytes = 0;
  #paused = false;

  constructor(link: PausableLink) {
    this.#link = link;
  }

  get requests(): number {
    return this.#requests;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Whether nothing is read from the hub at present. */
  get isPaused(): boolean {
    return this.#paused;
  }

  /** A request has come. @param bytes of memory that it takes until it's over */
  take(bytes: number): void {
    this.#requests += 1;
    this.#bytes += bytes;
    if (this.#paused || (this.#requests < MAX_REQUESTS && this.#bytes < MAX_BYTES)) return;
    this.#paused = true;
    this.#link.pause();
  }

  /** Its answer has left. */
  give(bytes: number): void {
    this.#requests -= 1;
    this.#bytes -= bytes;
    if (!this.#paused || this.#requests >= MAX_REQUESTS / 2 || this.#bytes >= MAX_BYTES / 2) return;
    this.#paused = false;
    this.#link.resume();
  }
}
