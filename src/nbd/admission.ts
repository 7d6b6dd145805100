// Which connections there are, and which of them makes room for a new one. Handshakes that stall, by the thousand even,
// never keep a client out: the oldest of them goes first. Clients that use an export are never sent away.
import { type IpAddress, parseIp } from './network.ts';

/** A connection as far as admission looks at it. */
export interface Admitted {
  readonly state: string;
  /** IP address; undefined for clients that have none, which no limit per address concerns. */
  readonly client: { readonly address: string | undefined };
}

export interface AdmissionLimits {
  readonly total: number;
  /** Of one address; for IPv6 of one /64, which is what one customer gets. */
  readonly perAddress: number;
}

export type Verdict<C> =
  | { readonly kind: 'welcome' }
  /** Welcome once this one is sent away. */
  | { readonly kind: 'instead'; readonly victim: C }
  | { readonly kind: 'refused'; readonly limit: 'total' | 'address' };

/** Bits of an IPv6 address behind its network. */
const IPV6_HOST_BITS = 64n;

export class Admission<C extends Admitted> {
  readonly #limits: AdmissionLimits;
  /** Oldest first. */
  readonly #all = new Set<C>();
  /** Those that may still be choosing an export, oldest first. */
  readonly #choosing = new Set<C>();
  readonly #byPlace = new Map<string, Set<C>>();
  /** Sent away, but not yet gone. */
  readonly #leaving = new Set<C>();

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  /** All that are not gone. */
  get connections(): ReadonlySet<C> {
    return this.#all;
  }

  /** Whether one more may come from `address`. A victim counts as gone from now on. */
  judge(address: string | undefined): Verdict<C> {
    const place = placeOf(address);
    const neighbours = place === undefined ? undefined : this.#byPlace.get(place);
    const placeFull = neighbours !== undefined && neighbours.size >= this.#limits.perAddress;
    const full = this.#all.size - this.#leaving.size >= this.#limits.total;
    if (!placeFull && !full) return { kind: 'welcome' };
    const victim = placeFull ? oldestChoosing(neighbours) : this.#oldestChoosing();
    if (victim === undefined) return { kind: 'refused', limit: placeFull ? 'address' : 'total' };
    this.#forget(victim);
    this.#leaving.add(victim);
    return { kind: 'instead', victim };
  }

  add(connection: C): void {
    this.#all.add(connection);
    this.#choosing.add(connection);
    const place = placeOf(connection.client.address);
    if (place === undefined) return;
    const neighbours = this.#byPlace.get(place);
    if (neighbours) neighbours.add(connection);
    else this.#byPlace.set(place, new Set([connection]));
  }

  /** It is gone. */
  remove(connection: C): void {
    this.#all.delete(connection);
    this.#leaving.delete(connection);
    this.#forget(connection);
  }

  /** Each connection that has chosen is passed over once and not looked at again. */
  #oldestChoosing(): C | undefined {
    for (const connection of this.#choosing) {
      if (connection.state === 'handshake') return connection;
      this.#choosing.delete(connection);
    }
    return undefined;
  }

  #forget(connection: C): void {
    this.#choosing.delete(connection);
    const place = placeOf(connection.client.address);
    const neighbours = place === undefined ? undefined : this.#byPlace.get(place);
    neighbours?.delete(connection);
    if (place !== undefined && neighbours?.size === 0) this.#byPlace.delete(place);
  }
}

function oldestChoosing<C extends Admitted>(connections: ReadonlySet<C>): C | undefined {
  for (const connection of connections) if (connection.state === 'handshake') return connection;
  return undefined;
}

/** What counts as one address. One that is none (a peer that is gone already) counts with its like. */
function placeOf(address: string | undefined): string | undefined {
  if (address === undefined) return undefined;
  const ip: IpAddress | undefined = parseIp(address);
  if (ip === undefined) return address;
  return ip.bits === 32 ? `4:${ip.value}` : `6:${ip.value >> IPV6_HOST_BITS}`;
}
