// What commits stand for: up to which position of the stream the one under way covers, whether it settles a round of
// reading, and when the oldest change was made that none has made durable. Positions of one stream are never taken for
// those of another.

/** What a commit stands for once it has ended. */
export interface CommitCover {
  readonly sequence: number;
  /** When it is durable, everything that was to be read is, and is consistent. */
  readonly settles: boolean;
  /** When the newest change that it covers was made, by the agent's clock, Unix microseconds; 0: unknown. */
  readonly timeUs: number;
}

export class CommitLedger {
  #cover: CommitCover | undefined;
  #oldestUs = 0;
  #committingUs = 0;
  #newestUs = 0;
  #durableUs = 0;

  /** When the oldest change that is not durable was made, by the agent's clock, Unix microseconds; 0: none. */
  get oldestUs(): number {
    return this.#committingUs || this.#oldestUs;
  }

  /**
   * When the newest change was made that was taken in, by the agent's clock, Unix microseconds; 0: unknown.
   * @param isTaken false: of those that are durable
   */
  madeUs(isTaken: boolean): number {
    return isTaken ? this.#newestUs : this.#durableUs;
  }

  /** A change was taken in. @param timeUs when it was made, by the agent's clock */
  note(timeUs: number): void {
    if (this.#oldestUs === 0) this.#oldestUs = timeUs;
    this.#newestUs = timeUs;
  }

  /** A commit begins. */
  begin(cover: Omit<CommitCover, 'timeUs'>): void {
    this.#cover = { ...cover, timeUs: this.#newestUs };
    this.#committingUs = this.#oldestUs;
    this.#oldestUs = 0;
  }

  /** The commit has ended well. @returns what it stood for; undefined when that is void by now */
  end(): CommitCover | undefined {
    const cover = this.#cover;
    this.#cover = undefined;
    if (!cover) return undefined;
    this.#committingUs = 0;
    this.#durableUs = cover.timeUs;
    return cover;
  }

  /** A new round of reading begins: the commit under way was to settle the one before. */
  unsettle(): void {
    if (this.#cover) this.#cover = { ...this.#cover, settles: false };
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
    this.#newestUs = 0;
    this.#durableUs = 0;
  }
}
