// Writes recorded sessions as a packet capture that Wireshark's programs read: IPv4 and TCP around the pieces, as if
// they had been seen on a wire without loss. No privileges, no interface: nothing is captured.
import type { RecordedSession, Speaker } from './recording-proxy.ts';

/** Where a server is in such a capture. */
export const PCAP_SERVER_PORT = 10_809;
const FIRST_CLIENT_PORT = 40_000;

/** Raw IP: no frame of a link around the packets. */
const LINKTYPE_RAW = 101;
const IP_HEADER_BYTES = 20;
const TCP_HEADER_BYTES = 20;
/** Payload of one packet: what fits into IPv4's 16-bit length. */
const MAX_SEGMENT_BYTES = 60_000;
const TCP_SYN = 0x02;
const TCP_PUSH_ACK = 0x18;
const TCP_SYN_ACK = 0x12;

const HOSTS: Readonly<Record<Speaker, readonly number[]>> = {
  client: [192, 0, 2, 1],
  server: [192, 0, 2, 2],
};

/** One capture of all `sessions`, one after another, each from a port of its own. */
export function encodePcap(sessions: readonly RecordedSession[]): Buffer {
  const head = Buffer.alloc(24);
  head.writeUInt32LE(0xa1b2c3d4, 0);
  head.writeUInt16LE(2, 4);
  head.writeUInt16LE(4, 6);
  head.writeUInt32LE(0xffff, 16);
  head.writeUInt32LE(LINKTYPE_RAW, 20);
  let clock = 0;
  const records = sessions.flatMap((session, i) =>
    sessionPackets(session, FIRST_CLIENT_PORT + i).map((packet) => {
      clock += 1;
      const record = Buffer.alloc(16);
      record.writeUInt32LE(1_000_000 + Math.floor(clock / 1000), 0);
      record.writeUInt32LE((clock % 1000) * 1000, 4);
      record.writeUInt32LE(packet.length, 8);
      record.writeUInt32LE(packet.length, 12);
      return Buffer.concat([record, packet]);
    }),
  );
  return Buffer.concat([head, ...records]);
}

function sessionPackets(session: RecordedSession, clientPort: number): Buffer[] {
  const sent = { client: 1, server: 1 };
  const packet = (from: Speaker, flags: number, data: Buffer, sequence: number): Buffer =>
    encodePacket({
      from,
      clientPort,
      flags,
      sequence,
      acknowledged: sent[from === 'client' ? 'server' : 'client'],
      data,
    });
  const none = Buffer.alloc(0);
  const packets = [packet('client', TCP_SYN, none, 0), packet('server', TCP_SYN_ACK, none, 0)];
  for (const { from, bytes } of session.pieces) {
    for (let at = 0; at < bytes.length; at += MAX_SEGMENT_BYTES) {
      const data = bytes.subarray(at, at + MAX_SEGMENT_BYTES);
      packets.push(packet(from, TCP_PUSH_ACK, data, sent[from]));
      sent[from] += data.length;
    }
  }
  return packets;
}

interface Packet {
  readonly from: Speaker;
  readonly clientPort: number;
  readonly flags: number;
  readonly sequence: number;
  readonly acknowledged: number;
  readonly data: Buffer;
}

function encodePacket({ from, clientPort, flags, sequence, acknowledged, data }: Packet): Buffer {
  const ports = from === 'client' ? [clientPort, PCAP_SERVER_PORT] : [PCAP_SERVER_PORT, clientPort];
  const ip = Buffer.alloc(IP_HEADER_BYTES);
  ip.writeUInt8(0x45, 0);
  ip.writeUInt16BE(IP_HEADER_BYTES + TCP_HEADER_BYTES + data.length, 2);
  ip.writeUInt8(64, 8);
  ip.writeUInt8(6, 9);
  Buffer.from(HOSTS[from]).copy(ip, 12);
  Buffer.from(HOSTS[from === 'client' ? 'server' : 'client']).copy(ip, 16);
  ip.writeUInt16BE(internetChecksum(ip), 10);
  const tcp = Buffer.alloc(TCP_HEADER_BYTES);
  tcp.writeUInt16BE(ports[0]!, 0);
  tcp.writeUInt16BE(ports[1]!, 2);
  tcp.writeUInt32BE(sequence, 4);
  tcp.writeUInt32BE(acknowledged, 8);
  tcp.writeUInt8((TCP_HEADER_BYTES / 4) << 4, 12);
  tcp.writeUInt8(flags, 13);
  tcp.writeUInt16BE(0xffff, 14);
  return Buffer.concat([ip, tcp, data]);
}

function internetChecksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
