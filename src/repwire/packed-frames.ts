// Takes apart what PACKED holds: whole frames, as if they had come in its place. What a peer sent decides nothing here: the
// memory taken is what the frame named within the limit, and whatever unpacks to more or to less ends the connection.
import { brotliDecompress, brotliDecompressSync } from 'node:zlib';
import { errorMessage } from '../base/errors.ts';
import { WireError } from '../wire/struct.ts';
import { FrameParser } from './frame-parser.ts';
import type { Packed, ProtectedFlush, ProtectedWrite, ProtectedZero, RemoteIoResponse } from './messages.ts';

/** What may be packed: changes and data. Nothing that a receiver might have to stop after. */
export type PackableMessage = ProtectedWrite | ProtectedZero | ProtectedFlush | RemoteIoResponse;

/** Takes one message; returns false to stop for good. */
export type PackableHandler = (message: PackableMessage) => boolean;

/** What zlib answers with the option `info`, which its types leave out. */
interface Unpacked {
  readonly buffer: Buffer;
  /** How much of the input it used, bytes. */
  readonly engine: { readonly bytesWritten: number };
}

/** Output beyond the named size that is let come, so that too much is told from just enough. */
const SPARE_BYTES = 64;

/**
 * Hands every message in the content of a PACKED frame to `handle`, in order. Their data lies in `content`, lent.
 * @throws WireError when it is not exactly whole frames of those that may be packed
 */
export function takeFrames(content: Buffer, handle: PackableHandler): void {
  let goesOn = true;
  const parser = new FrameParser((message) => {
    switch (message.kind) {
      case 'protectedWrite':
      case 'protectedZero':
      case 'protectedFlush':
      case 'remoteIoResponse':
        goesOn = handle(message);
        return goesOn;
      default:
        throw new WireError(`${message.kind} must not be inside PACKED`);
    }
  });
  if (parser.consume(content) !== content.length && goesOn) {
    throw new WireError(`PACKED of ${content.length} bytes ends inside a frame`);
  }
}

/** @returns the content, in memory of its own @throws WireError */
export function unpack(packed: Packed): Buffer {
  let result: unknown;
  try {
    result = brotliDecompressSync(packed.data, optionsFor(packed));
  } catch (error) {
    throw notUnpacked(error);
  }
  return checked(packed, result);
}

/**
 * The same on the thread pool, for what is large. The packed bytes must stay as they are until it has ended.
 * @throws WireError
 */
export function unpackOnPool(packed: Packed): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    brotliDecompress(packed.data, optionsFor(packed), (error, result: unknown) => {
      try {
        if (error) throw notUnpacked(error);
        resolve(checked(packed, result));
      } catch (wrong) {
        reject(wrong as WireError);
      }
    });
  });
}

function optionsFor({ contentBytes }: Packed): { maxOutputLength: number; chunkSize: number; info: true } {
  const outputBytes = contentBytes + SPARE_BYTES;
  return { maxOutputLength: outputBytes, chunkSize: outputBytes, info: true };
}

function notUnpacked(error: unknown): WireError {
  return new WireError(`PACKED can't be unpacked: ${errorMessage(error)}`);
}

function checked({ contentBytes, data }: Packed, result: unknown): Buffer {
  const { buffer, engine } = result as Unpacked;
  if (engine.bytesWritten !== data.length) {
    throw new WireError(`PACKED has ${data.length - engine.bytesWritten} bytes after its end`);
  }
  if (buffer.length !== contentBytes) {
    throw new WireError(`PACKED holds ${buffer.length} bytes, not ${contentBytes}`);
  }
  return buffer;
}
