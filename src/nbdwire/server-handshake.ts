// The server's side of the fixed newstyle handshake, sans-I/O: bytes in, replies and an outcome out. It holds no
// device and opens none; and it never waits for more option data than MAX_OPTION_BYTES.
import { assert } from '../base/assert.ts';
import { echo } from '../base/echo.ts';
import { KiB, MiB } from '../base/limits.ts';
import {
  NBD_FLAG_BLOCK_STAT_PAYLOAD,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_FLAG_SEND_DF,
  NBD_MAGIC,
  NBD_OPT,
  NBD_OPTS_MAGIC,
  NBD_REP,
  NBD_REP_ERR,
  nameOf,
} from './constants.ts';
import type { ReplyStyle } from './reply.ts';
import { encodeMetaContext, listContexts, parseContextRequest, selectContexts } from './server-contexts.ts';
import type { ExportDirectory, ExportInfo } from './server-exports.ts';
import { clientFlagsStruct, greetingStruct, optionStruct } from './server-layouts.ts';
import {
  encodeExportNameReply,
  encodeInfoReplies,
  encodeOptionError,
  encodeOptionReply,
  encodeServerReply,
  parseInfoRequest,
  parseName,
} from './server-options.ts';

/** Most option data that is looked at, bytes: a name of full length and more requests than there are kinds. */
export const MAX_OPTION_BYTES = 16 * KiB;

/** Most option data that is thrown away to stay in step, bytes; a client that announces more is cut off. */
export const MAX_SKIPPED_OPTION_BYTES = 1 * MiB;

/** Most options in one handshake. */
export const MAX_OPTIONS = 256;

/** Whether TLS is spoken: never, when the client asks for it, or before anything else. */
export type TlsMode = 'off' | 'allow' | 'require';

export interface HandshakeOptions {
  /** Default `off`. */
  readonly tls?: TlsMode;
}

/** What client and server agreed on for the requests. */
export interface Agreement {
  readonly style: ReplyStyle;
  /** Ids of the meta contexts of the export that the client selected. */
  readonly contexts: readonly number[];
}

export type HandshakeOutcome<E> =
  /** The client was told to start TLS: the handshake goes on inside, with what `secured` returns. */
  | { readonly kind: 'upgrade' }
  /** The client chose `target`: requests follow. */
  | ({ readonly kind: 'transmission'; readonly target: E } & Agreement)
  /** The client said goodbye: close after the replies. */
  | { readonly kind: 'aborted' }
  /** The client broke the protocol, or asked for what can only be refused by closing. */
  | { readonly kind: 'rejected'; readonly reason: string };

export class ServerHandshake<E extends ExportInfo> {
  readonly #exports: ExportDirectory<E>;
  readonly #tls: TlsMode;
  /** Everything from now on came through TLS. */
  #isSecure = false;
  #clientFlags: number | undefined;
  #options = 0;
  #wantBytes = clientFlagsStruct.sizeBytes;
  #skipBytes = 0;
  /** The reply that is due once the skipped data has passed. */
  #afterSkip: Buffer | undefined;
  #output: Buffer[] = [];
  #outcome: HandshakeOutcome<E> | undefined;
  #refusing = false;
  #style: ReplyStyle = 'simple';
  /** What SET_META_CONTEXT selected last, and of which export. */
  #selection: { readonly exportName: string; readonly contexts: readonly number[] } | undefined;

  constructor(exports: ExportDirectory<E>, { tls = 'off' }: HandshakeOptions = {}) {
    this.#exports = exports;
    this.#tls = tls;
    const flags = NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES;
    this.#output.push(greetingStruct.encode({ magic: NBD_MAGIC, optsMagic: NBD_OPTS_MAGIC, flags }));
  }

  /** Set once the handshake is over, or its plain part is. No byte is consumed from then on. */
  get outcome(): HandshakeOutcome<E> | undefined {
    return this.#outcome;
  }

  /** Contiguous bytes that the next step needs; bounded by the limits above. */
  get wantBytes(): number {
    return this.#wantBytes;
  }

  /** Takes the bytes to send, in order. The first are the greeting. */
  takeOutput(): Buffer[] {
    const output = this.#output;
    this.#output = [];
    return output;
  }

  /** From now on every option but ABORT is refused with ERR_SHUTDOWN. */
  refuseOptions(): void {
    this.#refusing = true;
  }

  /**
   * The handshake inside TLS, once that is up after the outcome `upgrade`. It is a new one, so that nothing negotiated
   * before can live on in it; it keeps the client's flags, as the spec has it, and the count of options, as a limit.
   */
  secured(): ServerHandshake<E> {
    assert(this.#outcome?.kind === 'upgrade', 'TLS without STARTTLS');
    const next = new ServerHandshake(this.#exports, { tls: this.#tls });
    next.#output = [];
    next.#isSecure = true;
    next.#clientFlags = this.#clientFlags;
    next.#wantBytes = optionStruct.sizeBytes;
    next.#options = this.#options;
    next.#refusing = this.#refusing;
    return next;
  }

  /**
   * Takes at most one message from the front of [start, end).
   * @returns bytes used up; 0 when more are needed first
   */
  step(source: Buffer, start: number, end: number): number {
    assert(this.#outcome === undefined, 'handshake step after its end');
    if (this.#skipBytes > 0) return this.#skip(end - start);
    if (this.#clientFlags === undefined) return this.#takeClientFlags(source, start, end);
    return this.#takeOption(source, start, end);
  }

  #takeClientFlags(source: Buffer, start: number, end: number): number {
    if (end - start < clientFlagsStruct.sizeBytes) return 0;
    const { flags } = clientFlagsStruct.decode(source, start);
    const unknown = flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
    if (unknown !== 0) {
      const text = echo(source.toString('latin1', start, start + clientFlagsStruct.sizeBytes));
      this.#reject(`client flags are 0x${flags.toString(16)} (${text}): not an NBD client`);
    }
    this.#clientFlags = flags;
    this.#wantBytes = optionStruct.sizeBytes;
    return clientFlagsStruct.sizeBytes;
  }

  #takeOption(source: Buffer, start: number, end: number): number {
    this.#wantBytes = optionStruct.sizeBytes;
    if (end - start < optionStruct.sizeBytes) return 0;
    const { magic, option, length } = optionStruct.decode(source, start);
    const refusal = this.#refusal(magic, option, length);
    if (refusal !== undefined) return this.#reject(refusal);
    if (this.#needsTls && option !== NBD_OPT.STARTTLS && option !== NBD_OPT.ABORT) {
      const message = 'this server speaks to clients over TLS only';
      return this.#startSkip(length, encodeOptionError(option, { error: NBD_REP_ERR.TLS_REQD, message }));
    }
    if (!isKnown(option)) {
      return this.#startSkip(
        length,
        encodeOptionError(option, {
          error: NBD_REP_ERR.UNSUP,
          message: `option ${nameOf(NBD_OPT, option)} is not supported`,
        }),
      );
    }
    // It replaces what was selected before even when it fails, in whatever way.
    if (option === NBD_OPT.SET_META_CONTEXT) this.#selection = undefined;
    if (length > MAX_OPTION_BYTES) {
      const message = `${length} bytes of option data; at most ${MAX_OPTION_BYTES} are allowed`;
      return this.#startSkip(length, encodeOptionError(option, { error: NBD_REP_ERR.TOO_BIG, message }));
    }
    const messageBytes = optionStruct.sizeBytes + length;
    if (end - start < messageBytes) {
      this.#wantBytes = messageBytes;
      return 0;
    }
    this.#options += 1;
    const data = source.subarray(start + optionStruct.sizeBytes, start + messageBytes);
    if (option === NBD_OPT.STARTTLS) this.#answerStartTls(data, end - start - messageBytes);
    else this.#answer(option, data);
    return messageBytes;
  }

  /** Whether the client has to start TLS before it is told anything. */
  get #needsTls(): boolean {
    return this.#tls === 'require' && !this.#isSecure;
  }

  /** Why an option ends the connection before its data is looked at; undefined when it doesn't. */
  #refusal(magic: bigint, option: number, length: number): string | undefined {
    if (magic !== NBD_OPTS_MAGIC) return `option magic is 0x${magic.toString(16)}`;
    if (this.#options >= MAX_OPTIONS) return `more than ${MAX_OPTIONS} options`;
    const name = nameOf(NBD_OPT, option);
    // Newstyle that isn't fixed knows this option alone, and has no form for an error.
    const fixed = ((this.#clientFlags ?? 0) & NBD_FLAG_C_FIXED_NEWSTYLE) !== 0;
    if (!fixed && option !== NBD_OPT.EXPORT_NAME)
      return `option ${name} from a client without fixed newstyle`;
    // It can't be told why; and what follows could be requests.
    if (this.#needsTls && option === NBD_OPT.EXPORT_NAME)
      return `option ${name} without TLS, which is required`;
    const limit = option === NBD_OPT.EXPORT_NAME ? MAX_OPTION_BYTES : MAX_SKIPPED_OPTION_BYTES;
    if (length > limit) return `option ${name} with ${length} bytes of data`;
    return undefined;
  }

  #answer(option: number, data: Buffer): void {
    if (option === NBD_OPT.ABORT) {
      this.#reply(option, NBD_REP.ACK);
      this.#outcome = { kind: 'aborted' };
    } else if (option === NBD_OPT.EXPORT_NAME) {
      this.#answerExportName(data);
    } else if (this.#refusing) {
      this.#error(option, NBD_REP_ERR.SHUTDOWN, 'the server is shutting down');
    } else {
      this.#answerRequest(option, data);
    }
  }

  #answerRequest(option: number, data: Buffer): void {
    switch (option) {
      case NBD_OPT.LIST:
        this.#answerList(data);
        break;
      case NBD_OPT.STRUCTURED_REPLY:
      case NBD_OPT.EXTENDED_HEADERS:
        this.#answerStyle(option, data);
        break;
      case NBD_OPT.LIST_META_CONTEXT:
      case NBD_OPT.SET_META_CONTEXT:
        this.#answerContexts(option, data);
        break;
      default:
        this.#answerInfo(option, data);
    }
  }

  /** @param behind bytes that arrived behind the option: in the clear, whoever sent them */
  #answerStartTls(data: Buffer, behind: number): void {
    const option = NBD_OPT.STARTTLS;
    if (this.#refusing) {
      this.#error(option, NBD_REP_ERR.SHUTDOWN, 'the server is shutting down');
    } else if (this.#isSecure) {
      this.#error(option, NBD_REP_ERR.INVALID, 'TLS was started already');
    } else if (this.#tls === 'off') {
      this.#error(option, NBD_REP_ERR.POLICY, 'TLS is not enabled on this server');
    } else if (data.length > 0) {
      this.#error(option, NBD_REP_ERR.INVALID, `STARTTLS takes no data, got ${data.length} bytes`);
    } else if (behind > 0) {
      // They would be taken for something that came through TLS, or for its first bytes.
      this.#reject(`${behind} bytes behind STARTTLS, before TLS was up`);
    } else {
      this.#reply(option, NBD_REP.ACK);
      this.#outcome = { kind: 'upgrade' };
    }
  }

  #answerExportName(data: Buffer): void {
    // The option has no room for an answer, and the extension forbids it from there on.
    if (this.#style === 'extended') {
      this.#reject('EXPORT_NAME after extended headers were agreed on');
      return;
    }
    const name = parseName(data);
    if (typeof name !== 'string') {
      this.#reject(name.message);
      return;
    }
    const target = this.#refusing ? undefined : this.#exports.find(name);
    if (target === undefined) {
      this.#reject(this.#refusing ? 'the server is shutting down' : this.#absence(name));
      return;
    }
    const withZeroes = ((this.#clientFlags ?? 0) & NBD_FLAG_C_NO_ZEROES) === 0;
    this.#output.push(encodeExportNameReply(target, this.#flagsFor(target, true), withZeroes));
    this.#outcome = this.#transmission(target);
  }

  #answerList(data: Buffer): void {
    if (data.length > 0) {
      this.#error(NBD_OPT.LIST, NBD_REP_ERR.INVALID, `LIST takes no data, got ${data.length} bytes`);
      return;
    }
    for (const info of this.#exports.list()) this.#output.push(encodeServerReply(NBD_OPT.LIST, info));
    this.#reply(NBD_OPT.LIST, NBD_REP.ACK);
  }

  #answerInfo(option: number, data: Buffer): void {
    const request = parseInfoRequest(data);
    if ('error' in request) {
      this.#error(option, request.error, request.message);
      return;
    }
    const target = this.#exports.find(request.name);
    if (target === undefined) {
      this.#answerUnknown(option, request.name);
      return;
    }
    const flags = this.#flagsFor(target, option === NBD_OPT.GO);
    this.#output.push(...encodeInfoReplies(option, target, flags, request.wanted));
    this.#reply(option, NBD_REP.ACK);
    if (option === NBD_OPT.GO) this.#outcome = this.#transmission(target);
  }

  /** Extended headers take the place of structured replies; there is no way back. Asking again changes nothing. */
  #answerStyle(option: number, data: Buffer): void {
    if (data.length > 0) {
      const message = `${nameOf(NBD_OPT, option)} takes no data, got ${data.length} bytes`;
      this.#error(option, NBD_REP_ERR.INVALID, message);
    } else if (option === NBD_OPT.EXTENDED_HEADERS) {
      this.#style = 'extended';
      this.#reply(option, NBD_REP.ACK);
    } else if (this.#style === 'extended') {
      this.#error(option, NBD_REP_ERR.EXT_HEADER_REQD, 'extended headers were agreed on already');
    } else {
      this.#style = 'structured';
      this.#reply(option, NBD_REP.ACK);
    }
  }

  #answerContexts(option: number, data: Buffer): void {
    if (this.#style === 'simple') {
      this.#error(option, NBD_REP_ERR.INVALID, 'meta contexts need structured replies first');
      return;
    }
    const request = parseContextRequest(data);
    if ('error' in request) {
      this.#error(option, request.error, request.message);
      return;
    }
    const target = this.#exports.find(request.name);
    if (target === undefined) {
      this.#error(option, NBD_REP_ERR.UNKNOWN, this.#absence(request.name));
      return;
    }
    const selects = option === NBD_OPT.SET_META_CONTEXT;
    const { contexts } = target;
    const found = selects
      ? selectContexts(contexts, request.queries)
      : listContexts(contexts, request.queries);
    if (selects) this.#selection = { exportName: target.name, contexts: found };
    // In a list ids mean nothing, and the spec wants 0.
    for (const id of found) this.#output.push(encodeMetaContext(option, selects ? id : 0, contexts[id]!));
    this.#reply(option, NBD_REP.ACK);
  }

  /** A selection counts for the export that it was made for, whichever of its names the client used. */
  #selectedOf(target: E): readonly number[] {
    const selection = this.#selection;
    return selection?.exportName === target.name ? selection.contexts : [];
  }

  #flagsFor(target: E, chooses: boolean): number {
    let flags = target.transmissionFlags;
    if (this.#style !== 'simple') flags |= NBD_FLAG_SEND_DF;
    const filters = this.#style === 'extended' && (!chooses || this.#selectedOf(target).length > 0);
    return filters ? flags | NBD_FLAG_BLOCK_STAT_PAYLOAD : flags;
  }

  #transmission(target: E): HandshakeOutcome<E> {
    return { kind: 'transmission', target, style: this.#style, contexts: this.#selectedOf(target) };
  }

  /** The same answer whether there is such an export for others, or none at all. */
  #answerUnknown(option: number, name: string): void {
    const mayExist = this.#tls === 'allow' && !this.#isSecure && this.#exports.hasTlsOnly === true;
    const error = mayExist ? NBD_REP_ERR.TLS_REQD : NBD_REP_ERR.UNKNOWN;
    const message = this.#absence(name);
    this.#error(option, error, mayExist ? `${message} without TLS` : message);
  }

  #absence(name: string): string {
    return this.#exports.absence?.(name) ?? `no export is named ${echo(name)}`;
  }

  /** Throws the option's data away as it comes, without ever holding it, then sends `reply`. */
  #startSkip(length: number, reply: Buffer): number {
    this.#options += 1;
    if (length === 0) {
      this.#output.push(reply);
    } else {
      this.#skipBytes = length;
      this.#afterSkip = reply;
      this.#wantBytes = 1;
    }
    return optionStruct.sizeBytes;
  }

  #skip(available: number): number {
    const skipped = Math.min(available, this.#skipBytes);
    this.#skipBytes -= skipped;
    if (this.#skipBytes === 0 && this.#afterSkip) {
      this.#output.push(this.#afterSkip);
      this.#afterSkip = undefined;
      this.#wantBytes = optionStruct.sizeBytes;
    }
    return skipped;
  }

  #reply(option: number, type: number): void {
    this.#output.push(encodeOptionReply(option, type));
  }

  #error(option: number, error: number, message: string): void {
    this.#output.push(encodeOptionError(option, { error, message }));
  }

  #reject(reason: string): number {
    this.#outcome = { kind: 'rejected', reason };
    return 0;
  }
}

function isKnown(option: number): boolean {
  switch (option) {
    case NBD_OPT.EXPORT_NAME:
    case NBD_OPT.ABORT:
    case NBD_OPT.LIST:
    case NBD_OPT.STARTTLS:
    case NBD_OPT.INFO:
    case NBD_OPT.GO:
    case NBD_OPT.STRUCTURED_REPLY:
    case NBD_OPT.LIST_META_CONTEXT:
    case NBD_OPT.SET_META_CONTEXT:
    case NBD_OPT.EXTENDED_HEADERS:
      return true;
    default:
      return false;
  }
}
