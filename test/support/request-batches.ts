// NBD requests in batches, each in one write, whose answers are all waited for before the next. So the work that a
// server has with them doesn't depend on how busy the machine is.
import { NBD_CMD } from '../../src/nbdwire/constants.ts';
import { type RawNbdClient, requestBytes } from './raw-nbd-client.ts';

const REPLY_BYTES = 16;
const BLOCK_BYTES = 4096;

export type BatchKind = 'read' | 'write';

/**
 * Sends `batches` times `depth` requests of 4 KiB each to a disk of at least 1 MiB.
 * @param client in transmission, with simple replies
 * @throws Error when a request fails, or the server closes
 */
export async function runBatches(
  client: RawNbdClient,
  kind: BatchKind,
  depth: number,
  batches: number,
): Promise<void> {
  const batch = batchOf(kind, depth);
  const replyBytes = REPLY_BYTES + (kind === 'read' ? BLOCK_BYTES : 0);
  for (let left = batches; left > 0; left -= 1) {
    client.send(batch);
    const answer = await client.read(depth * replyBytes);
    for (let i = 0; i < depth; i += 1) {
      if (answer.readUInt32BE(i * replyBytes + 4) !== 0) throw new Error('a request failed');
    }
  }
}

function batchOf(kind: BatchKind, depth: number): Buffer {
  const what =
    kind === 'write'
      ? { type: NBD_CMD.WRITE, data: Buffer.alloc(BLOCK_BYTES, 7) }
      : { type: NBD_CMD.READ, length: BLOCK_BYTES };
  const requests = Array.from({ length: depth }, (_, i) =>
    requestBytes({ ...what, cookie: BigInt(i + 1), offset: (i * 8 * BLOCK_BYTES) % (1 << 20) }),
  );
  return Buffer.concat(requests);
}
