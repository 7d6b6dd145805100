// Fixed layouts of the handshake, in the order of the spec's "Fixed newstyle negotiation" and "Option reply types".
import { struct } from '../wire/struct.ts';

/** Server to client, first of all. */
export const greetingStruct = struct('nbd greeting', 'be', { magic: 'u64', optsMagic: 'u64', flags: 'u16' });

/** Server to client, instead of the greeting, when it speaks oldstyle; 124 zeroes follow. */
export const oldstyleGreetingStruct = struct('nbd oldstyle greeting', 'be', {
  magic: 'u64',
  cliservMagic: 'u64',
  sizeBytes: 'size64',
  handshakeFlags: 'u16',
  flags: 'u16',
});

/** Client to server, answers the greeting. */
export const clientFlagsStruct = struct('nbd client flags', 'be', { flags: 'u32' });

/** Client to server; `length` bytes of option data follow. */
export const optionStruct = struct('nbd option', 'be', { magic: 'u64', option: 'u32', length: 'u32' });

/** Server to client; `length` bytes of reply data follow. */
export const optionReplyStruct = struct('nbd option reply', 'be', {
  magic: 'u64',
  option: 'u32',
  type: 'u32',
  length: 'u32',
});

/** Answer to EXPORT_NAME; 124 zeroes follow unless NO_ZEROES was agreed on. */
export const exportNameReplyStruct = struct('nbd export', 'be', { sizeBytes: 'size64', flags: 'u16' });

/** NBD_INFO_EXPORT. */
export const infoExportStruct = struct('nbd info export', 'be', {
  type: 'u16',
  sizeBytes: 'size64',
  flags: 'u16',
});

/** NBD_INFO_NAME and NBD_INFO_DESCRIPTION; a string follows. */
export const infoTextStruct = struct('nbd info text', 'be', { type: 'u16' });

/** NBD_INFO_BLOCK_SIZE. */
export const infoBlockSizeStruct = struct('nbd info block size', 'be', {
  type: 'u16',
  minBlockBytes: 'u32',
  preferredBlockBytes: 'u32',
  maxPayloadBytes: 'u32',
});

/** Starts a NBD_REP_SERVER: the name follows, and after it the description. */
export const serverReplyStruct = struct('nbd server reply', 'be', { nameLength: 'u32' });
