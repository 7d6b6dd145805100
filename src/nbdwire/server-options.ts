// Option data, both ways: decodes what INFO and GO ask for, encodes every option reply. Lengths inside the data are
// checked against the data, and texts that go back are capped.
import { isUtf8 } from 'node:buffer';
import {
  NBD_CLISERV_MAGIC,
  NBD_EXPORT_NAME_ZEROES,
  NBD_INFO,
  NBD_MAGIC,
  NBD_MAX_STRING_BYTES,
  NBD_OLDSTYLE_ZEROES,
  NBD_REP,
  NBD_REP_ERR,
  NBD_REP_MAGIC,
} from './constants.ts';
import type { ExportInfo } from './server-exports.ts';
import {
  exportNameReplyStruct,
  infoBlockSizeStruct,
  infoExportStruct,
  infoTextStruct,
  oldstyleGreetingStruct,
  optionReplyStruct,
  serverReplyStruct,
} from './server-layouts.ts';

export interface InfoRequest {
  readonly name: string;
  /** NBD_INFO_* values asked for; unknown ones are to be ignored. */
  readonly wanted: ReadonlySet<number>;
}

/** Why an option is refused. */
export interface OptionError {
  readonly error: number;
  readonly message: string;
}

/** Decodes the data of INFO or GO: name length, name, count, that many 16-bit requests, and nothing more. */
export function parseInfoRequest(data: Buffer): InfoRequest | OptionError {
  const leading = parseLeadingName(data, 2);
  if ('error' in leading) return leading;
  const { name, end: countAt } = leading;
  const count = data.readUInt16BE(countAt);
  if (countAt + 2 + count * 2 !== data.length) {
    return invalid(`${count} information requests do not fill ${data.length} bytes of option data`);
  }
  const wanted = new Set<number>();
  for (let i = 0; i < count; i += 1) wanted.add(data.readUInt16BE(countAt + 2 + i * 2));
  return { name, wanted };
}

/**
 * Decodes the export name that option data begins with, its length before it.
 * @param restBytes what has to follow it at least
 * @returns the name, and where in the data it ends
 */
export function parseLeadingName(
  data: Buffer,
  restBytes: number,
): { name: string; end: number } | OptionError {
  const besides = 4 + restBytes;
  if (data.length < besides) {
    return invalid(`option data of ${data.length} bytes; at least ${besides} are needed`);
  }
  const nameBytes = data.readUInt32BE(0);
  if (nameBytes > data.length - besides) {
    return invalid(`a name of ${nameBytes} bytes does not fit in ${data.length} bytes of option data`);
  }
  const end = 4 + nameBytes;
  const name = parseName(data.subarray(4, end));
  return typeof name === 'string' ? { name, end } : name;
}

/** Decodes an export name: a string as the spec defines it. */
export function parseName(bytes: Buffer): string | OptionError {
  if (bytes.length > NBD_MAX_STRING_BYTES) {
    const message = `a name of ${bytes.length} bytes; at most ${NBD_MAX_STRING_BYTES} are allowed`;
    return { error: NBD_REP_ERR.TOO_BIG, message };
  }
  if (!isUtf8(bytes) || bytes.includes(0)) return invalid('the export name is not UTF-8 text without NUL');
  return bytes.toString('utf8');
}

/** NBD_REP_ERR_INVALID with its reason. */
export function invalid(message: string): OptionError {
  return { error: NBD_REP_ERR.INVALID, message };
}

/** One option reply. @param data at most a few KiB: everything that can be long was capped before */
export function encodeOptionReply(option: number, type: number, ...data: readonly Buffer[]): Buffer {
  const length = data.reduce((sum, part) => sum + part.length, 0);
  return Buffer.concat([optionReplyStruct.encode({ magic: NBD_REP_MAGIC, option, type, length }), ...data]);
}

/** An error reply with its message for the client's user. */
export function encodeOptionError(option: number, { error, message }: OptionError): Buffer {
  return encodeOptionReply(option, error, Buffer.from(message));
}

/** The answer to EXPORT_NAME. */
export function encodeExportNameReply(info: ExportInfo, flags: number, withZeroes: boolean): Buffer {
  const reply = exportNameReplyStruct.encode({ sizeBytes: info.sizeBytes, flags });
  return withZeroes ? Buffer.concat([reply, Buffer.alloc(NBD_EXPORT_NAME_ZEROES)]) : reply;
}

/** One line of LIST. */
export function encodeServerReply(option: number, info: ExportInfo): Buffer {
  const name = Buffer.from(info.name);
  const description = Buffer.from(info.description ?? '');
  const head = serverReplyStruct.encode({ nameLength: name.length });
  return encodeOptionReply(option, NBD_REP.SERVER, head, name, description);
}

/** The whole oldstyle negotiation: the server speaks, and requests follow. Spec: "Oldstyle negotiation". */
export function encodeOldstyleGreeting({ sizeBytes, transmissionFlags }: ExportInfo): Buffer {
  const greeting = oldstyleGreetingStruct.encode({
    magic: NBD_MAGIC,
    cliservMagic: NBD_CLISERV_MAGIC,
    sizeBytes,
    handshakeFlags: 0,
    flags: transmissionFlags,
  });
  return Buffer.concat([greeting, Buffer.alloc(NBD_OLDSTYLE_ZEROES)]);
}

/** The information replies to INFO or GO, without the final ACK. @param flags transmission flags for this client */
export function encodeInfoReplies(
  option: number,
  info: ExportInfo,
  flags: number,
  wanted: ReadonlySet<number>,
): Buffer[] {
  const { sizeBytes, minBlockBytes, preferredBlockBytes, maxPayloadBytes } = info;
  const replies = [infoExportStruct.encode({ type: NBD_INFO.EXPORT, sizeBytes, flags })];
  if (wanted.has(NBD_INFO.NAME)) replies.push(infoText(NBD_INFO.NAME, info.name));
  if (wanted.has(NBD_INFO.DESCRIPTION) && info.description !== undefined) {
    replies.push(infoText(NBD_INFO.DESCRIPTION, info.description));
  }
  // Sent unasked too where it matters: the spec lets a server do so, and a client that understands it is spared errors.
  if (wanted.has(NBD_INFO.BLOCK_SIZE) || minBlockBytes > 1) {
    const sizes = { minBlockBytes, preferredBlockBytes, maxPayloadBytes };
    replies.push(infoBlockSizeStruct.encode({ type: NBD_INFO.BLOCK_SIZE, ...sizes }));
  }
  return replies.map((data) => encodeOptionReply(option, NBD_REP.INFO, data));
}

function infoText(type: number, text: string): Buffer {
  return Buffer.concat([infoTextStruct.encode({ type }), Buffer.from(text)]);
}
