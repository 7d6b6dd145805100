// Whether an export that was opened again is still the one that requests were made for.

import type { NbdExport } from '../../nbdwire/client-export.ts';
import {
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from '../../nbdwire/constants.ts';

/** What requests in flight may rely on. */
const RELIED_ON = [
  [NBD_FLAG_SEND_FLUSH, 'FLUSH'],
  [NBD_FLAG_SEND_FUA, 'FUA'],
  [NBD_FLAG_SEND_WRITE_ZEROES, 'WRITE_ZEROES'],
  [NBD_FLAG_SEND_CACHE, 'CACHE'],
] as const;

/**
 * What makes `now` unfit to continue what was begun on `before`, in words; undefined when it fits.
 * Abilities that were gained don't matter: they aren't used. Nor does a disk that has grown: the size that was told holds,
 * and what lies behind is left alone.
 */
export function whatChanged(before: NbdExport, now: NbdExport): string | undefined {
  if (now.sizeBytes < before.sizeBytes) {
    return `its size shrank from ${before.sizeBytes} to ${now.sizeBytes} bytes`;
  }
  if ((now.flags & NBD_FLAG_READ_ONLY) !== (before.flags & NBD_FLAG_READ_ONLY)) {
    return `it became ${(now.flags & NBD_FLAG_READ_ONLY) === 0 ? 'writable' : 'read-only'}`;
  }
  for (const [flag, name] of RELIED_ON) {
    if ((before.flags & flag) !== 0 && (now.flags & flag) === 0) return `it no longer offers ${name}`;
  }
  if (now.minBlockBytes > before.minBlockBytes) {
    return `its minimum block size grew from ${before.minBlockBytes} to ${now.minBlockBytes} bytes`;
  }
  if (now.maxPayloadBytes < before.maxPayloadBytes) {
    return `its largest request shrank from ${before.maxPayloadBytes} to ${now.maxPayloadBytes} bytes`;
  }
  return undefined;
}
