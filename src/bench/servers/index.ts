// Every server that the bench knows, in the order in which reports show them.
import { UsageError } from '../../base/errors.ts';
import type { ServerKind } from '../server.ts';
import { bareFile, loopback, nullDisk } from './floors.ts';
import { nbdkit, nbdServer, qemuNbd } from './peers.ts';
import { qemuBackground, qemuBlocking } from './qemu-mirror.ts';
import { repagent, singleProcess } from './repagent.ts';

export const SERVER_KINDS: readonly ServerKind[] = [
  repagent,
  singleProcess,
  nbdkit,
  qemuNbd,
  nbdServer,
  qemuBackground,
  qemuBlocking,
  nullDisk,
  bareFile,
  loopback,
];

/**
 * Our server and those named; all when none is named.
 * @throws UsageError for an unknown name
 */
export function selectServers(names: readonly string[]): ServerKind[] {
  const known = SERVER_KINDS.map((kind) => kind.name);
  for (const name of names) {
    if (!known.includes(name)) {
      throw new UsageError(`--peers: ${JSON.stringify(name)} is unknown; allowed: ${known.join(', ')}`);
    }
  }
  if (names.length === 0) return [...SERVER_KINDS];
  return SERVER_KINDS.filter((kind) => kind.role === 'subject' || names.includes(kind.name));
}
