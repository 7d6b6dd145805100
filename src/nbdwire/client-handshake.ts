// The client's side of the NBD handshake: bytes in, bytes and an export out. Must never hold more than one bounded
// option reply, whatever length the server announces. The states are a table; the conversation is
//   greeting -> GO -> export;  GO unsupported -> EXPORT_NAME -> export.
// Structured replies would be negotiated between the greeting and GO, TLS before that.
import { assert } from '../base/assert.ts';
import { HandshakeError } from './client-error.ts';
import { checkExport, type NbdExport, type RawExport } from './client-export.ts';
import { EXPORT_NAME_REPLY, GREETING, INFO_EXPORT } from './client-layouts.ts';
import {
  NBD_EXPORT_NAME_ZEROES,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_INFO,
  NBD_MAGIC,
  NBD_MAX_STRING_BYTES,
  NBD_OPT,
  NBD_OPTS_MAGIC,
  NBD_REP,
  NBD_REP_ERR,
  NBD_REP_MAGIC,
  nameOf,
} from './constants.ts';
import { infoBlockSizeStruct, optionReplyStruct, optionStruct } from './server-layouts.ts';

/** Largest data of one option reply that is read, bytes: the longest string with room for its surroundings. */
export const MAX_OPTION_REPLY_BYTES = 2 * NBD_MAX_STRING_BYTES;

/** Information replies that one GO may bring. The protocol defines four. */
export const MAX_INFO_REPLIES = 64;

/** Characters of a server's own words that are repeated in an error. */
const MAX_QUOTED_CHARS = 200;

/** The second magic of oldstyle, where newstyle has IHAVEOPT. */
const OLDSTYLE_MAGIC = 0x0000_4202_8186_1253n;

/** The handshake's states, in the order in which a conversation usually meets them. */
export const HANDSHAKE_STATES = {
  magic: 'Waits for the eight bytes with which every NBD server begins.',
  greeting: 'Waits for the style of the handshake and its flags, then asks for the export.',
  optionReply: 'Waits for the header of a reply to GO.',
  optionData: "Waits for the rest of that reply: information, the end, or the server's refusal.",
  exportName: 'Asked with EXPORT_NAME, since the server does not know GO; waits for the export.',
  done: 'The export is known; what arrives now belongs to the transmission phase.',
  failed: 'Refused, by either side.',
} as const;
export type HandshakeState = keyof typeof HANDSHAKE_STATES;

/** One row of the table: how many bytes the state wants, and what it makes of them. */
interface StateHandler {
  need(): number;
  take(bytes: Buffer): HandshakeState;
}

export class ClientHandshake {
  readonly #exportName: Buffer;
  readonly #send: (bytes: Buffer) => void;
  readonly #handlers: Readonly<Record<Exclude<HandshakeState, 'done' | 'failed'>, StateHandler>> = {
    magic: { need: () => 8, take: (bytes) => this.#takeMagic(bytes) },
    greeting: { need: () => GREETING.sizeBytes, take: (bytes) => this.#takeGreeting(bytes) },
    optionReply: { need: () => optionReplyStruct.sizeBytes, take: (bytes) => this.#takeReply(bytes) },
    optionData: { need: () => this.#reply.length, take: (bytes) => this.#takeReplyData(bytes) },
    exportName: {
      need: () => EXPORT_NAME_REPLY.sizeBytes + (this.#noZeroes ? 0 : NBD_EXPORT_NAME_ZEROES),
      take: (bytes) => this.#takeExportName(bytes),
    },
  };
  readonly #held = Buffer.allocUnsafe(MAX_OPTION_REPLY_BYTES);
  #heldBytes = 0;
  #state: HandshakeState = 'magic';
  #noZeroes = false;
  #reply = { type: 0, length: 0 };
  #infoReplies = 0;
  #export: Pick<RawExport, 'size' | 'flags'> | undefined;
  #blockSizes: RawExport['blockSizes'];
  #result: NbdExport | undefined;

  /**
   * @param exportName what to ask for; "" is the server's default export. At most 4096 bytes of UTF-8.
   * @param send takes bytes for the server; they stay valid
   */
  constructor(exportName: string, send: (bytes: Buffer) => void) {
    this.#exportName = Buffer.from(exportName);
    assert(this.#exportName.length <= NBD_MAX_STRING_BYTES, 'an export name has at most 4096 bytes');
    this.#send = send;
  }

  get state(): HandshakeState {
    return this.#state;
  }

  /** The export, once the state is `done`. */
  get result(): NbdExport | undefined {
    return this.#result;
  }

  /**
   * Takes bytes from the server.
   * @returns how many were used up: all of them, unless the handshake ended in their middle
   * @throws HandshakeError when the handshake failed; the connection is to be closed after what was sent
   */
  push(chunk: Buffer): number {
    let at = 0;
    while (this.#state !== 'done') {
      assert(this.#state !== 'failed', 'bytes for a handshake that has failed');
      const handler = this.#handlers[this.#state];
      const need = handler.need();
      if (this.#heldBytes === 0 && chunk.length - at >= need) {
        this.#run(handler, chunk.subarray(at, at + need));
        at += need;
        continue;
      }
      const copied = chunk.copy(this.#held, this.#heldBytes, at, at + need - this.#heldBytes);
      this.#heldBytes += copied;
      at += copied;
      if (this.#heldBytes < need) return at;
      this.#heldBytes = 0;
      this.#run(handler, this.#held.subarray(0, need));
    }
    return at;
  }

  /** What it means that the connection ended now. */
  ended(): HandshakeError {
    switch (this.#state) {
      case 'magic':
      case 'greeting':
        return new HandshakeError(
          'protocol',
          'the server closed the connection before it greeted; it may not be an NBD server, or may refuse this client',
        );
      case 'exportName':
        return new HandshakeError(
          'unknown-export',
          `the server closed the connection when asked for export ${this.#quotedName()}: it has none of that name, or does not show it`,
        );
      default:
        return new HandshakeError(
          'protocol',
          'the server closed the connection in the middle of the handshake',
        );
    }
  }

  #run(handler: StateHandler, bytes: Buffer): void {
    try {
      this.#state = handler.take(bytes);
    } catch (error) {
      this.#state = 'failed';
      throw error;
    }
  }

  #takeMagic(bytes: Buffer): HandshakeState {
    if (bytes.readBigUInt64BE(0) === NBD_MAGIC) return 'greeting';
    throw new HandshakeError(
      'not-nbd',
      `not an NBD server: it began with ${quote(bytes.toString('latin1'))}`,
    );
  }

  #takeGreeting(bytes: Buffer): HandshakeState {
    const { style, flags } = GREETING.decode(bytes);
    if (style === OLDSTYLE_MAGIC) {
      throw new HandshakeError('not-nbd', 'the server speaks only oldstyle NBD, which ended with nbd 3.10');
    }
    if (style !== NBD_OPTS_MAGIC)
      throw new HandshakeError('not-nbd', 'not an NBD server: its greeting is wrong');
    const fixed = (flags & NBD_FLAG_FIXED_NEWSTYLE) !== 0;
    this.#noZeroes = (flags & NBD_FLAG_NO_ZEROES) !== 0;
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(
      (fixed ? NBD_FLAG_C_FIXED_NEWSTYLE : 0) + (this.#noZeroes ? NBD_FLAG_C_NO_ZEROES : 0),
      0,
    );
    this.#send(answer);
    // Newstyle that isn't fixed has one option.
    return fixed ? this.#askGo() : this.#askExportName();
  }

  #takeReply(bytes: Buffer): HandshakeState {
    const { magic, option, type, length } = optionReplyStruct.decode(bytes);
    if (magic !== NBD_REP_MAGIC) throw new HandshakeError('protocol', 'an option reply has the wrong magic');
    if (option !== NBD_OPT.GO) {
      throw new HandshakeError(
        'protocol',
        `the server answered option ${nameOf(NBD_OPT, option)}; GO was asked`,
      );
    }
    if (length > MAX_OPTION_REPLY_BYTES) {
      throw new HandshakeError(
        'protocol',
        `an option reply announces ${length} bytes; at most ${MAX_OPTION_REPLY_BYTES} are read`,
      );
    }
    this.#reply = { type, length };
    return 'optionData';
  }

  #takeReplyData(bytes: Buffer): HandshakeState {
    const { type } = this.#reply;
    switch (type) {
      case NBD_REP.INFO:
        return this.#takeInfo(bytes);
      case NBD_REP.ACK:
        return this.#finish();
      case NBD_REP_ERR.UNSUP:
        return this.#askExportName();
      default:
        // A soft disconnect: the server needn't answer, and the connection isn't held for it.
        this.#ask(NBD_OPT.ABORT, Buffer.alloc(0));
        throw this.#refusal(type, bytes);
    }
  }

  #takeExportName(bytes: Buffer): HandshakeState {
    this.#export = EXPORT_NAME_REPLY.decode(bytes);
    return this.#finish();
  }

  #takeInfo(bytes: Buffer): HandshakeState {
    this.#infoReplies += 1;
    if (this.#infoReplies > MAX_INFO_REPLIES) {
      throw new HandshakeError(
        'protocol',
        `more than ${MAX_INFO_REPLIES} information replies to one request`,
      );
    }
    if (bytes.length < 2) throw new HandshakeError('protocol', 'an information reply without a type');
    const type = bytes.readUInt16BE(0);
    // Names, descriptions and what is unknown are not used.
    if (type === NBD_INFO.EXPORT) this.#export = INFO_EXPORT.decode(exactly(bytes, INFO_EXPORT));
    if (type === NBD_INFO.BLOCK_SIZE)
      this.#blockSizes = infoBlockSizeStruct.decode(exactly(bytes, infoBlockSizeStruct));
    return 'optionReply';
  }

  #finish(): HandshakeState {
    if (!this.#export) {
      throw new HandshakeError('protocol', 'the server accepted the export without telling its size');
    }
    const { size, flags } = this.#export;
    this.#result = checkExport({ size, flags, blockSizes: this.#blockSizes });
    return 'done';
  }

  #askGo(): HandshakeState {
    const name = this.#exportName;
    const data = Buffer.alloc(4 + name.length + 4);
    data.writeUInt32BE(name.length, 0);
    name.copy(data, 4);
    data.writeUInt16BE(1, 4 + name.length);
    data.writeUInt16BE(NBD_INFO.BLOCK_SIZE, 6 + name.length);
    return this.#ask(NBD_OPT.GO, data, 'optionReply');
  }

  #askExportName(): HandshakeState {
    // Nothing said in reply to GO holds for this way in.
    this.#export = undefined;
    this.#blockSizes = undefined;
    return this.#ask(NBD_OPT.EXPORT_NAME, this.#exportName, 'exportName');
  }

  #ask(option: number, data: Buffer, next: HandshakeState = 'failed'): HandshakeState {
    // In one piece: a header sent alone waits for a delayed acknowledgement.
    const header = optionStruct.encode({ magic: NBD_OPTS_MAGIC, option, length: data.length });
    this.#send(Buffer.concat([header, data]));
    return next;
  }

  #refusal(type: number, bytes: Buffer): HandshakeError {
    const words = bytes.length > 0 ? ` (it says ${quote(bytes.toString('utf8'))})` : '';
    switch (type) {
      case NBD_REP_ERR.UNKNOWN:
        return new HandshakeError('unknown-export', `the server has no export ${this.#quotedName()}${words}`);
      case NBD_REP_ERR.TLS_REQD:
        return new HandshakeError(
          'tls-required',
          `the server requires TLS for export ${this.#quotedName()}, which comes later${words}`,
        );
      case NBD_REP_ERR.SHUTDOWN:
        return new HandshakeError('shutting-down', `the server is shutting down${words}`);
      default:
        if (type >= 2 ** 31) {
          return new HandshakeError(
            'refused',
            `the server refused export ${this.#quotedName()} with ${nameOf(NBD_REP_ERR, type)}${words}`,
          );
        }
        return new HandshakeError(
          'protocol',
          `the server answered GO with reply type ${nameOf(NBD_REP, type)}`,
        );
    }
  }

  #quotedName(): string {
    return quote(this.#exportName.toString('utf8'));
  }
}

function exactly(bytes: Buffer, layout: { readonly name: string; readonly sizeBytes: number }): Buffer {
  if (bytes.length === layout.sizeBytes) return bytes;
  throw new HandshakeError(
    'protocol',
    `${layout.name} has ${bytes.length} bytes; ${layout.sizeBytes} are needed`,
  );
}

/** Words from outside, made harmless for a terminal or a log: escaped and cut. */
function quote(text: string): string {
  const cut = text.length > MAX_QUOTED_CHARS ? `${text.slice(0, MAX_QUOTED_CHARS)}...` : text;
  return JSON.stringify(cut).replace(/[\u007f-\u009f]/g, '?');
}
