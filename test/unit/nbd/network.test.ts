// Addresses and networks: every way to write one means the same bits, and nothing that is no network passes for one.
import { BlockList, isIP } from 'node:net';
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { isInNetwork, parseIp, parseNetwork } from '../../../src/nbd/network.ts';

function matches(network: string, address: string): boolean {
  const ip = parseIp(address);
  if (!ip) throw new Error(`${address} is no address`);
  return isInNetwork(ip, parseNetwork(network, 'allow'));
}

test.each([
  ['10.0.0.0/8', '10.255.255.255', true],
  ['10.0.0.0/8', '11.0.0.0', false],
  // As text the one is the beginning of the other.
  ['10.0.0.1', '10.0.0.10', false],
  ['192.168.1.0/24', '192.168.10.1', false],
  ['10.0.0.1', '10.0.0.1', true],
  ['10.0.0.1/32', '10.0.0.2', false],
  ['10.0.0.128/25', '10.0.0.127', false],
  ['10.0.0.128/25', '10.0.0.128', true],
  ['0.0.0.0/0', '255.255.255.255', true],
  ['0.0.0.0/0', '::1', false],
  ['128.0.0.0/1', '200.1.1.1', true],
  ['128.0.0.0/1', '127.1.1.1', false],
  // A socket that takes both kinds shows IPv4 clients like this.
  ['10.0.0.0/8', '::ffff:10.1.2.3', true],
  ['10.0.0.0/8', '::ffff:a01:203', true],
  ['10.0.0.0/8', '0:0:0:0:0:ffff:0a01:0203', true],
  ['10.0.0.0/8', '::ffff:11.1.2.3', false],
  ['::ffff:10.0.0.0/104', '10.1.2.3', true],
  ['::ffff:10.0.0.0/104', '::ffff:10.1.2.3', true],
  ['::ffff:0:0/96', '1.2.3.4', true],
  ['::ffff:10.0.0.1', '10.0.0.1', true],
  // IPv4 is not hidden in a network of IPv6 that seems to hold it.
  ['::/0', '1.2.3.4', false],
  ['::/0', '::ffff:1.2.3.4', false],
  ['::/80', '::ffff:1.2.3.4', false],
  ['::/0', '2001:db8::1', true],
  // Not mapped, but "compatible", or translated: other addresses.
  ['10.0.0.0/8', '::10.1.2.3', false],
  ['10.0.0.0/8', '::ffff:0:10.1.2.3', false],
  ['fd00::/8', 'fdff:ffff::1', true],
  ['fd00::/8', 'fe00::1', false],
  ['fe80::/10', 'fe80::1%eth0', true],
  ['2001:db8::/127', '2001:db8::1', true],
  ['2001:db8::/127', '2001:db8::2', false],
  ['2001:DB8:0:0:0:0:0:1', '2001:db8::1', true],
])('%s and %s: %s', (network, address, expected) => {
  expect(matches(network, address)).toBe(expected);
});

describe('what is no network', () => {
  it.each([
    ['', 'is no network'],
    ['localhost', 'is no network'],
    ['10.0.0', 'is no network'],
    ['10.0.0.0.0/8', 'is no network'],
    ['010.0.0.1', 'is no network'],
    ['0x7f.0.0.1', 'is no network'],
    ['256.0.0.0/8', 'is no network'],
    ['10.0.0.0/', 'is no network'],
    ['10.0.0.0/-1', 'is no network'],
    ['10.0.0.0/8 ', 'is no network'],
    ['10.0.0.0/255.0.0.0', 'is no network'],
    ['fe80::1%eth0', 'is no network'],
    ['1::2::3', 'is no network'],
    ['10.0.0.0/33', 'the prefix of 10.0.0.0/33 is not 0 to 32'],
    ['10.0.0.0/08', 'the prefix'],
    ['fd00::/129', 'the prefix'],
    ['10.0.0.1/8', 'has bits beyond its prefix'],
    ['fd00::1/8', 'has bits beyond its prefix'],
  ])('%j is refused', (text, message) => {
    expect(() => parseNetwork(text, 'allow')).toThrow(message);
  });
});

it('an address that is none is not found', () => {
  for (const text of ['', 'gone', 'unix', '1.2.3', '1.2.3.4/8', ':::']) expect(parseIp(text)).toBeUndefined();
});

it('agrees with Node about random addresses and networks of one kind', () => {
  const address4 = fc.ipV4();
  const address6 = fc.ipV6().filter((text) => isIP(text) === 6 && parseIp(text)!.bits === 128);
  const check = (base: string, prefix: number, address: string): void => {
    const family = isIP(base) === 4 ? 'ipv4' : 'ipv6';
    const list = new BlockList();
    list.addSubnet(base, prefix, family);
    const network = { bits: family === 'ipv4' ? (32 as const) : (128 as const), prefix, head: 0n };
    const head = parseIp(base)!.value >> BigInt(network.bits - prefix);
    expect(isInNetwork(parseIp(address)!, { ...network, head })).toBe(list.check(address, family));
  };
  // Near neighbours too: two random addresses share few bits.
  fc.assert(fc.property(address4, fc.integer({ min: 1, max: 32 }), address4, check));
  fc.assert(fc.property(address6, fc.integer({ min: 1, max: 128 }), address6, check));
  fc.assert(fc.property(address4, fc.integer({ min: 1, max: 32 }), (one, prefix) => check(one, prefix, one)));
  fc.assert(
    fc.property(address6, fc.integer({ min: 1, max: 128 }), (one, prefix) => check(one, prefix, one)),
  );
});
