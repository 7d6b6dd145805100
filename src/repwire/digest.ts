// The digest by which both sides compare a range: what HASH_RES carries.
import { createHash } from 'node:crypto';

/** SHA-256 of a range's bytes. @returns DIGEST_BYTES bytes */
export function rangeDigest(bytes: Buffer): Buffer {
  return createHash('sha256').update(bytes).digest();
}
