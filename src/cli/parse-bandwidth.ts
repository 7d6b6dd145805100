// --hub-bandwidth as people write it: a limit, or limits for days and hours. Nothing is guessed: what holds at other
// times has to be said.
import { UsageError } from '../base/errors.ts';
import { KiB } from '../base/limits.ts';
import { parseSize } from '../base/size.ts';
import type { Bandwidth, BandwidthRule, BandwidthSchedule } from '../repagent/bandwidth-schedule.ts';

const LABEL = '--hub-bandwidth';
const EXAMPLE = "'mon-fri 08:00-18:00 20M, else unlimited'";
const DAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const DAY_MINUTES = 24 * 60;

/** At less, one large write of a guest would take the link for more than eight minutes. */
export const MIN_BYTES_PER_SECOND = 64 * KiB;

/**
 * `LIMIT`, or `[DAYS] [HH:MM-HH:MM] LIMIT, ..., else LIMIT`. LIMIT is a size, bytes a second, or `unlimited`; DAYS are
 * joined as `mon-fri` or `sat+sun`. The first rule that holds counts.
 * @throws UsageError
 */
export function parseBandwidth(text: string): BandwidthSchedule {
  const parts = text.split(',').map((part) => part.trim());
  if (parts.length === 1 && !/\s/.test(parts[0]!)) return { rules: [], otherwise: parseLimit(parts[0]!) };
  const last = /^else\s+(\S+)$/i.exec(parts.at(-1)!);
  if (!last) {
    throw new UsageError(
      `${LABEL}: say at the end what holds at other times, as in ${EXAMPLE}; ${JSON.stringify(text)} doesn't`,
    );
  }
  return { rules: parts.slice(0, -1).map(parseRule), otherwise: parseLimit(last[1]!) };
}

function parseRule(text: string): BandwidthRule {
  const words = text.split(/\s+/);
  const limit = words.pop() ?? '';
  const hours = words.at(-1)?.includes(':') ? words.pop() : undefined;
  const days = words.shift();
  if (words.length > 0 || (days === undefined && hours === undefined)) {
    throw new UsageError(
      `${LABEL}: ${JSON.stringify(text)} is no rule; one is DAYS HH:MM-HH:MM LIMIT, days or hours may be left out, as in ${EXAMPLE}`,
    );
  }
  return { days: parseDays(days), ...parseHours(hours), limit: parseLimit(limit) };
}

function parseDays(text: string | undefined): Set<number> {
  if (text === undefined) return new Set(DAYS.keys());
  const days = new Set<number>();
  for (const part of text.split('+')) {
    const ends = part.split('-').map((name) => DAYS.indexOf(name.toLowerCase()));
    if (ends.length > 2 || ends.includes(-1)) {
      throw new UsageError(
        `${LABEL}: ${JSON.stringify(part)} is no day; use mon, tue, wed, thu, fri, sat, sun, joined as mon-fri or sat+sun`,
      );
    }
    const to = ends.at(-1)!;
    for (let day = ends[0]!; ; day = (day + 1) % DAYS.length) {
      days.add(day);
      if (day === to) break;
    }
  }
  return days;
}

function parseHours(text: string | undefined): Pick<BandwidthRule, 'fromMinute' | 'toMinute'> {
  if (text === undefined) return { fromMinute: 0, toMinute: DAY_MINUTES };
  const match = /^(\d\d?):(\d\d)-(\d\d?):(\d\d)$/.exec(text);
  const [fromHour, fromPast, toHour, toPast] = (match ?? []).slice(1).map(Number);
  const fromMinute = fromHour! * 60 + fromPast!;
  const toMinute = toHour! * 60 + toPast!;
  const isTime = match !== null && fromPast! < 60 && toPast! < 60;
  if (!isTime || fromMinute >= DAY_MINUTES || toMinute > DAY_MINUTES || toMinute === 0) {
    throw new UsageError(
      `${LABEL}: ${JSON.stringify(text)} are no hours; use 08:00-18:00, 22:00-06:00 into the next day, or 18:00-24:00`,
    );
  }
  if (fromMinute === toMinute) {
    throw new UsageError(`${LABEL}: ${text} is no time at all; a whole day is written without hours`);
  }
  return { fromMinute, toMinute };
}

function parseLimit(text: string): Bandwidth {
  if (text.toLowerCase() === 'unlimited') return null;
  if (!/^\d/.test(text)) {
    throw new UsageError(
      `${LABEL}: ${JSON.stringify(text)} is no limit; use bytes a second, such as 512K or 20M, or unlimited`,
    );
  }
  const bytes = parseSize(text, LABEL);
  if (bytes < MIN_BYTES_PER_SECOND) {
    throw new UsageError(`${LABEL}: ${text} is less than the least, 64K a second`);
  }
  return bytes;
}
