// Makes what was stored durable for many changes with few syncs: one commit at a time; the next begins when it has
// ended and more was stored. It must never report a commit as covering what came after it began.

export interface CommitSteps {
  /** Whether what was stored so far is a whole: nothing is being stored at this moment. */
  ready(): boolean;
  /** Milliseconds from the start of one commit to the start of the next. */
  gatherMs(): number;
  /** Takes note of what this commit covers, and starts it; undefined when everything is durable already. */
  begin(): Promise<void> | undefined;
  /** What `begin` took note of is durable. */
  done(): void;
  failed(error: unknown): void;
}

export class GroupCommit {
  readonly #steps: CommitSteps;
  #wanted = false;
  #urgent = false;
  #running = false;
  #closed = false;
  #timer: NodeJS.Timeout | undefined;
  #startedAt = Number.NEGATIVE_INFINITY;

  constructor(steps: CommitSteps) {
    this.#steps = steps;
  }

  /** There is something to make durable. Never commits during the call. @param urgent without gathering more */
  request(urgent = false): void {
    this.#wanted = true;
    if (urgent && !this.#urgent) {
      this.#urgent = true;
      clearTimeout(this.#timer);
      this.#timer = undefined;
    }
    this.poke();
  }

  /** What made `ready` say no is over. */
  poke(): void {
    if (!this.#wanted || this.#running || this.#timer || this.#closed) return;
    const sinceStartMs = performance.now() - this.#startedAt;
    const waitMs = this.#urgent ? 0 : Math.max(0, this.#steps.gatherMs() - sinceStartMs);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#start();
    }, waitMs);
  }

  /** Starts nothing any more; one that is running goes on and reports nothing. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #start(): void {
    if (!this.#wanted || !this.#steps.ready()) return;
    this.#wanted = false;
    this.#urgent = false;
    this.#startedAt = performance.now();
    const commit = this.#steps.begin();
    if (commit === undefined) {
      this.#steps.done();
      return;
    }
    this.#running = true;
    commit.then(
      () => this.#ended(() => this.#steps.done()),
      (error: unknown) => this.#ended(() => this.#steps.failed(error)),
    );
  }

  #ended(report: () => void): void {
    this.#running = false;
    if (this.#closed) return;
    report();
    this.poke();
  }
}
