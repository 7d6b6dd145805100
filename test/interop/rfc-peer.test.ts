// The protocol of the 2012 proposal against an implementation that shares nothing with ours: structs that a C compiler
// laid out, and a hub and an agent in C that know no extension.
import { type ChildProcessWithoutNullStreams, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import * as encode from '../../src/repwire/encode.ts';
import { FrameParser } from '../../src/repwire/frame-parser.ts';
import { type CliProcess, startHub, startServe } from '../support/cli.ts';
import { startPeer } from '../support/peers.ts';
import { readStatus } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const SOURCE = fileURLToPath(new URL('../support/rfc-peer.c', import.meta.url));
const KIB = 1024;
const MIB = 1024 * KIB;
/** No whole number of the peers' reads. */
const SIZE = 5 * MIB + 512;

let dir: TempDir;
let peer: string;

beforeAll(() => {
  dir = tempDir();
  peer = dir.file('rfc-peer');
  execFileSync('cc', ['-std=gnu11', '-O1', '-Wall', '-Werror', '-o', peer, SOURCE]);
});
afterAll(() => dir.remove());

const data = Buffer.alloc(1024, 0x5a);
const noExtension = { sequence: 0, allZero: false };

/** One frame of each command, and what a C program reads out of it. */
const FRAMES: ReadonlyArray<readonly [Buffer[], string]> = [
  [
    [
      encode.encodeProtectedWrite(0x1122334455667788n, 0x10203_04050 * 512, 1024, 0, encode.NO_STAMP, data),
      data,
    ],
    'PROTECTED_WRITE volume_id=1234605616436508552 offset_sectors=69259509840 size_sectors=2 ret_status=0 data=1024',
  ],
  [
    [encode.encodeProtectedWrite(1n, 2 ** 49, 1024, -1, encode.NO_STAMP, data)],
    'PROTECTED_WRITE volume_id=1 offset_sectors=1099511627776 size_sectors=2 ret_status=-1 data=0',
  ],
  [
    [
      encode.encodeReport(
        [
          { name: 'vda', volumeId: 7n, sizeBytes: 2 ** 40 },
          { name: 'daten-ä', volumeId: 2n ** 64n - 1n, sizeBytes: 512 },
        ],
        false,
      ),
    ],
    'REPORT_VM_VOLUMES num_volumes=2 [vda 7 1099511627776] [daten-ä 18446744073709551615 512] data=544',
  ],
  [
    [encode.encodeStartProtect(2n ** 64n - 1n, 'vda', null)],
    'START_PROTECT volume_id=18446744073709551615 name=vda data=3',
  ],
  [
    [encode.encodeRemoteIoRequest(0x01020304, 7n, 0x10203_04050 * 512, 4096, true)],
    'REMOTE_IO_REQ req_id=16909060 size_sectors=8 volume_id=7 offset_sectors=69259509840 is_read=1 data=0',
  ],
  [
    [encode.encodeRemoteIoRequest(2, 7n, 3 * 512, 1024, false), data],
    'REMOTE_IO_REQ req_id=2 size_sectors=2 volume_id=7 offset_sectors=3 is_read=0 data=1024',
  ],
  [
    [encode.encodeRemoteIoResponse(0x01020304, 7n, 0, 1024, noExtension), data],
    'REMOTE_IO_RES req_id=16909060 io_status=0 volume_id=7 data=1024',
  ],
  [
    [encode.encodeRemoteIoResponse(3, 7n, -1, 0, noExtension)],
    'REMOTE_IO_RES req_id=3 io_status=-1 volume_id=7 data=0',
  ],
  [[encode.encodeAgentShutdown(0)], 'AGENT_SHUTDOWN data=0'],
];

describe('frames', () => {
  const ours = Buffer.concat(FRAMES.flatMap(([parts]) => parts));

  test('are the bytes that C structs of the documented layout have', () => {
    const theirs = execFileSync(peer, ['frames']);
    let at = 0;
    for (const [parts, text] of FRAMES) {
      const frame = Buffer.concat(parts);
      expect(frame.toString('hex'), text).toBe(theirs.subarray(at, at + frame.length).toString('hex'));
      at += frame.length;
    }
    expect(theirs).toHaveLength(at);
  });

  test('mean the same to a C program', () => {
    const lines = execFileSync(peer, ['fields'], { input: ours }).toString('utf8').trimEnd().split('\n');
    expect(lines.map((line) => line.replace(/ sum=\d+$/, ''))).toEqual(FRAMES.map(([, text]) => text));
  });

  test('from C mean the same to us', () => {
    const kinds: string[] = [];
    const parser = new FrameParser((message) => {
      kinds.push(message.kind);
      if (message.kind === 'protectedWrite' && message.status === 0) {
        expect(message.data.equals(data)).toBe(true);
        expect([message.volumeId, message.offset]).toEqual([0x1122334455667788n, 0x10203_04050 * 512]);
      }
      if (message.kind === 'reportVmVolumes') {
        expect(message.offersHello).toBe(false);
        expect(message.volumes.map((volume) => volume.name)).toEqual(['vda', 'daten-ä']);
      }
      return true;
    });
    const theirs = execFileSync(peer, ['frames']);
    expect(parser.consume(theirs)).toBe(theirs.length);
    expect(kinds).toEqual([
      'protectedWrite',
      'protectedWrite',
      'reportVmVolumes',
      'startProtect',
      'remoteIoRequest',
      'remoteIoRequest',
      'remoteIoResponse',
      'remoteIoResponse',
      'agentShutdown',
    ]);
  });
});

async function stateOf(one: CliProcess): Promise<string | undefined> {
  return (await readStatus(one)).volumes[0]?.state;
}

describe('a hub in C that knows the proposal alone', () => {
  test('has the disk when our agent has said goodbye, changes during the copy included', async () => {
    const image = dir.file('agent.img');
    writeFileSync(image, randomBytes(SIZE));
    await using hub = startPeer(peer, ['hub', dir.file('c-replica.img'), 'disk']);
    const port = await waitUntil(() => /^port (\d+)$/m.exec(hub.stdout())?.[1], { what: 'a port' });
    const agent = await startServe([`disk=${image}`, '--hub', `127.0.0.1:${port}`]);
    const device = await openNbdDevice(agent.urls[0]!, { logger: silentLogger });
    const sectors = SIZE / 512;
    let writes = 0;
    const asked = (): boolean => hub.stdout().includes('asked for all of it');
    while (!asked() || writes < 300) {
      const at = (writes * 7919) % (sectors - 128);
      if (writes % 7 === 0) await device.writeZeroes(at * 512, 100 * 512, false, true);
      else if (writes % 11 === 0) await device.trim(at * 512, 64 * 512, false);
      else await device.write(at * 512, randomBytes(512 * (1 + (writes % 64))), false);
      writes += 1;
    }
    await device.close();
    // A hub that says nothing of its state can't be called protected, whatever it does.
    expect(await stateOf(agent)).toBe('initial-sync');
    expect(await agent.stop()).toEqual({ code: 0, signal: null });
    expect(await hub.exited).toMatchObject({ code: 0, stderr: '' });
    expect(readFileSync(dir.file('c-replica.img')).equals(readFileSync(image))).toBe(true);
  });
});

class CAgent {
  readonly #child: ChildProcessWithoutNullStreams;
  #output = '';

  constructor(port: number, image: string, changes: number) {
    this.#child = spawn(peer, ['agent', String(port), image, 'disk', String(changes)]);
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output += chunk.toString('utf8');
      });
    }
  }

  get output(): string {
    return this.#output;
  }

  /** Lets it say goodbye. @returns its exit code */
  goodbye(): Promise<number | null> {
    const ended = new Promise<number | null>((resolve) => this.#child.once('close', resolve));
    this.#child.stdin.end();
    return ended;
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}

describe('an agent in C that knows the proposal alone', () => {
  test('is replicated by our hub, with changes during the copy and some that failed', async () => {
    const image = dir.file('c-agent.img');
    writeFileSync(image, randomBytes(SIZE));
    writeFileSync(dir.file('replica.img'), '');
    truncateSync(dir.file('replica.img'), SIZE);
    const hub = await startHub([`disk=${dir.file('replica.img')}`, '--state-dir', dir.file('state')]);
    const agent = new CAgent(hub.port, image, 500);
    try {
      await waitUntil(() => agent.output.includes('made all changes'), {
        what: 'all changes',
        timeoutMs: 30_000,
      });
      await waitUntil(async () => (await stateOf(hub)) === 'protected', {
        what: 'protected',
        timeoutMs: 30_000,
      });
      expect(await agent.goodbye(), agent.output).toBe(0);
      await waitUntil(async () => (await stateOf(hub)) === 'unprotected', { what: 'the end' });
      expect(await hub.stop()).toEqual({ code: 0, signal: null });
      expect(readFileSync(dir.file('replica.img')).equals(readFileSync(image))).toBe(true);
    } finally {
      agent.kill();
      await hub.kill();
    }
  });
});
