// An NBD client that sends its requests in batches, each in one write, and waits for all answers before the next. So
// the work that a server has with them doesn't depend on how busy the machine is.
import { createConnection, type Socket } from 'node:net';
import { NBD_CMD, NBD_OPT } from '../../src/nbdwire/constants.ts';

const REQUEST_MAGIC = 0x25609513;
const REQUEST_BYTES = 28;
const REPLY_BYTES = 16;
const BLOCK_BYTES = 4096;
const GREETING_BYTES = 18;
/** Size and flags of the export; the zeroes were declined. */
const EXPORT_BYTES = 10;

export type BatchKind = 'read' | 'write';

export interface BatchClient {
  /** Sends `batches` times `depth` requests of 4 KiB each, and checks that each is answered without an error. */
  run(kind: BatchKind, depth: number, batches: number): Promise<void>;
  close(): void;
}

/** Connects to export `disk` of at least 1 MiB on a port of loopback. */
export async function connectBatches(port: number): Promise<BatchClient> {
  const socket = createConnection({ port, host: '127.0.0.1' });
  socket.setNoDelay(true);
  // By EXPORT_NAME: the replies and headers of 2012, whose sizes are known beforehand.
  let missing = GREETING_BYTES;
  await new Promise<void>((resolve, reject) => {
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('the server closed the connection')));
    let greeted = false;
    socket.on('data', function take(chunk: Buffer) {
      missing -= chunk.length;
      if (missing > 0) return;
      if (!greeted) {
        greeted = true;
        missing += EXPORT_BYTES;
        socket.write(choice('disk'));
        return;
      }
      socket.off('data', take);
      resolve();
    });
  });
  return {
    run: (kind, depth, batches) => runBatches(socket, kind, depth, batches),
    close: () => socket.destroy(),
  };
}

/** Client flags (fixed newstyle, no zeroes), and the option that ends the handshake. */
function choice(exportName: string): Buffer {
  const bytes = Buffer.alloc(20 + exportName.length);
  bytes.writeUInt32BE(3, 0);
  bytes.write('IHAVEOPT', 4, 'latin1');
  bytes.writeUInt32BE(NBD_OPT.EXPORT_NAME, 12);
  bytes.writeUInt32BE(exportName.length, 16);
  bytes.write(exportName, 20, 'latin1');
  return bytes;
}

function runBatches(socket: Socket, kind: BatchKind, depth: number, batches: number): Promise<void> {
  const request = batchOf(kind, depth);
  const replyBytes = REPLY_BYTES + (kind === 'read' ? BLOCK_BYTES : 0);
  const answer = Buffer.alloc(depth * replyBytes);
  let filled = 0;
  let left = batches;
  return new Promise((resolve, reject) => {
    const take = (chunk: Buffer): void => {
      chunk.copy(answer, filled);
      filled += chunk.length;
      if (filled < answer.length) return;
      for (let i = 0; i < depth; i += 1) {
        if (answer.readUInt32BE(i * replyBytes + 4) !== 0) reject(new Error('a request failed'));
      }
      filled = 0;
      left -= 1;
      if (left > 0) {
        socket.write(request);
        return;
      }
      socket.off('data', take);
      resolve();
    };
    socket.on('data', take);
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('the server closed the connection')));
    socket.write(request);
  });
}

function batchOf(kind: BatchKind, depth: number): Buffer {
  const payloadBytes = kind === 'write' ? BLOCK_BYTES : 0;
  const batch = Buffer.alloc(depth * (REQUEST_BYTES + payloadBytes), 7);
  for (let i = 0; i < depth; i += 1) {
    const at = i * (REQUEST_BYTES + payloadBytes);
    batch.writeUInt32BE(REQUEST_MAGIC, at);
    batch.writeUInt16BE(0, at + 4);
    batch.writeUInt16BE(kind === 'write' ? NBD_CMD.WRITE : NBD_CMD.READ, at + 6);
    batch.writeBigUInt64BE(BigInt(i + 1), at + 8);
    batch.writeBigUInt64BE(BigInt((i * 8 * BLOCK_BYTES) % (1 << 20)), at + 16);
    batch.writeUInt32BE(BLOCK_BYTES, at + 24);
  }
  return batch;
}
