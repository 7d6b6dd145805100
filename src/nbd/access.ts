// Who may use an export. A rule that is not there restricts nobody; one that is there denies everybody it doesn't name.
import type { ClientIdentity, TlsIdentity } from './client-identity.ts';
import { type IpAddress, isInNetwork, type Network, parseIp, parseNetwork } from './network.ts';

/** What `allow` calls clients without an IP address: those on unix sockets and on standard input. */
export const LOCAL_CLIENTS = 'unix';

export interface AccessRules {
  /** Where clients may come from; undefined: from anywhere. */
  readonly from: AllowedPlaces | undefined;
  /** Names of client certificates, any of which will do; undefined: none is asked for. */
  readonly certificates: ReadonlySet<string> | undefined;
  /** Names of pre-shared keys; with `certificates` too, either will do. */
  readonly keys: ReadonlySet<string> | undefined;
}

export interface AllowedPlaces {
  readonly networks: readonly Network[];
  /** Clients without an IP address. */
  readonly local: boolean;
}

/** Everybody who can connect. */
export const OPEN_TO_ALL: AccessRules = { from: undefined, certificates: undefined, keys: undefined };

/**
 * Reads the elements of an allow list: networks, addresses, and `unix`.
 * @param what names the option in errors
 * @throws UsageError
 */
export function parsePlaces(elements: readonly string[], what: string): AllowedPlaces {
  return {
    local: elements.includes(LOCAL_CLIENTS),
    networks: elements.filter((text) => text !== LOCAL_CLIENTS).map((text) => parseNetwork(text, what)),
  };
}

/** Whether the rules let this client in. Both kinds of rules must agree: where it comes from, and who it proved to be. */
export function mayUse(rules: AccessRules, client: ClientIdentity): boolean {
  if (rules.from && !comesFrom(rules.from, client.address)) return false;
  if (!rules.certificates && !rules.keys) return true;
  return client.tls !== undefined && isNamed(rules, client.tls);
}

function comesFrom(places: AllowedPlaces, address: string | undefined): boolean {
  if (address === undefined) return places.local;
  const ip: IpAddress | undefined = parseIp(address);
  return ip !== undefined && places.networks.some((network) => isInNetwork(ip, network));
}

function isNamed({ certificates, keys }: AccessRules, tls: TlsIdentity): boolean {
  switch (tls.kind) {
    case 'certificate':
      return tls.names.some((name) => certificates?.has(name));
    case 'psk':
      return keys?.has(tls.user) === true;
    case 'anonymous':
      return false;
  }
}
