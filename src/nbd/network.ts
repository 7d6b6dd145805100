// IP addresses and networks as numbers, compared bit by bit. An IPv4 address is the same one however it is written:
// plain, or mapped into IPv6 as sockets that take both kinds show it. Text is never compared as text.
import { isIP } from 'node:net';
import { UsageError } from '../base/errors.ts';

export interface IpAddress {
  readonly bits: 32 | 128;
  readonly value: bigint;
}

/** All addresses that share the first `prefix` bits. */
export interface Network {
  readonly bits: 32 | 128;
  readonly prefix: number;
  /** The shared bits, as a number of `prefix` bits. */
  readonly head: bigint;
}

/** ::ffff:0:0/96, under which IPv4 addresses lie in IPv6. */
const MAPPED_HEAD = 0xffffn;
const MAPPED_PREFIX = 96;

/** An address as sockets show it, a zone (`%eth0`) left out; undefined when the text is no address. */
export function parseIp(text: string): IpAddress | undefined {
  const zone = text.indexOf('%');
  const bare = zone === -1 ? text : text.slice(0, zone);
  switch (isIP(bare)) {
    case 4:
      return { bits: 32, value: ipv4Value(bare) };
    case 6:
      return unmapped(ipv6Value(bare));
    default:
      return undefined;
  }
}

/**
 * `ADDRESS/PREFIX`, or an address alone.
 * @param what names the option in errors
 * @throws UsageError for anything else, and for a network with bits behind its prefix
 */
export function parseNetwork(text: string, what: string): Network {
  const [, base, tail] = /^([0-9a-fA-F.:]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const family = base === undefined ? 0 : isIP(base);
  if (base === undefined || family === 0) {
    throw new UsageError(
      `${what}: ${JSON.stringify(text)} is no network; use an address or ADDRESS/PREFIX, as in 10.1.0.0/16 or fd00::/8`,
    );
  }
  const written = family === 4 ? 32 : 128;
  const prefix = tail === undefined ? written : Number(tail);
  if (prefix > written || (tail !== undefined && tail !== String(prefix))) {
    throw new UsageError(`${what}: the prefix of ${text} is not 0 to ${written}`);
  }
  const value = family === 4 ? ipv4Value(base) : ipv6Value(base);
  const rest = BigInt(written - prefix);
  if ((value >> rest) << rest !== value) {
    throw new UsageError(
      `${what}: ${text} has bits beyond its prefix; write the network's first address, or ${base} alone for one address`,
    );
  }
  const isMapped = family === 6 && prefix >= MAPPED_PREFIX && value >> 32n === MAPPED_HEAD;
  if (!isMapped) return { bits: written, prefix, head: value >> rest };
  return { bits: 32, prefix: prefix - MAPPED_PREFIX, head: (value & 0xffffffffn) >> rest };
}

/** Whether the address lies in the network. An IPv4 address lies in no IPv6 network, `::/0` included. */
export function isInNetwork(address: IpAddress, network: Network): boolean {
  if (address.bits !== network.bits) return false;
  return address.value >> BigInt(network.bits - network.prefix) === network.head;
}

function unmapped(value: bigint): IpAddress {
  if (value >> 32n === MAPPED_HEAD) return { bits: 32, value: value & 0xffffffffn };
  return { bits: 128, value };
}

function ipv4Value(text: string): bigint {
  return text.split('.').reduce((value, part) => value * 256n + BigInt(part), 0n);
}

/** @param text valid, without a zone */
function ipv6Value(text: string): bigint {
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(text);
  const low = dotted ? ipv4Value(dotted[2]!) : 0n;
  const hex = dotted ? `${dotted[1]}${(low >> 16n).toString(16)}:${(low & 0xffffn).toString(16)}` : text;
  const [front = '', back] = hex.split('::');
  const head = groups(front);
  const end = groups(back ?? '');
  const gap = back === undefined ? [] : Array<bigint>(8 - head.length - end.length).fill(0n);
  return [...head, ...gap, ...end].reduce((value, group) => value * 65_536n + group, 0n);
}

function groups(text: string): bigint[] {
  return text === '' ? [] : text.split(':').map((group) => BigInt(`0x${group}`));
}
