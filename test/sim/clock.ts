// Virtual time: timers, immediates and clocks of the real code run on it, each event whole before the next begins. It
// must be exactly repeatable: nothing in it may look at the machine's time, and no event may be lost but those of a
// process that was killed.

/** A process. When it's killed, its timers and whatever else was to come for it are gone. */
export class Host {
  readonly name: string;
  isAlive = true;
  /** Until then it stands still, ms of virtual time. Never made earlier. */
  stalledUntilMs = 0;
  /** What was added to its wall clock, ms. */
  wallOffsetMs = 0;

  constructor(name: string) {
    this.name = name;
  }
}

interface Event {
  atMs: number;
  order: number;
  /** Whose it is; null: the world's. */
  readonly host: Host | null;
  readonly run: () => void;
  isCancelled: boolean;
}

/** Unix milliseconds at which virtual time begins. */
const START_UNIX_MS = 1_800_000_000_000;

/** What an immediate takes, ms. */
const TURN_MS = 0.02;

/** Runs the promise reactions that are due, and those that they cause: what Node does between two events of its own. */
const runReactions = (process as unknown as { _tickCallback(): void })._tickCallback;

export class Clock {
  nowMs = 0;
  /** The process that runs now. */
  host: Host | null = null;
  /** Events that were carried out. */
  events = 0;
  /** Called after each event. */
  afterEvent: () => void = () => {};
  /** Called with what an event throws. */
  onThrow: (error: unknown) => void = () => {};
  readonly #random: () => number;
  readonly #heap: Event[] = [];
  #order = 0;
  #ticks: Array<() => void> = [];
  #lastImmediateMs = 0;

  constructor(random: () => number) {
    this.#random = random;
  }

  /** Once, after `delayMs`, in the name of `host`. */
  after(delayMs: number, host: Host | null, run: () => void): Event {
    const event = { atMs: this.nowMs + delayMs, order: this.#order, host, run, isCancelled: false };
    this.#order += 1;
    this.#push(event);
    return event;
  }

  /** Now, in the name of `host`, and all that follows from it in the same turn. */
  as<T>(host: Host | null, run: () => T): T {
    const before = this.host;
    this.host = host;
    try {
      return run();
    } finally {
      this.#finishTurn();
      this.host = before;
    }
  }

  /** Carries events out until there are none before `untilMs`, or `isOver`. @returns whether it was over */
  runUntil(untilMs: number, isOver: () => boolean = () => false): boolean {
    while (!isOver()) {
      const next = this.#heap[0];
      if (!next || next.atMs > untilMs) {
        this.nowMs = Math.max(this.nowMs, untilMs);
        return false;
      }
      this.#pop();
      this.nowMs = Math.max(this.nowMs, next.atMs);
      const { host } = next;
      if (next.isCancelled || host?.isAlive === false) continue;
      if (host && host.stalledUntilMs > this.nowMs) {
        // The same event: who cancels it means this one. What was due earlier stays earlier.
        next.atMs = host.stalledUntilMs;
        next.order = this.#order;
        this.#order += 1;
        this.#push(next);
        continue;
      }
      this.events += 1;
      this.as(host, () => this.#guarded(next.run));
      this.afterEvent();
    }
    return true;
  }

  /** Unix milliseconds, by the clock on the wall of the process that runs. */
  wallMs(): number {
    return this.wallMsOf(this.host);
  }

  /** The same for another one; null: a clock that is right. */
  wallMsOf(host: Host | null): number {
    return START_UNIX_MS + this.nowMs + (host?.wallOffsetMs ?? 0);
  }

  /** Puts virtual time and this clock's random numbers in place of the real ones. @returns how to undo that */
  install(): () => void {
    const global = globalThis as unknown as Record<string, unknown>;
    const names = [
      'setTimeout',
      'setInterval',
      'setImmediate',
      'clearTimeout',
      'clearInterval',
      'clearImmediate',
    ];
    const before = [...names, 'performance'].map(
      (name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)!] as const,
    );
    const { now } = Date;
    const { random } = Math;
    const { nextTick } = process;
    const set = (name: string, value: unknown): void => {
      Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    };
    set('setTimeout', (run: () => void, ms = 1) => new Timer(this, run, Math.max(1, ms), false));
    set('setInterval', (run: () => void, ms = 1) => new Timer(this, run, Math.max(1, ms), true));
    set('setImmediate', (run: () => void) => this.#immediate(run));
    for (const name of names.slice(3))
      set(name, (timer?: { cancel(): void }) => {
        timer?.cancel();
      });
    set('performance', {
      now: () => this.nowMs,
      timeOrigin: START_UNIX_MS,
    });
    process.nextTick = (run: (...args: unknown[]) => void, ...args: unknown[]) => {
      this.#ticks.push(() => run(...args));
    };
    Date.now = () => Math.floor(this.wallMs());
    Math.random = this.#random;
    return () => {
      for (const [name, descriptor] of before) Object.defineProperty(global, name, descriptor);
      Date.now = now;
      Math.random = random;
      process.nextTick = nextTick;
    };
  }

  /** All that follows from what just ran: ticks, promise reactions, and what these cause. */
  #finishTurn(): void {
    do {
      for (const tick of this.#ticks.splice(0)) this.#guarded(tick);
      runReactions();
    } while (this.#ticks.length > 0);
  }

  #guarded(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.onThrow(error);
    }
  }

  /** Immediates of all processes keep their order. */
  #immediate(run: () => void): { cancel(): void } {
    this.#lastImmediateMs = Math.max(this.#lastImmediateMs, this.nowMs + TURN_MS);
    const event = this.after(this.#lastImmediateMs - this.nowMs, this.host, run);
    return {
      cancel: () => {
        event.isCancelled = true;
      },
    };
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(event, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child += 1;
      if (!isBefore(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}

/** What setTimeout and setInterval return, as far as the code uses it. */
class Timer {
  readonly #clock: Clock;
  readonly #host: Host | null;
  readonly #run: () => void;
  readonly #ms: number;
  readonly #repeats: boolean;
  #event: Event;

  constructor(clock: Clock, run: () => void, ms: number, repeats: boolean) {
    this.#clock = clock;
    this.#host = clock.host;
    this.#run = run;
    this.#ms = ms;
    this.#repeats = repeats;
    this.#event = clock.after(ms, this.#host, this.#fire);
  }

  cancel(): void {
    this.#event.isCancelled = true;
  }

  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  readonly #fire = (): void => {
    if (this.#repeats) this.#event = this.#clock.after(this.#ms, this.#host, this.#fire);
    this.#run();
  };
}
