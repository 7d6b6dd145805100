// One status of an agent out of those of its workers. Pure.
import { isRecord } from '../../../base/is-record.ts';
import type { NotedError } from '../../../base/sticky-error.ts';
import type { LinkStatus, LinkTraffic, ResyncReads, VolumeStatus } from '../../../control/status.ts';
import type { HostStatus } from '../volume-host.ts';

/**
 * @param parts of the workers that answered, in any order
 * @param missing the volumes of the others
 * @param names all volumes, in the order to show them
 */
export function mergeStatus(
  parts: readonly HostStatus[],
  missing: readonly VolumeStatus[],
  names: readonly string[],
): HostStatus {
  const volumes = [...parts.flatMap((part) => part.volumes), ...missing];
  const links = mergeLinks(parts.flatMap((part) => part.links ?? []));
  const reads = parts.flatMap(({ resyncReads }) => (resyncReads ? [resyncReads] : []));
  return {
    link: links.find(({ state }) => state !== 'live') ?? links[0] ?? null,
    ...(links.length > 0 && { links }),
    ...(reads.length > 0 && { resyncReads: reads.reduce(addReads) }),
    volumes: names.flatMap((name) => volumes.find((one) => one.name === name) ?? []),
  };
}

/** Every worker has a link of its own to each hub: a hub's is as well as the worst of them. */
function mergeLinks(links: readonly LinkStatus[]): LinkStatus[] {
  const hubs = new Map<string, LinkStatus>();
  for (const link of links) {
    const key = link.name ?? link.hub;
    const other = hubs.get(key);
    hubs.set(key, other ? mergeLink(other, link) : link);
  }
  return [...hubs.values()];
}

function mergeLink(a: LinkStatus, b: LinkStatus): LinkStatus {
  const worse = a.state === 'live' ? b : a;
  const traffic = a.traffic && b.traffic ? addTraffic(a.traffic, b.traffic) : (a.traffic ?? b.traffic);
  return {
    ...worse,
    lastError: worse.lastError ?? a.lastError ?? b.lastError,
    firstError: earlier(a.firstError, b.firstError),
    ...(traffic && { traffic }),
    compression: a.compression ?? b.compression ?? null,
  };
}

function addTraffic(a: LinkTraffic, b: LinkTraffic): LinkTraffic {
  return {
    sentBytes: a.sentBytes + b.sentBytes,
    plainBytes: a.plainBytes + b.plainBytes,
    bytesPerSecond: addKnown(a.bytesPerSecond, b.bytesPerSecond),
    limitBytesPerSecond: addKnown(a.limitBytesPerSecond, b.limitBytesPerSecond),
  };
}

function addReads(a: ResyncReads, b: ResyncReads): ResyncReads {
  return {
    rate: a.rate === 'auto' || b.rate === 'auto' ? 'auto' : a.rate + b.rate,
    readBytes: a.readBytes + b.readBytes,
    bytesPerSecond: addKnown(a.bytesPerSecond, b.bytesPerSecond),
    yielding: a.yielding || b.yielding,
  };
}

/** Null where one of both is unknown, or without a limit. */
function addKnown(a: number | null, b: number | null): number | null {
  return a === null || b === null ? null : a + b;
}

function earlier(a: NotedError | null | undefined, b: NotedError | null | undefined): NotedError | null {
  if (!a || !b) return a ?? b ?? null;
  return Date.parse(b.at) < Date.parse(a.at) ? b : a;
}

/** Counters of all workers together, field by field; what is no number is as the first one says. */
export function addFigures(a: unknown, b: unknown): unknown {
  if (typeof a === 'number' && typeof b === 'number') return a + b;
  if (!isRecord(a) || !isRecord(b)) return a ?? b;
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return Object.fromEntries([...keys].map((key) => [key, addFigures(a[key], b[key])]));
}
