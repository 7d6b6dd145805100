// Wireshark's NBD dissector, a third party's reading of the protocol, over what passed between real clients and the
// server. Debian 12's knows requests and simple replies; where a newer one knows more, it finds more to check.
import { writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NbdRig } from '../support/nbd-rig.ts';
import { encodePcap } from '../support/pcap.ts';
import { runPeerOk } from '../support/peers.ts';
import {
  RECORDED_DISK_BYTES,
  type Recording,
  recordClients,
  recordedDisk,
} from '../support/recorded-clients.ts';
import { type RecordedSession, RecordingProxy } from '../support/recording-proxy.ts';
import { tempDir } from '../support/temp-dir.ts';

/** One request at a time, so that each message is a packet; only commands that the oldest dissector starts at. */
const PLAIN_SCRIPT = `
import os
h = nbd.NBD()
h.set_request_structured_replies(False)
h.connect_uri(os.environ['URI'])
h.set_strict_mode(0)
for i in range(20):
    h.pwrite(bytes([i + 1]) * 3000, i * 4096)
    assert h.pread(3000, i * 4096) == bytes([i + 1]) * 3000
try:
    h.pwrite(b'past the end', ${RECORDED_DISK_BYTES})
    raise AssertionError('not refused')
except nbd.Error:
    pass
h.shutdown()
`;
const PLAIN_REQUESTS = { READ: 20, WRITE: 21, DISC: 1 };
const PLAIN_ANSWERS = 41;

const scratch = tempDir();
afterAll(() => scratch.remove());

async function tshark(pcap: string, filter: string, fields: readonly string[] = []): Promise<string[]> {
  const wanted = fields.length === 0 ? [] : ['-T', 'fields', ...fields.flatMap((field) => ['-e', field])];
  const output = await runPeerOk('tshark', ['-n', '-r', pcap, '-Y', filter, ...wanted]);
  return output.split('\n').filter((line) => line !== '');
}

function capture(name: string, sessions: readonly RecordedSession[]): string {
  const path = scratch.file(`${name}.pcap`);
  writeFileSync(path, encodePcap(sessions));
  return path;
}

const COMPLAINTS = '_ws.malformed || _ws.expert.severity >= "Error"';

describe('the dissector', () => {
  let recordings: Recording[];
  beforeAll(async () => {
    recordings = await recordClients();
  }, 120_000);

  it('finds nothing malformed in what any client did', async () => {
    const sessions = recordings.flatMap((recording) => recording.sessions);
    const pcap = capture('all', sessions);
    expect(await tshark(pcap, COMPLAINTS)).toEqual([]);
    const requests = await tshark(pcap, 'nbd.magic == 0x25609513');
    expect(requests.length, 'packets with requests that it understood').toBeGreaterThan(30);
  });

  it('understands every request, and which reply belongs to it', async () => {
    const session = await recordPlain();
    const pcap = capture('plain', [session]);
    expect(await tshark(pcap, COMPLAINTS)).toEqual([]);
    const types = (await tshark(pcap, 'nbd.magic == 0x25609513', ['nbd.type'])).map(Number);
    const count = (type: number): number => types.filter((one) => one === type).length;
    expect({ READ: count(0), WRITE: count(1), DISC: count(2) }).toEqual(PLAIN_REQUESTS);
    const fields = ['nbd.error', 'nbd.response_to'];
    const answers = await tshark(pcap, 'nbd.magic == 0x67446698 && nbd.response_to', fields);
    expect(answers.length).toBe(PLAIN_ANSWERS);
    expect(answers.filter((line) => !line.startsWith('0\t')).map((line) => line.split('\t')[0])).toEqual([
      '28',
    ]);
  });

  it('does see what is wrong', async () => {
    const session = await recordPlain();
    const at = session.pieces.findIndex(
      ({ from, bytes }) => from === 'server' && bytes.length >= 16 && bytes.readUInt32BE(0) === 0x67446698,
    );
    const spoiled = Buffer.from(session.pieces[at]!.bytes);
    // Another request's cookie: the reply belongs to nothing.
    spoiled.writeUInt32BE(0xdead, 8);
    session.pieces[at] = { from: 'server', bytes: spoiled };
    const pcap = capture('spoiled', [session]);
    const answers = await tshark(pcap, 'nbd.magic == 0x67446698 && nbd.response_to');
    expect(answers.length).toBe(PLAIN_ANSWERS - 1);
  });
});

async function recordPlain(): Promise<RecordedSession> {
  const rig = await NbdRig.start(recordedDisk(), { tcp: true });
  try {
    await using proxy = await RecordingProxy.listen(rig.to);
    const env = { URI: `nbd://localhost:${proxy.port}/disk` };
    await runPeerOk('nbdsh', ['-n', '-c', '-'], { input: PLAIN_SCRIPT, env });
    const [session] = await proxy.take();
    return session!;
  } finally {
    await rig.stop();
  }
}
