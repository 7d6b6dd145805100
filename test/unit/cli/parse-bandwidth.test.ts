// --hub-bandwidth: what people may write, and what they are told otherwise.
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { resolveServe } from '../../../src/cli/commands/serve.ts';
import { parseBandwidth } from '../../../src/cli/parse-bandwidth.ts';

const M = 2 ** 20;
const EVERY_DAY = [0, 1, 2, 3, 4, 5, 6];

const daysOf = (text: string): number[] =>
  [...parseBandwidth(`${text} 1M, else 2M`).rules[0]!.days].sort((a, b) => a - b);

describe('a bandwidth', () => {
  it('is one limit, in the units of other sizes', () => {
    expect(parseBandwidth('20M')).toEqual({ rules: [], otherwise: 20 * M });
    expect(parseBandwidth(' 1.5GiB ')).toEqual({ rules: [], otherwise: 1536 * M });
    expect(parseBandwidth('Unlimited')).toEqual({ rules: [], otherwise: null });
    expect(parseBandwidth('65536').otherwise).toBe(65_536);
  });

  it('or one for days and hours, either of which may be left out', () => {
    expect(parseBandwidth('Mon 8:00-18:30 20M,22:00-06:00 UNLIMITED , sun 5M, Else 64K')).toEqual({
      rules: [
        { days: new Set([1]), fromMinute: 480, toMinute: 1110, limit: 20 * M },
        { days: new Set(EVERY_DAY), fromMinute: 1320, toMinute: 360, limit: null },
        { days: new Set([0]), fromMinute: 0, toMinute: 1440, limit: 5 * M },
      ],
      otherwise: 65_536,
    });
  });

  it('has days in rows and lists, over the end of the week too', () => {
    expect(daysOf('mon-fri')).toEqual([1, 2, 3, 4, 5]);
    expect(daysOf('sat+sun')).toEqual([0, 6]);
    expect(daysOf('fri-mon')).toEqual([0, 1, 5, 6]);
    expect(daysOf('mon-tue+thu+thu')).toEqual([1, 2, 4]);
    expect(daysOf('wed-wed')).toEqual([3]);
    expect(daysOf('mon-sun')).toEqual(EVERY_DAY);
  });

  it.each([
    ['fast', '"fast" is no limit; use bytes a second, such as 512K or 20M, or unlimited'],
    ['20X', '"20X" is not a size'],
    ['0', 'less than the least, 64K a second'],
    ['63K', 'less than the least'],
    ['-5M', '"-5M" is no limit'],
    ['mon-fri 20M', 'say at the end what holds at other times'],
    ['08:00-18:00 20M, sat 5M', 'say at the end what holds at other times'],
    ['else 5M, mon 20M', 'say at the end what holds at other times'],
    ['mon 20M, else', 'say at the end what holds at other times'],
    ['mon 20M, else 5M 6M', 'say at the end what holds at other times'],
    ['mon 20M, else mon 5M', 'say at the end what holds at other times'],
    ['', 'is no limit'],
    ['20M, else 5M', '"20M" is no rule; one is DAYS HH:MM-HH:MM LIMIT'],
    [', else 5M', '"" is no rule'],
    ['mon 08:00-09:00 10:00-11:00 5M, else 6M', 'is no rule'],
    ['mon tue 5M, else 6M', 'is no rule'],
    ['08:00-18:00 mon 5M, else 6M', 'is no rule'],
    ['mo 5M, else 6M', '"mo" is no day; use mon, tue, wed, thu, fri, sat, sun, joined as mon-fri or sat+sun'],
    ['mon-tue-wed 5M, else 6M', '"mon-tue-wed" is no day'],
    ['mon+ 5M, else 6M', '"" is no day'],
    ['mon,tue 5M, else 6M', '"mon" is no rule'],
    ['8-18 5M, else 6M', '"8-18" is no day'],
    ['08:00 5M, else 6M', '"08:00" are no hours; use 08:00-18:00'],
    ['08:60-18:00 5M, else 6M', 'are no hours'],
    ['24:00-18:00 5M, else 6M', 'are no hours'],
    ['08:00-24:01 5M, else 6M', 'are no hours'],
    [
      '08:00-00:00 5M, else 6M',
      'are no hours; use 08:00-18:00, 22:00-06:00 into the next day, or 18:00-24:00',
    ],
    ['08:00-08:00 5M, else 6M', '08:00-08:00 is no time at all; a whole day is written without hours'],
  ])('%j is refused', (text, message) => {
    expect(() => parseBandwidth(text)).toThrow(UsageError);
    expect(() => parseBandwidth(text)).toThrow(message);
    expect(() => parseBandwidth(text)).toThrow('--hub-bandwidth: ');
  });

  it('is about a hub', () => {
    const image = ['d.img'];
    expect(resolveServe({ image, hub: ['h'], 'hub-bandwidth': '1M' }).bandwidth).toEqual({
      rules: [],
      otherwise: M,
    });
    expect(resolveServe({ image, hub: ['h'] }).bandwidth).toBeUndefined();
    expect(() => resolveServe({ image, 'hub-bandwidth': '1M' })).toThrow('add --hub HOST');
  });
});
