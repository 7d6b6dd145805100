// Which limit holds when: across midnight, across weeks, and on the two days a year that have another length.
import { afterEach, describe, expect, it } from 'vitest';
import { parseBandwidth } from '../../../src/cli/parse-bandwidth.ts';
import { bandwidthAt, localClock, UNLIMITED } from '../../../src/repagent/bandwidth-schedule.ts';

const M = 2 ** 20;
const HOUR_MS = 3_600_000;
const zone = process.env.TZ;
afterEach(() => {
  if (zone === undefined) delete process.env.TZ;
  else process.env.TZ = zone;
});

const clock = (day: number, hour: number, minute = 0) => ({ day, minute: hour * 60 + minute });

describe('a schedule', () => {
  it('is unlimited unless told otherwise', () => {
    expect(bandwidthAt(UNLIMITED, clock(3, 12))).toBeNull();
  });

  it('takes the first rule that holds, from its first minute to the one before its end', () => {
    const week = parseBandwidth('mon-fri 08:00-18:00 20M, fri 5M, else unlimited');
    const at = (day: number, hour: number, minute = 0) => bandwidthAt(week, clock(day, hour, minute));
    expect([at(1, 7, 59), at(1, 8), at(1, 17, 59), at(1, 18)]).toEqual([null, 20 * M, 20 * M, null]);
    expect([at(5, 7, 59), at(5, 8), at(5, 18), at(5, 23, 59)]).toEqual([5 * M, 20 * M, 5 * M, 5 * M]);
    expect([at(6, 12), at(0, 12)]).toEqual([null, null]);
  });

  it('holds past midnight into the next day, also from the last day of the week to the first', () => {
    const nights = parseBandwidth('fri+sat 22:00-06:00 1M, else 2M');
    const at = (day: number, hour: number, minute = 0) => bandwidthAt(nights, clock(day, hour, minute))! / M;
    expect([at(5, 5), at(5, 21, 59), at(5, 22), at(5, 23, 59)]).toEqual([2, 2, 1, 1]);
    expect([at(6, 0), at(6, 5, 59), at(6, 6), at(6, 22)]).toEqual([1, 1, 2, 1]);
    expect([at(0, 0), at(0, 5, 59), at(0, 6), at(0, 22)]).toEqual([1, 1, 2, 2]);
    expect(at(1, 0)).toBe(2);
  });
});

describe('where clocks are set', () => {
  /** Minutes of [from, from + hours) in which the schedule has 1 MiB a second. */
  function limitedMinutes(schedule: string, from: string, hours: number): number {
    process.env.TZ = 'Europe/Berlin';
    const parsed = parseBandwidth(schedule);
    let minutes = 0;
    for (let at = Date.parse(from); at < Date.parse(from) + hours * HOUR_MS; at += 60_000) {
      if (bandwidthAt(parsed, localClock(at)) === M) minutes += 1;
    }
    return minutes;
  }

  it('a night ends at its hour, whether it is shorter or longer', () => {
    const night = 'sat 22:00-06:00 1M, else unlimited';
    expect(limitedMinutes(night, '2026-03-21T12:00:00Z', 24)).toBe(8 * 60);
    expect(limitedMinutes(night, '2026-03-28T12:00:00Z', 24)).toBe(7 * 60);
    expect(limitedMinutes(night, '2026-10-24T12:00:00Z', 24)).toBe(9 * 60);
    process.env.TZ = 'Europe/Berlin';
    expect(localClock(Date.parse('2026-03-29T04:00:00Z'))).toEqual({ day: 0, minute: 6 * 60 });
    expect(localClock(Date.parse('2026-10-25T05:00:00Z'))).toEqual({ day: 0, minute: 6 * 60 });
  });

  it('an hour that does not exist never comes, and one that comes twice counts twice', () => {
    const hour = 'sun 02:00-03:00 1M, else unlimited';
    expect(limitedMinutes(hour, '2026-03-28T12:00:00Z', 24)).toBe(0);
    expect(limitedMinutes(hour, '2026-10-24T12:00:00Z', 24)).toBe(120);
  });

  it('a whole day is a day, of 23 or 25 hours', () => {
    expect(limitedMinutes('sun 1M, else unlimited', '2026-03-28T12:00:00Z', 48)).toBe(23 * 60);
    expect(limitedMinutes('sun 00:00-24:00 1M, else unlimited', '2026-10-24T12:00:00Z', 48)).toBe(25 * 60);
  });
});
