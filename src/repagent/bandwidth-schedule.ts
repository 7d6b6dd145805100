// How much the agent may send to its hub at which time of the week. A rule is held against what the clock on the wall
// shows now; no duration is ever computed from it, so that a day of 23 or 25 hours, or a clock that is set, is no case.

/** Bytes a second, above 0; null: as fast as it goes. */
export type Bandwidth = number | null;

export interface BandwidthRule {
  /** Days on which it begins to hold, 0 is Sunday. */
  readonly days: ReadonlySet<number>;
  /** Minutes since midnight: 0..1439, and 1..1440. One that ends before it begins holds until the next day. */
  readonly fromMinute: number;
  readonly toMinute: number;
  readonly limit: Bandwidth;
}

export interface BandwidthSchedule {
  /** The first one that holds counts. */
  readonly rules: readonly BandwidthRule[];
  /** What counts when none does. */
  readonly otherwise: Bandwidth;
}

export const UNLIMITED: BandwidthSchedule = { rules: [], otherwise: null };

/** What a clock on the wall shows. */
export interface WallClock {
  /** 0 is Sunday. */
  readonly day: number;
  /** Since midnight. */
  readonly minute: number;
}

/** The clock of this machine's time zone. @param timeMs Unix milliseconds */
export function localClock(timeMs: number): WallClock {
  const date = new Date(timeMs);
  return { day: date.getDay(), minute: date.getHours() * 60 + date.getMinutes() };
}

export function bandwidthAt(schedule: BandwidthSchedule, clock: WallClock): Bandwidth {
  const rule = schedule.rules.find((one) => holds(one, clock));
  return rule ? rule.limit : schedule.otherwise;
}

function holds({ days, fromMinute, toMinute }: BandwidthRule, { day, minute }: WallClock): boolean {
  if (fromMinute < toMinute) return days.has(day) && minute >= fromMinute && minute < toMinute;
  const yesterday = (day + 6) % 7;
  return (days.has(day) && minute >= fromMinute) || (days.has(yesterday) && minute < toMinute);
}
