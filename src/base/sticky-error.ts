// The first thing that went wrong, and when: later ones, and a recovery, must not hide it. Cleared only by a new start.

export interface NotedError {
  readonly text: string;
  /** ISO 8601. */
  readonly at: string;
}

export class StickyError {
  #first: NotedError | undefined;

  get first(): NotedError | null {
    return this.#first ?? null;
  }

  note(text: string): void {
    this.#first ??= { text, at: new Date().toISOString() };
  }
}
