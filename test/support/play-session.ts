// Plays what a client said over a connection on the fake engine, in any pieces, and shows all that can be seen of it.
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { openOnFakeEngine } from './fake-engine.ts';
import { RecorderDevice, settled } from './test-devices.ts';

export interface PlayedSession {
  /** What the server said, as latin1: compared, never read. */
  readonly output: string;
  /** What reached the device. */
  readonly calls: string[];
  /** Whether the server closed its side. */
  readonly ended: boolean;
}

/** Plays `pieces` one after another, as the connection takes them, over `device`, which must answer at once. */
export async function playSession(pieces: Iterable<Buffer>, device: BlockDevice): Promise<PlayedSession> {
  const recorder = new RecorderDevice(device);
  const { engine, connection } = openOnFakeEngine(recorder);
  for (let piece of pieces) {
    while (piece.length > 0 && !engine.isClosed) {
      const left = engine.arrive(piece);
      engine.take();
      if (left > 0) await settled();
      piece = piece.subarray(piece.length - left);
    }
  }
  await settled();
  engine.take();
  const ended = engine.hasEnded;
  connection.destroy();
  await settled();
  return { output: engine.output().toString('latin1'), calls: recorder.lines(), ended };
}

/** `bytes` in single bytes. */
export function* byteByByte(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += 1) yield bytes.subarray(at, at + 1);
}

/** `bytes` in pieces of random sizes, most of them small, drawn from `random` in [0, 1). */
export function* inPieces(bytes: Buffer, random: () => number): Generator<Buffer> {
  for (let at = 0; at < bytes.length; ) {
    const size = Math.ceil(2 ** (random() * 16));
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

/** `bytes` cut at the positions given, each taken modulo the length. */
export function cutAt(bytes: Buffer, positions: readonly number[]): Buffer[] {
  const ends = [...new Set(positions.map((n) => n % (bytes.length + 1)))].sort((a, b) => a - b);
  let start = 0;
  return [...ends, bytes.length].map((end) => {
    const piece = bytes.subarray(start, end);
    start = end;
    return piece;
  });
}
