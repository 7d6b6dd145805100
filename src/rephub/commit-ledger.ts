// What commits stand for: up to which position of the stream the one under way covers, whether it settles a round of
// reading, and when the oldest change was made that none has made durable. Positions of one stream are never taken for
// those of another.

/** What a commit stands for once it has ended. */
export interface CommitCover {
  readonly sequence: number;
  /** When it is durable, everything that was to be read is, and is consistent. */
  readonly settles: boolean;
}

export class CommitLedger {
  #cover: CommitCover | undefined;
  #oldestUs = 0;
  #committingUs = 0;

  /** When the oldest change that is not durable was made, by the agent's clock, Unix microseconds; 0: none. */
  get oldestUs(): number {
    return this.#committingUs || this.#oldestUs;
  }

  /** A change was taken in. @param timeUs when it was made, by the agent's clock */
  note(timeUs: number): void {
    if (this.#oldestUs === 0) this.#oldestUs = timeUs;
  }

  /** A commit begins. */
  begin(cover: CommitCover): void {
    this.#cover = cover;
    this.#committingUs = this.#oldestUs;
    this.#oldestUs = 0;
  }

  /** The commit has ended well. @returns what it stood for; undefined when that is void by now */
  end(): CommitCover | undefined {
    const cover = this.#cover;
    this.#cover = undefined;
    if (cover) this.#committingUs = 0;
    return cover;
  }

  /** A new round of reading begins: the commit under way was to settle the one before. */
  unsettle(): void {
    if (this.#cover) this.#cover = { sequence: this.#cover.sequence, settles: false };
  }

  /** The commit under way stands for nothing of what comes now. */
  forgetCover(): void {
    this.#cover = undefined;
  }

  /** Another stream begins. */
  restart(): void {
    this.#cover = undefined;
    this.#oldestUs = 0;
    this.#committingUs = 0;
  }
}
