import { describe, expect, it } from 'vitest';
import { formatControlAddress, isLoopbackHost } from '../../../src/control/address.ts';
import { isNamed, uniqueName } from '../../../src/control/volume-name.ts';
import { sampleVolume } from './samples.ts';

describe('isLoopbackHost', () => {
  it.each([
    '127.0.0.1',
    '127.255.0.9',
    '::1',
    '0:0:0:0:0:0:0:1',
    'localhost',
    'LOCALHOST',
    '::ffff:127.0.0.1',
  ])('takes %s for loopback', (host) => expect(isLoopbackHost(host)).toBe(true));

  it.each([
    '0.0.0.0',
    '::',
    '10.0.0.1',
    '128.0.0.1',
    '::2',
    '::ffff:10.0.0.1',
    'localhost.evil.example',
    '',
    'fe80::1%lo',
    '127.0.0.1.evil.example',
    '1270.0.0.1',
  ])('takes %j for reachable', (host) => expect(isLoopbackHost(host)).toBe(false));
});

describe('volume names', () => {
  const all = [
    sampleVolume({ name: 'a', vmName: 'x' }),
    sampleVolume({ name: 'a', vmName: 'y' }),
    sampleVolume({ name: 'b', vmName: 'y' }),
  ];

  it('carry the machine where it is needed', () => {
    expect(all.map((one) => uniqueName(one, all))).toEqual(['x/a', 'y/a', 'b']);
  });

  it('mean a volume with or without it', () => {
    expect(all.map((one) => isNamed(one, 'a'))).toEqual([true, true, false]);
    expect(all.map((one) => isNamed(one, 'y/a'))).toEqual([false, true, false]);
  });
});

describe('formatControlAddress', () => {
  it('writes what --control takes', () => {
    expect(formatControlAddress({ kind: 'unix', path: '/run/a.sock' })).toBe('unix:/run/a.sock');
    expect(formatControlAddress({ kind: 'tcp', host: '127.0.0.1', port: 7 })).toBe('127.0.0.1:7');
    expect(formatControlAddress({ kind: 'tcp', host: '::1', port: 7 })).toBe('[::1]:7');
  });
});
