// The client's side of the NBD handshake: bytes in, bytes and an export out. Must never hold more than one bounded
// option reply, whatever length the server announces, and never go on in plain text when TLS was asked for. The states
// are a table; the conversation is
//   greeting -> [STARTTLS -> TLS ->] EXTENDED_HEADERS, or else STRUCTURED_REPLY -> SET_META_CONTEXT -> GO -> export;
//   GO unsupported -> EXPORT_NAME -> export.
// What a server refuses on the way to GO is done without.
import { assert } from '../base/assert.ts';
import { HandshakeError } from './client-error.ts';
import { checkExport, type NbdExport, type RawExport } from './client-export.ts';
import { EXPORT_NAME_REPLY, GREETING } from './client-layouts.ts';
import {
  encodeOption,
  goData,
  optionRefusal,
  readContextId,
  readInformation,
  setMetaContextData,
} from './client-options.ts';
import {
  NBD_CLISERV_MAGIC,
  NBD_EXPORT_NAME_ZEROES,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_MAGIC,
  NBD_MAX_STRING_BYTES,
  NBD_OPT,
  NBD_OPTS_MAGIC,
  NBD_REP,
  NBD_REP_ERR,
  NBD_REP_MAGIC,
  nameOf,
} from './constants.ts';
import { quoteForeign } from './foreign-text.ts';
import type { ReplyStyle } from './reply.ts';
import { optionReplyStruct } from './server-layouts.ts';

/** Largest data of one option reply that is read, bytes: the longest string with room for its surroundings. */
export const MAX_OPTION_REPLY_BYTES = 2 * NBD_MAX_STRING_BYTES;

/** Information replies that one GO may bring. The protocol defines four. */
export const MAX_INFO_REPLIES = 64;

/** The handshake's states, in the order in which a conversation usually meets them. */
export const HANDSHAKE_STATES = {
  magic: 'Waits for the eight bytes with which every NBD server begins.',
  greeting: 'Waits for the style of the handshake and its flags, then sends the first option.',
  optionReply: 'Waits for the header of a reply to the option that was sent.',
  optionData: "Waits for the rest of that reply: information, the end, or the server's refusal.",
  securing: 'The server agreed to TLS; nothing in plain text is taken any more.',
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

export interface HandshakeWishes {
  /** What to ask for; "" is the server's default export. At most 4096 bytes of UTF-8. */
  readonly exportName: string;
  /** TLS or nothing. */
  readonly tls: boolean;
}

export class ClientHandshake {
  readonly #exportName: Buffer;
  readonly #tls: boolean;
  readonly #send: (bytes: Buffer) => void;
  readonly #handlers: Readonly<
    Record<Exclude<HandshakeState, 'securing' | 'done' | 'failed'>, StateHandler>
  > = {
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
  #asked = 0;
  #reply = { type: 0, length: 0 };
  #infoReplies = 0;
  #style: ReplyStyle = 'simple';
  #allocationId: number | undefined;
  #export: Pick<RawExport, 'size' | 'flags'> | undefined;
  #blockSizes: RawExport['blockSizes'];
  #result: NbdExport | undefined;

  /** @param send takes bytes for the server; they stay valid */
  constructor(wishes: HandshakeWishes, send: (bytes: Buffer) => void) {
    this.#exportName = Buffer.from(wishes.exportName);
    assert(this.#exportName.length <= NBD_MAX_STRING_BYTES, 'an export name has at most 4096 bytes');
    this.#tls = wishes.tls;
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
      if (this.#state === 'securing') return this.#refusePlainText(chunk.length - at, at);
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

  /** In state `securing`: TLS is up, and from here on `send` and `push` go through it. */
  secured(): void {
    assert(this.#state === 'securing', 'TLS that was not agreed on');
    this.#state = this.#ask(NBD_OPT.EXTENDED_HEADERS);
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
      `not an NBD server: it began with ${quoteForeign(bytes.toString('latin1'))}`,
    );
  }

  /** Whoever sits between could put words into the server's mouth that would be read as if they had come secured. */
  #refusePlainText(left: number, at: number): number {
    if (left === 0) return at;
    this.#state = 'failed';
    throw new HandshakeError(
      'tls-refused',
      'the server sent plain text behind its answer to STARTTLS: it is broken, or somebody tampers with the connection',
    );
  }

  #takeGreeting(bytes: Buffer): HandshakeState {
    const { style, flags } = GREETING.decode(bytes);
    if (style === NBD_CLISERV_MAGIC) {
      throw new HandshakeError('not-nbd', 'the server speaks only oldstyle NBD, which ended with nbd 3.10');
    }
    if (style !== NBD_OPTS_MAGIC)
      throw new HandshakeError('not-nbd', 'not an NBD server: its greeting is wrong');
    const fixed = (flags & NBD_FLAG_FIXED_NEWSTYLE) !== 0;
    if (this.#tls && !fixed) {
      throw new HandshakeError('tls-refused', 'the server has no TLS: it is older than fixed newstyle NBD');
    }
    this.#noZeroes = (flags & NBD_FLAG_NO_ZEROES) !== 0;
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(
      (fixed ? NBD_FLAG_C_FIXED_NEWSTYLE : 0) + (this.#noZeroes ? NBD_FLAG_C_NO_ZEROES : 0),
      0,
    );
    this.#send(answer);
    // Newstyle that isn't fixed has one option.
    if (!fixed) return this.#askExportName();
    return this.#ask(this.#tls ? NBD_OPT.STARTTLS : NBD_OPT.EXTENDED_HEADERS);
  }

  #takeReply(bytes: Buffer): HandshakeState {
    const { magic, option, type, length } = optionReplyStruct.decode(bytes);
    if (magic !== NBD_REP_MAGIC) throw new HandshakeError('protocol', 'an option reply has the wrong magic');
    if (option !== this.#asked) {
      throw new HandshakeError(
        'protocol',
        `the server answered option ${nameOf(NBD_OPT, option)}; ${nameOf(NBD_OPT, this.#asked)} was asked`,
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
    switch (this.#asked) {
      case NBD_OPT.STARTTLS:
        if (type === NBD_REP.ACK && bytes.length === 0) return 'securing';
        throw this.#leave(type, bytes);
      case NBD_OPT.EXTENDED_HEADERS:
        if (!this.#agreed(type, bytes)) return this.#ask(NBD_OPT.STRUCTURED_REPLY);
        this.#style = 'extended';
        return this.#ask(NBD_OPT.SET_META_CONTEXT, setMetaContextData(this.#exportName));
      case NBD_OPT.STRUCTURED_REPLY:
        if (!this.#agreed(type, bytes)) return this.#askGo();
        this.#style = 'structured';
        return this.#ask(NBD_OPT.SET_META_CONTEXT, setMetaContextData(this.#exportName));
      case NBD_OPT.SET_META_CONTEXT:
        return this.#takeContext(type, bytes);
      default:
        return this.#takeGo(type, bytes);
    }
  }

  /** Whether the server grants what can be done without. @throws HandshakeError when it won't go on at all */
  #agreed(type: number, bytes: Buffer): boolean {
    if (type === NBD_REP.ACK) return true;
    const final = type < 2 ** 31 || type === NBD_REP_ERR.TLS_REQD || type === NBD_REP_ERR.SHUTDOWN;
    if (final) throw this.#leave(type, bytes);
    return false;
  }

  #takeContext(type: number, bytes: Buffer): HandshakeState {
    if (type === NBD_REP.META_CONTEXT) {
      if (this.#allocationId !== undefined) {
        throw new HandshakeError('protocol', 'the server selected the same meta context twice');
      }
      this.#allocationId = readContextId(bytes);
      return 'optionReply';
    }
    // A failure leaves nothing selected. One that is due to the name is told again, and better, in reply to GO.
    if (!this.#agreed(type, bytes)) this.#allocationId = undefined;
    return this.#askGo();
  }

  #takeGo(type: number, bytes: Buffer): HandshakeState {
    if (type === NBD_REP.INFO) return this.#takeInfo(bytes);
    if (type === NBD_REP.ACK) return this.#finish();
    // Whoever has extended headers knows GO.
    if (type === NBD_REP_ERR.UNSUP && this.#style !== 'extended') return this.#askExportName();
    throw this.#leave(type, bytes);
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
    const information = readInformation(bytes);
    this.#export = information.export ?? this.#export;
    this.#blockSizes = information.blockSizes ?? this.#blockSizes;
    return 'optionReply';
  }

  #finish(): HandshakeState {
    if (!this.#export) {
      throw new HandshakeError('protocol', 'the server accepted the export without telling its size');
    }
    const { size, flags } = this.#export;
    this.#result = {
      ...checkExport({ size, flags, blockSizes: this.#blockSizes }),
      style: this.#style,
      allocationId: this.#allocationId,
    };
    return 'done';
  }

  #askGo(): HandshakeState {
    return this.#ask(NBD_OPT.GO, goData(this.#exportName));
  }

  #askExportName(): HandshakeState {
    // Nothing said in reply to GO holds for this way in.
    this.#export = undefined;
    this.#blockSizes = undefined;
    this.#allocationId = undefined;
    this.#ask(NBD_OPT.EXPORT_NAME, this.#exportName);
    return 'exportName';
  }

  #ask(option: number, data?: Buffer): HandshakeState {
    this.#asked = option;
    this.#send(encodeOption(option, data));
    return 'optionReply';
  }

  /** The server said no, or something else than yes. */
  #leave(type: number, bytes: Buffer): HandshakeError {
    // A soft disconnect: the server needn't answer, and the connection isn't held for it.
    if (type >= 2 ** 31) this.#send(encodeOption(NBD_OPT.ABORT));
    return optionRefusal(this.#asked, type, bytes, this.#quotedName());
  }

  #quotedName(): string {
    return quoteForeign(this.#exportName.toString('utf8'));
  }
}
