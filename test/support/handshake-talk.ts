// Talks to a ServerHandshake as a connection would: bytes in, in any pieces, replies and outcome out.
import { NBD_REP, NBD_REP_ERR, nameOf } from '../../src/nbdwire/constants.ts';
import type { ExportDirectory, ExportInfo } from '../../src/nbdwire/server-exports.ts';
import {
  type HandshakeOptions,
  type HandshakeOutcome,
  ServerHandshake,
} from '../../src/nbdwire/server-handshake.ts';
import type { OptionReply } from './raw-nbd-client.ts';

export function directory(exports: readonly ExportInfo[]): ExportDirectory<ExportInfo> {
  return {
    list: () => exports,
    find: (name) => exports.find((info) => info.name === name) ?? (name === '' ? exports[0] : undefined),
  };
}

export class Talk {
  handshake: ServerHandshake<ExportInfo>;
  /** Bytes said that the handshake has not used up. */
  unused = Buffer.alloc(0);
  #output: Buffer[] = [];

  constructor(exports: ExportDirectory<ExportInfo>, options?: HandshakeOptions) {
    this.handshake = new ServerHandshake(exports, options);
    this.#output.push(...this.handshake.takeOutput());
  }

  get outcome(): HandshakeOutcome<ExportInfo> | undefined {
    return this.handshake.outcome;
  }

  /** TLS is up. */
  secured(): void {
    this.handshake = this.handshake.secured();
  }

  get wantBytes(): number {
    return this.handshake.wantBytes;
  }

  /** Says bytes; surrounded by junk, so that reading outside of them would show. */
  say(bytes: Buffer): void {
    const before = 7;
    const source = Buffer.concat([Buffer.alloc(before, 0xee), this.unused, bytes, Buffer.alloc(9, 0xee)]);
    const end = before + this.unused.length + bytes.length;
    let start = before;
    while (this.outcome === undefined) {
      const used = this.handshake.step(source, start, end);
      start += used;
      this.#output.push(...this.handshake.takeOutput());
      if (used === 0) break;
    }
    this.unused = Buffer.from(source.subarray(start, end));
  }

  /** All that was answered since the last take. */
  take(): Buffer {
    const output = Buffer.concat(this.#output);
    this.#output = [];
    return output;
  }

  /** The same as option replies, which it must consist of. */
  replies(): Array<OptionReply & { readonly name: string }> {
    const bytes = this.take();
    const replies: Array<OptionReply & { readonly name: string }> = [];
    for (let at = 0; at < bytes.length; ) {
      if (bytes.readBigUInt64BE(at) !== 0x3e889045565a9n) throw new Error('wrong option reply magic');
      const type = bytes.readUInt32BE(at + 12);
      const length = bytes.readUInt32BE(at + 16);
      const name = nameOf(type >= 2 ** 31 ? NBD_REP_ERR : NBD_REP, type);
      const data = bytes.subarray(at + 20, at + 20 + length);
      replies.push({ option: bytes.readUInt32BE(at + 8), type, name, data });
      at += 20 + length;
    }
    return replies;
  }
}
