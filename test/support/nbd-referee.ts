// A second reading of the NBD protocol, slow and simple: given everything a client said and everything a server said,
// it tells what the server did wrong. It shares the numbers with the product but none of its codecs, and it knows only
// the specification and docs/LIMITS.md. It judges any bytes, however wrong the client was.
import {
  NBD_CMD,
  NBD_FLAG_READ_ONLY,
  NBD_OPT,
  NBD_REP,
  NBD_REP_ERR,
  nameOf,
} from '../../src/nbdwire/constants.ts';
import { type AskedRequest, judgeReplies, readRequests, type Terms } from './nbd-referee-requests.ts';
import type { SparseBytes } from './sparse-bytes.ts';

export interface RefereeExport {
  readonly name: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly minBlockBytes: number;
  /** What is on it at first; the referee carries out on it what the server says that it did. */
  readonly content: SparseBytes;
}

export interface RefereeRules {
  /** The first is the default one too. */
  readonly exports: readonly RefereeExport[];
  /** Whether the device answers at once, so that replies come in the order of the requests and data can be foretold. */
  readonly ordered: boolean;
}

export interface Judgement {
  /** What the server did wrong; empty when all is well. */
  readonly faults: readonly string[];
  /** Why the server has to close its side; undefined when it must not. */
  readonly mustEnd: string | undefined;
  readonly options: number;
  readonly requests: number;
  /** Requests by what was agreed on for their replies. */
  readonly chunked: number;
  readonly extended: number;
  /** BLOCK_STATUS with a selected context. */
  readonly statuses: number;
}

/** From docs/LIMITS.md, again on purpose. */
const MAX_OPTION_BYTES = 16 * 1024;
const MAX_SKIPPED_OPTION_BYTES = 1024 * 1024;
const MAX_OPTIONS = 256;
const MAX_NAME_BYTES = 4096;
const OPTS_MAGIC = 0x49484156454f5054n;
const REP_MAGIC = 0x3e889045565a9n;

/** Judges one whole conversation. */
export function judge(client: Buffer, server: Buffer, rules: RefereeRules): Judgement {
  const referee = new Referee(client, server, rules);
  referee.run();
  return referee;
}

interface Reply {
  readonly type: number;
  readonly data: Buffer;
}

class Referee implements Judgement {
  readonly faults: string[] = [];
  mustEnd: string | undefined;
  options = 0;
  requests = 0;
  chunked = 0;
  extended = 0;
  statuses = 0;
  readonly #client: Buffer;
  readonly #server: Buffer;
  readonly #rules: RefereeRules;
  /** How far each side was read. */
  #said = 0;
  #heard = 0;
  #clientFlags = 0;
  #structured = false;
  #extended = false;
  /** By export name: ids of the selected contexts. */
  #contexts: { readonly name: string; readonly ids: ReadonlySet<number> } | undefined;

  constructor(client: Buffer, server: Buffer, rules: RefereeRules) {
    this.#client = client;
    this.#server = server;
    this.#rules = rules;
  }

  run(): void {
    const chosen = this.#greeting() ? this.#negotiate() : undefined;
    if (chosen) this.#transmit(chosen.target, chosen.flags);
    else if (this.faults.length === 0 && this.#heard < this.#server.length) {
      this.#fault(`${this.#server.length - this.#heard} bytes that answer nothing`);
    }
  }

  #fault(text: string): undefined {
    this.faults.push(text);
    return undefined;
  }

  #end(reason: string): undefined {
    this.mustEnd = reason;
    return undefined;
  }

  /** @returns whether options may follow */
  #greeting(): boolean {
    const hello = this.#server.subarray(0, 18);
    if (hello.toString('latin1') !== 'NBDMAGICIHAVEOPT\0\x03') {
      this.#fault(`greeting ${hello.toString('hex')}`);
      return false;
    }
    this.#heard = 18;
    if (this.#client.length < 4) return false;
    this.#clientFlags = this.#client.readUInt32BE(0);
    this.#said = 4;
    if (this.#clientFlags > 3) {
      this.#end('unknown client flags');
      return false;
    }
    return true;
  }

  /** @returns the export that was chosen; undefined when the conversation ends before */
  #negotiate(): { target: RefereeExport; flags: number } | undefined {
    for (;;) {
      if (this.faults.length > 0 || this.#client.length - this.#said < 16) return undefined;
      const magic = this.#client.readBigUInt64BE(this.#said);
      const option = this.#client.readUInt32BE(this.#said + 8);
      const length = this.#client.readUInt32BE(this.#said + 12);
      const cut = this.#cutReason(magic, option, length);
      if (cut) return this.#end(cut);
      const data = this.#client.subarray(this.#said + 16, this.#said + 16 + length);
      if (data.length < length) return undefined;
      this.#said += 16 + length;
      this.options += 1;
      if (option === NBD_OPT.EXPORT_NAME) return this.#exportName(data);
      const replies = this.#optionReplies(option);
      if (replies === undefined) return undefined;
      const last = replies.at(-1)!.type;
      this.#judgeOption(option, length, data, replies);
      if (option === NBD_OPT.ABORT && last === NBD_REP.ACK) return this.#end('ABORT');
      if (option === NBD_OPT.GO && last === NBD_REP.ACK) return this.#chosen(data, replies);
    }
  }

  #cutReason(magic: bigint, option: number, length: number): string | undefined {
    if (magic !== OPTS_MAGIC) return 'option magic';
    if (this.options >= MAX_OPTIONS) return 'too many options';
    if ((this.#clientFlags & 1) === 0 && option !== NBD_OPT.EXPORT_NAME) return 'not fixed newstyle';
    if (option === NBD_OPT.EXPORT_NAME && length > MAX_OPTION_BYTES) return 'name too long';
    if (length > MAX_SKIPPED_OPTION_BYTES) return 'option too long';
    return undefined;
  }

  #exportName(data: Buffer): { target: RefereeExport; flags: number } | undefined {
    const target = this.#find(data);
    if (target === undefined) return this.#end('EXPORT_NAME refused');
    if (this.#extended) return this.#end('EXPORT_NAME with extended headers');
    const zeroes = (this.#clientFlags & 2) === 0 ? 124 : 0;
    const reply = this.#server.subarray(this.#heard, this.#heard + 10 + zeroes);
    if (reply.length < 10 + zeroes) return this.#fault('EXPORT_NAME has no whole answer');
    this.#heard += reply.length;
    if (reply.subarray(10).some((byte) => byte !== 0))
      return this.#fault('the zeroes of EXPORT_NAME are none');
    return this.#told(target, reply.readBigUInt64BE(0), reply.readUInt16BE(8));
  }

  /** The replies to one option, up to the one that ends them; undefined, and a fault, when they are not all there. */
  #optionReplies(option: number): Reply[] | undefined {
    const replies: Reply[] = [];
    for (;;) {
      const head = this.#server.subarray(this.#heard, this.#heard + 20);
      if (head.length < 20) return this.#fault(`option ${nameOf(NBD_OPT, option)} has no answer`);
      if (head.readBigUInt64BE(0) !== REP_MAGIC) return this.#fault('option reply magic');
      if (head.readUInt32BE(8) !== option) return this.#fault(`an answer to option ${head.readUInt32BE(8)}`);
      const type = head.readUInt32BE(12);
      const length = head.readUInt32BE(16);
      if (length > 2 * MAX_NAME_BYTES + 16) return this.#fault(`an option reply of ${length} bytes`);
      const data = this.#server.subarray(this.#heard + 20, this.#heard + 20 + length);
      if (data.length < length) return this.#fault('an option reply is cut off');
      this.#heard += 20 + length;
      replies.push({ type, data });
      if (type === NBD_REP.ACK || type >= 2 ** 31) return replies;
    }
  }

  #judgeOption(option: number, length: number, data: Buffer, replies: readonly Reply[]): void {
    const last = replies.at(-1)!.type;
    const error = (wanted: number): void => {
      if (last === wanted) return;
      this.#fault(`${nameOf(NBD_OPT, option)} of ${length} bytes was answered with ${last}, not ${wanted}`);
    };
    if (last >= 2 ** 31 && replies.at(-1)!.data.length > MAX_NAME_BYTES)
      this.#fault('a message of endless length');
    if (last >= 2 ** 31 && replies.length > 1) this.#fault('an error after other answers');
    switch (option) {
      case NBD_OPT.ABORT:
        if (length <= MAX_OPTION_BYTES) error(NBD_REP.ACK);
        break;
      case NBD_OPT.LIST:
        this.#judgeList(length, replies, error);
        break;
      case NBD_OPT.INFO:
      case NBD_OPT.GO:
        if (length > MAX_OPTION_BYTES) error(NBD_REP_ERR.TOO_BIG);
        else this.#judgeInfo(data, replies, error);
        break;
      case NBD_OPT.STRUCTURED_REPLY:
      case NBD_OPT.EXTENDED_HEADERS:
        if (last === NBD_REP.ACK && length > 0) error(NBD_REP_ERR.INVALID);
        if (last === NBD_REP.ACK) this.#structured = true;
        if (last === NBD_REP.ACK && option === NBD_OPT.EXTENDED_HEADERS) this.#extended = true;
        break;
      case NBD_OPT.LIST_META_CONTEXT:
        break;
      case NBD_OPT.SET_META_CONTEXT:
        this.#judgeContexts(data, replies);
        break;
      case NBD_OPT.STARTTLS:
        if (last < 2 ** 31) this.#fault('STARTTLS was accepted without TLS');
        break;
      default:
        error(NBD_REP_ERR.UNSUP);
    }
  }

  #judgeList(length: number, replies: readonly Reply[], error: (wanted: number) => void): void {
    if (length > MAX_OPTION_BYTES) error(NBD_REP_ERR.TOO_BIG);
    else if (length > 0) error(NBD_REP_ERR.INVALID);
    else {
      error(NBD_REP.ACK);
      const names = replies.slice(0, -1).map(({ type, data }) => {
        if (type !== NBD_REP.SERVER || data.length < 4) return undefined;
        return data.toString('utf8', 4, 4 + data.readUInt32BE(0));
      });
      if (names.join('\0') !== this.#rules.exports.map(({ name }) => name).join('\0'))
        this.#fault(`LIST told ${names}`);
    }
  }

  #judgeInfo(data: Buffer, replies: readonly Reply[], error: (wanted: number) => void): void {
    const last = replies.at(-1)!.type;
    const name = infoName(data);
    // Not formed as it must be, and the name too long besides: either may be said.
    if (name === undefined && last === NBD_REP_ERR.TOO_BIG && data.length > MAX_NAME_BYTES) return;
    if (name === undefined) error(NBD_REP_ERR.INVALID);
    else if (name.length > MAX_NAME_BYTES) error(NBD_REP_ERR.TOO_BIG);
    else if (isText(name) === false) error(NBD_REP_ERR.INVALID);
    else if (this.#find(name) === undefined) error(NBD_REP_ERR.UNKNOWN);
    else {
      error(NBD_REP.ACK);
      const infos = replies.slice(0, -1);
      if (infos.some(({ type, data: info }) => type !== NBD_REP.INFO || info.length < 2))
        this.#fault('something else than INFO before the ACK');
      else if (infos.filter(({ data: info }) => info.readUInt16BE(0) === 0).length !== 1)
        this.#fault('INFO tells the size not once');
    }
  }

  #judgeContexts(data: Buffer, replies: readonly Reply[]): void {
    this.#contexts = undefined;
    if (replies.at(-1)!.type !== NBD_REP.ACK) return;
    if (!this.#structured) this.#fault('SET_META_CONTEXT was accepted without structured replies');
    const ids = replies.slice(0, -1).map(({ data: context }) => context.readUInt32BE(0));
    if (new Set(ids).size !== ids.length) this.#fault(`context ids ${ids}`);
    if (data.length >= 4 && data.readUInt32BE(0) <= data.length - 4) {
      const name = data.toString('utf8', 4, 4 + data.readUInt32BE(0));
      this.#contexts = { name: this.#find(Buffer.from(name))?.name ?? name, ids: new Set(ids) };
    }
  }

  #chosen(data: Buffer, replies: readonly Reply[]): { target: RefereeExport; flags: number } | undefined {
    const target = this.#find(infoName(data) ?? Buffer.alloc(0));
    const facts = replies.find(({ type, data: info }) => type === NBD_REP.INFO && info.readUInt16BE(0) === 0);
    if (!target || !facts) return this.#fault('GO was accepted without an export');
    return this.#told(target, facts.data.readBigUInt64BE(2), facts.data.readUInt16BE(10));
  }

  #told(
    target: RefereeExport,
    sizeBytes: bigint,
    flags: number,
  ): { target: RefereeExport; flags: number } | undefined {
    if (sizeBytes !== BigInt(target.sizeBytes)) return this.#fault(`told ${sizeBytes} bytes`);
    if (((flags & NBD_FLAG_READ_ONLY) !== 0) !== target.readOnly) return this.#fault(`told flags ${flags}`);
    return { target, flags };
  }

  #find(name: Buffer): RefereeExport | undefined {
    if (name.length > MAX_NAME_BYTES || !isText(name)) return undefined;
    const text = name.toString('utf8');
    const { exports } = this.#rules;
    return exports.find((one) => one.name === text) ?? (text === '' ? exports[0] : undefined);
  }

  #transmit(target: RefereeExport, flags: number): void {
    const terms: Terms = {
      target,
      flags,
      structured: this.#structured,
      extended: this.#extended,
      contexts: this.#contexts?.name === target.name ? this.#contexts.ids : new Set(),
      ordered: this.#rules.ordered,
    };
    const asked: AskedRequest[] = [];
    this.mustEnd = readRequests(this.#client.subarray(this.#said), terms, asked);
    this.requests = asked.filter(({ type }) => type !== NBD_CMD.DISC).length;
    if (terms.structured) this.chunked = this.requests;
    if (terms.extended) this.extended = this.requests;
    if (terms.contexts.size > 0)
      this.statuses = asked.filter(({ type }) => type === NBD_CMD.BLOCK_STATUS).length;
    this.faults.push(...judgeReplies(this.#server.subarray(this.#heard), asked, terms));
  }
}

/** The name in the data of INFO or GO; undefined when the data is not formed as it must be. */
function infoName(data: Buffer): Buffer | undefined {
  if (data.length < 6) return undefined;
  const length = data.readUInt32BE(0);
  if (length > data.length - 6) return undefined;
  const count = data.readUInt16BE(4 + length);
  return data.length === 6 + length + 2 * count ? data.subarray(4, 4 + length) : undefined;
}

function isText(bytes: Buffer): boolean {
  return !bytes.includes(0) && Buffer.from(bytes.toString('utf8')).equals(bytes);
}
