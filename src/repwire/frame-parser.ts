// Finds frames in what a socket received. Sans-I/O: it is given the bytes that have landed, hands each complete frame's
// message to its handler, and says how many bytes it is done with and how many the next frame needs.
import { WireError } from '../wire/struct.ts';
import {
  FIRST_EXTENSION_CMD,
  FRAME_HEADER_BYTES,
  FRAME_MAGIC1,
  FRAME_MAGIC2,
  MAX_PAYLOAD_BYTES,
  MAX_TEXT_BYTES,
} from './constants.ts';
import { decodeMessage } from './decode.ts';
import { COMMAND_NAMES } from './layouts.ts';
import type { RepMessage } from './messages.ts';

const MAGIC2_AT = FRAME_HEADER_BYTES - 4;

/** The first two bytes of a TLS client, read as a frame's. */
const TLS_HANDSHAKE = 0x0316;

/** Takes one message. Payloads are lent for the call. Returns false to stop after this one (back-pressure). */
export type MessageHandler = (message: RepMessage) => boolean;

export class FrameParser {
  readonly #handle: MessageHandler;
  #wantBytes = FRAME_HEADER_BYTES;

  constructor(handle: MessageHandler) {
    this.#handle = handle;
  }

  /** How many contiguous bytes the frame at the front needs to be complete, as far as is known. Bounded by the limits. */
  get wantBytes(): number {
    return this.#wantBytes;
  }

  /**
   * Handles every complete frame at the start of `bytes`.
   * @returns how many bytes were used up; the rest must be given again, with more behind it
   * @throws WireError when the stream is not of this protocol; the connection must end
   */
  consume(bytes: Buffer): number {
    let at = 0;
    this.#wantBytes = FRAME_HEADER_BYTES;
    while (bytes.length - at >= FRAME_HEADER_BYTES) {
      const id = checkHead(bytes, at);
      const frameBytes = FRAME_HEADER_BYTES + bytes.readUInt32LE(at + 4);
      if (bytes.length - at < frameBytes) {
        this.#wantBytes = frameBytes;
        break;
      }
      const payload = bytes.subarray(at + FRAME_HEADER_BYTES, at + frameBytes);
      const message = decodeMessage(id, bytes, at, payload);
      at += frameBytes;
      if (!this.#handle(message)) break;
    }
    return at;
  }
}

function checkHead(bytes: Buffer, at: number): number {
  const magic1 = bytes.readUInt16LE(at);
  const magic2 = bytes.readUInt32LE(at + MAGIC2_AT);
  if (magic1 !== FRAME_MAGIC1 || magic2 !== FRAME_MAGIC2) {
    // A TLS record of a handshake begins 0x16 0x03.
    const what =
      magic1 === TLS_HANDSHAKE ? 'the peer speaks TLS, and this side does not' : 'not a repagent peer';
    throw new WireError(
      `frame magic is 0x${magic1.toString(16)}/0x${magic2.toString(16)}, not 0x1122/0x3344: ${what}`,
    );
  }
  const id = bytes.readUInt16LE(at + 2);
  const known = MAX_PAYLOAD_BYTES[id];
  if (known === undefined && id < FIRST_EXTENSION_CMD) throw new WireError(`unknown command ${id}`);
  const limit = known ?? MAX_TEXT_BYTES;
  const length = bytes.readUInt32LE(at + 4);
  if (length > limit) {
    throw new WireError(
      `${COMMAND_NAMES.get(id) ?? `command ${id}`} of ${length} bytes; at most ${limit} are allowed`,
    );
  }
  return id;
}
