// One way to compare files that are too large for memory.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { MiB } from './limits.ts';

/** SHA-256 of all bytes of a file, in hex. */
export async function fileDigest(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: MiB })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
