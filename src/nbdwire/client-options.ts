// The data of the options that the client sends, and what it reads from the data of their replies. Pure functions;
// which option follows which is in client-handshake.ts.
import { HandshakeError } from './client-error.ts';
import type { RawExport } from './client-export.ts';
import { INFO_EXPORT } from './client-layouts.ts';
import {
  NBD_BASE_ALLOCATION,
  NBD_INFO,
  NBD_OPT,
  NBD_OPTS_MAGIC,
  NBD_REP,
  NBD_REP_ERR,
  nameOf,
} from './constants.ts';
import { quoteForeign } from './foreign-text.ts';
import { infoBlockSizeStruct, optionStruct } from './server-layouts.ts';
import { metaContextStruct } from './structured-layouts.ts';

/** An option with its data, in one piece: a header sent alone waits for a delayed acknowledgement. */
export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([optionStruct.encode({ magic: NBD_OPTS_MAGIC, option, length: data.length }), data]);
}

/** GO: the name, and that block sizes are asked for. */
export function goData(exportName: Buffer): Buffer {
  const requests = Buffer.alloc(4);
  requests.writeUInt16BE(1, 0);
  requests.writeUInt16BE(NBD_INFO.BLOCK_SIZE, 2);
  return Buffer.concat([lengthAndText(exportName), requests]);
}

/** SET_META_CONTEXT: the name, and the one context that is of use. */
export function setMetaContextData(exportName: Buffer): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(1, 0);
  return Buffer.concat([lengthAndText(exportName), count, lengthAndText(Buffer.from(NBD_BASE_ALLOCATION))]);
}

function lengthAndText(text: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(text.length, 0);
  return Buffer.concat([length, text]);
}

/** What one information reply tells; empty when it is of no use here. */
export interface Information {
  readonly export?: Pick<RawExport, 'size' | 'flags'>;
  readonly blockSizes?: NonNullable<RawExport['blockSizes']>;
}

/** @throws HandshakeError when it isn't as long as its type says */
export function readInformation(bytes: Buffer): Information {
  if (bytes.length < 2) throw new HandshakeError('protocol', 'an information reply without a type');
  switch (bytes.readUInt16BE(0)) {
    case NBD_INFO.EXPORT:
      return { export: INFO_EXPORT.decode(exactly(bytes, INFO_EXPORT)) };
    case NBD_INFO.BLOCK_SIZE:
      return { blockSizes: infoBlockSizeStruct.decode(exactly(bytes, infoBlockSizeStruct)) };
    default:
      // Names, descriptions and what is unknown are not used.
      return {};
  }
}

/**
 * The id that a server gave to base:allocation.
 * @throws HandshakeError when it selected anything else, which was not asked for
 */
export function readContextId(bytes: Buffer): number {
  if (bytes.length < metaContextStruct.sizeBytes) {
    throw new HandshakeError('protocol', `a meta context in ${bytes.length} bytes`);
  }
  const name = bytes.toString('utf8', metaContextStruct.sizeBytes);
  if (name !== NBD_BASE_ALLOCATION) {
    throw new HandshakeError(
      'protocol',
      `the server selected ${quoteForeign(name)}, which was not asked for`,
    );
  }
  return metaContextStruct.decode(bytes).contextId;
}

function exactly(bytes: Buffer, layout: { readonly name: string; readonly sizeBytes: number }): Buffer {
  if (bytes.length === layout.sizeBytes) return bytes;
  throw new HandshakeError(
    'protocol',
    `${layout.name} has ${bytes.length} bytes; ${layout.sizeBytes} are needed`,
  );
}

/**
 * Why an option failed.
 * @param exportName as it was asked for, in quotation marks
 * @param bytes the reply's data: the server's own words, when it has some
 */
export function optionRefusal(
  option: number,
  type: number,
  bytes: Buffer,
  exportName: string,
): HandshakeError {
  const words = bytes.length > 0 ? ` (it says ${quoteForeign(bytes.toString('utf8'))})` : '';
  const asked = nameOf(NBD_OPT, option);
  if (type < 2 ** 31) {
    const what = nameOf(NBD_REP, type);
    return new HandshakeError('protocol', `the server answered ${asked} with reply type ${what}`);
  }
  switch (type) {
    case NBD_REP_ERR.UNKNOWN:
      return new HandshakeError('unknown-export', `the server has no export ${exportName}${words}`);
    case NBD_REP_ERR.TLS_REQD:
      return new HandshakeError('tls-required', `the server requires TLS for export ${exportName}${words}`);
    case NBD_REP_ERR.SHUTDOWN:
      return new HandshakeError('shutting-down', `the server is shutting down${words}`);
    default: {
      const code = nameOf(NBD_REP_ERR, type);
      if (option === NBD_OPT.STARTTLS) {
        return new HandshakeError('tls-refused', `the server has no TLS: it answered ${code}${words}`);
      }
      const message = `the server refused export ${exportName} with ${code}${words}`;
      return new HandshakeError('refused', message);
    }
  }
}
