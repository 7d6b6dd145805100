// Peers that lie, babble, or are no agents: each loses its connection with a reason, nobody else notices, and no replica
// is touched by what was wrong.
import { randomBytes } from 'node:crypto';
import { brotliCompressSync, constants } from 'node:zlib';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { FEATURE_BROTLI, FRAME_HEADER_BYTES } from '../../src/repwire/constants.ts';
import * as encode from '../../src/repwire/encode.ts';
import { pattern } from '../support/disk-model.ts';
import { FakeAgent, filledDisk } from '../support/fake-agent.ts';
import { FakePeer } from '../support/fake-peer.ts';
import {
  checkAcks,
  closeHub,
  expectSame,
  SMALL_CHUNKS,
  type TestHub,
  testHub,
  waitForState,
} from '../support/hub-harness.ts';
import { MemoryImage } from '../support/memory-images.ts';
import { waitUntil } from '../support/wait-until.ts';

// Buffers that were given back are overwritten: whoever still uses one stores rubbish.
vi.hoisted(() => {
  process.env.REPAGENT_POISON = '1';
});

const SIZE = 64 * 1024;
const SMALL = { tuning: { sync: SMALL_CHUNKS } };
const stamp = (sequence: number) => ({ sequence, timeUs: 1 });
let test: TestHub;

afterEach(() => closeHub(test));

/** A frame with one of its fields overwritten. */
function spoil(frame: Buffer, at: number, bytes: readonly number[]): Buffer {
  const copy = Buffer.from(frame);
  Buffer.from(bytes).copy(copy, at);
  return copy;
}

const report = (offersHello = true, name = 'disk', volumeId = 1n, sizeBytes = SIZE) =>
  encode.encodeReport([{ name, volumeId, sizeBytes }], offersHello);
const hello = () => encode.encodeHello(randomBytes(16), 1n, 2000, 'vm', FEATURE_BROTLI);
const write = (sequence: number, offset = 0, data = pattern(512, 1), volumeId = 1n) =>
  Buffer.concat([encode.encodeProtectedWrite(volumeId, offset, data.length, 0, stamp(sequence), data), data]);
const dirty = (
  sequence: number,
  extents: Array<{ offset: number; length: number }> = [],
  more = false,
  id = 1n,
) => encode.encodeDirty(id, stamp(sequence), extents, more);
const ioAnswer = (requestId: number, bytes: number, volumeId = 1n) =>
  Buffer.concat([
    encode.encodeRemoteIoResponse(requestId, volumeId, 0, bytes, { sequence: 1, allZero: false }),
    Buffer.alloc(bytes, 1),
  ]);

const compress = (content: Buffer) =>
  brotliCompressSync(content, { params: { [constants.BROTLI_PARAM_QUALITY]: 1 } });
/** PACKED that tells of `contentBytes`, whatever is inside. */
const packedBytes = (bytes: Buffer, contentBytes: number) =>
  Buffer.concat([encode.encodePacked('brotli', contentBytes, bytes.length), bytes]);
const packed = (content: Buffer, contentBytes = content.length) =>
  packedBytes(compress(content), contentBytes);
const BOMB_BYTES = 64 * 1024 * 1024;
const BOMB = compress(Buffer.alloc(BOMB_BYTES));
/** Large enough to be unpacked beside the event loop. */
const largeWrite = (offset = 0) => write(2, offset, Buffer.alloc(1024 * 1024, 7));

type Phase = 'reporting' | 'greeting' | 'started' | 'reading' | 'rfc' | 'goodbye';

/** Brings a peer to a phase of its connection. */
const PHASES: Readonly<Record<Phase, () => Promise<FakePeer>>> = {
  reporting: async () => FakePeer.connect(test.port),
  greeting: async () => {
    const peer = await FakePeer.connect(test.port);
    peer.send(report());
    await peer.next('hello');
    return peer;
  },
  started: async () => {
    const peer = await PHASES.greeting();
    peer.send(hello());
    await peer.next('startProtect');
    return peer;
  },
  reading: async () => {
    const peer = await PHASES.started();
    peer.send(dirty(1, [{ offset: 0, length: SIZE }]));
    await peer.next('remoteIoRequest', 2);
    return peer;
  },
  rfc: async () => {
    const peer = await FakePeer.connect(test.port);
    peer.send(report(false));
    await peer.next('remoteIoRequest', 2);
    return peer;
  },
  goodbye: async () => {
    const peer = await PHASES.reading();
    peer.send(encode.encodeAgentShutdown(1));
    return peer;
  },
};
const ALL = Object.keys(PHASES) as Phase[];

interface Bad {
  readonly what: string;
  readonly frame: () => Buffer;
  /** In which phases it ends the connection. */
  readonly phases: readonly Phase[];
}

const except = (...phases: Phase[]): Phase[] => ALL.filter((phase) => !phases.includes(phase));

const BAD: readonly Bad[] = [
  {
    what: 'an HTTP request',
    frame: () => Buffer.from(`GET / HTTP/1.1\r\nHost: hub\r\n${'x'.repeat(80)}\r\n\r\n`),
    phases: ALL,
  },
  { what: 'garbage', frame: () => Buffer.alloc(200, 0xa5), phases: ALL },
  { what: 'a wrong first magic', frame: () => spoil(report(), 0, [0]), phases: ALL },
  { what: 'a wrong second magic', frame: () => spoil(report(), FRAME_HEADER_BYTES - 4, [0]), phases: ALL },
  { what: 'an unknown command of the RFC range', frame: () => spoil(report(), 2, [63, 0]), phases: ALL },
  { what: 'a length of 4 GiB', frame: () => spoil(write(2), 4, [255, 255, 255, 255]), phases: ALL },
  {
    what: 'a length above the limit of its command',
    frame: () => spoil(encode.encodeAgentShutdown(0), 4, [1]),
    phases: ALL,
  },
  { what: 'a write above 32 MiB', frame: () => spoil(write(2), 4, [1, 0, 0, 2]), phases: ALL },
  { what: 'a report of -1 volumes', frame: () => spoil(report(), 8, [255, 255, 255, 255]), phases: ALL },
  {
    what: 'a report of a name without an end',
    frame: () => spoil(report(), FRAME_HEADER_BYTES, Array(256).fill(65)),
    phases: ALL,
  },
  {
    what: 'a report of a name that is not UTF-8',
    frame: () => spoil(report(), FRAME_HEADER_BYTES, [0xc3, 0x28]),
    phases: ALL,
  },
  {
    what: 'START_PROTECT, which is for agents',
    frame: () => encode.encodeStartProtect(1n, 'disk', null),
    phases: ALL,
  },
  {
    what: 'REMOTE_IO_REQ, which is for agents',
    frame: () => encode.encodeRemoteIoRequest(1, 1n, 0, 512, true),
    phases: ALL,
  },
  {
    what: 'an ACK, which is for agents',
    frame: () => encode.encodeAck(1n, 1, 'protected', 0, 0),
    phases: ALL,
  },
  { what: 'VOLUME_ERROR, which is for agents', frame: () => encode.encodeVolumeError(1n, 'no'), phases: ALL },
  { what: 'a second HELLO', frame: hello, phases: except('greeting') },
  { what: 'HELLO of version 0', frame: () => spoil(hello(), 8, [0, 0, 0, 0]), phases: ALL },
  { what: 'a write of an unknown volume', frame: () => write(2, 0, pattern(512, 1), 99n), phases: ALL },
  { what: 'a write beyond the end', frame: () => write(2, SIZE), phases: ALL },
  { what: 'a write across the end', frame: () => write(2, SIZE - 512, pattern(1024, 1)), phases: ALL },
  { what: 'a write whose size is not its payload', frame: () => spoil(write(2), 24, [2]), phases: ALL },
  { what: 'a write with a wrong checksum', frame: () => spoil(write(2), 48, [1, 2, 3, 4]), phases: ALL },
  {
    what: 'a failed write with a payload',
    frame: () => spoil(write(2), 28, [255, 255, 255, 255]),
    phases: ALL,
  },
  { what: 'a write before the list of what is dirty', frame: () => write(1), phases: ['started'] },
  { what: 'a write without a sequence', frame: () => write(0), phases: except('rfc') },
  { what: 'an entry that skips one', frame: () => write(3), phases: except('rfc') },
  { what: 'an entry that was there already', frame: () => write(1), phases: except('rfc') },
  {
    what: 'zeroes beyond the end',
    frame: () => encode.encodeProtectedZero(1n, 0, SIZE + 512, true, stamp(2)),
    phases: ALL,
  },
  {
    what: 'zeroes of an unknown kind',
    frame: () => spoil(encode.encodeProtectedZero(1n, 0, 512, true, stamp(2)), 48, [9]),
    phases: ALL,
  },
  {
    what: 'a flush of an unknown volume',
    frame: () => encode.encodeProtectedFlush(9n, stamp(2)),
    phases: ALL,
  },
  {
    what: 'a dirty range beyond the end',
    frame: () => dirty(2, [{ offset: SIZE, length: 512 }]),
    phases: ALL,
  },
  { what: 'a dirty list of an unknown volume', frame: () => dirty(2, [], false, 9n), phases: ALL },
  {
    what: 'more extents than were sent',
    frame: () => spoil(dirty(2, [{ offset: 0, length: 512 }]), 32, [2]),
    phases: ALL,
  },
  {
    what: 'an entry inside a dirty list',
    frame: () => Buffer.concat([dirty(2, [], true), write(3)]),
    phases: except('rfc'),
  },
  {
    what: 'another dirty list inside a dirty list',
    frame: () => Buffer.concat([dirty(2, [], true), dirty(3)]),
    phases: ALL,
  },
  { what: 'a bomb', frame: () => packedBytes(BOMB, 4096), phases: ALL },
  {
    what: 'a bomb that names almost all it may',
    frame: () => packedBytes(BOMB, 4 * 1024 * 1024),
    phases: ALL,
  },
  {
    what: 'a bomb that says so',
    frame: () => packedBytes(BOMB, BOMB_BYTES),
    phases: ALL,
  },
  {
    what: 'PACKED of rubbish',
    frame: () => Buffer.concat([encode.encodePacked('brotli', 4096, 99), Buffer.alloc(99, 0xff)]),
    phases: ALL,
  },
  { what: 'PACKED of less than it names', frame: () => packed(write(2), 4096), phases: ALL },
  {
    what: 'a large PACKED of less than it names',
    frame: () => packed(largeWrite(), 2 * 1024 * 1024),
    phases: ALL,
  },
  {
    what: 'a large PACKED that ends within a frame',
    frame: () => packed(largeWrite().subarray(0, -1)),
    phases: ALL,
  },
  { what: 'a large PACKED of a write beyond the end', frame: () => packed(largeWrite(SIZE)), phases: ALL },
  {
    what: 'PACKED of what must not be packed',
    frame: () => packed(encode.encodePing('ping', 1n, 1)),
    phases: ALL,
  },
  { what: 'PACKED of a list of dirty ranges', frame: () => packed(dirty(2)), phases: ALL },
  {
    what: 'PACKED of PACKED',
    frame: () => packed(packed(write(2, 0, Buffer.alloc(4096)))),
    phases: ALL,
  },
  {
    what: 'PACKED of an entry that skips one',
    frame: () => packed(write(3, 0, Buffer.alloc(4096))),
    phases: ALL,
  },
  { what: 'an answer to nothing', frame: () => ioAnswer(999, 512), phases: except('goodbye') },
  {
    what: 'an answer that is too short',
    frame: () => ioAnswer(1, 512),
    phases: ['reading', 'rfc', 'goodbye'],
  },
  {
    what: 'an answer that is too long',
    frame: () => ioAnswer(1, 5 * 4096),
    phases: ['reading', 'rfc', 'goodbye'],
  },
  {
    what: 'an answer for another volume',
    frame: () => ioAnswer(1, 4 * 4096, 2n),
    phases: ['reading', 'rfc', 'goodbye'],
  },
  {
    what: 'the same answer twice',
    frame: () => Buffer.concat([ioAnswer(1, 4 * 4096), ioAnswer(1, 4 * 4096)]),
    phases: ['reading', 'rfc', 'goodbye'],
  },
  {
    what: 'a digest that nobody asked for',
    frame: () => encode.encodeHashResponse(1, 1n, 0, 1, Buffer.alloc(32)),
    phases: ALL,
  },
  {
    what: 'a digest of 31 bytes',
    frame: () => encode.encodeHashResponse(1, 1n, 0, 1, Buffer.alloc(31)),
    phases: ALL,
  },
  {
    what: 'the same volume with another size',
    frame: () => report(true, 'disk', 1n, SIZE * 2),
    phases: ['started', 'reading'],
  },
  {
    what: 'another volume with the same id',
    frame: () => report(true, 'other', 1n),
    phases: ['started', 'reading'],
  },
];

describe('what no agent may send', () => {
  for (const { what, frame, phases } of BAD) {
    it(`ends the connection: ${what}`, async () => {
      test = await testHub({ disk: SIZE }, SMALL);
      for (const phase of phases) {
        const before = Buffer.from(test.image().visible);
        const peer = await PHASES[phase]();
        peer.send(frame());
        await peer.closed().catch(() => expect.fail(`${what} in the phase ${phase} was taken`));
        await waitUntil(
          () => !['initial-sync', 'resync', 'converging'].includes(test.hub.status()[0]!.state),
          {
            what: 'the volume to be free',
          },
        );
        // A repeated answer is good the first time.
        if (!what.includes('twice') && !what.includes('inside')) {
          expectSame(test.image().visible, before, `the replica after ${what} in the phase ${phase}`);
        }
      }
      expect(test.hub.status()[0]).toMatchObject({
        lastError: expect.stringMatching(/^the agent broke the protocol/),
      });
      expect(test.hub.status()[0]!.state).not.toBe('protected');
    });
  }

  it('is not held against anybody else', async () => {
    test = await testHub({ disk: SIZE, good: SIZE }, SMALL);
    const agent = new FakeAgent({ volumes: { good: filledDisk(SIZE) }, chunkBytes: 4096 });
    checkAcks(agent, (name) => test.image(name));
    await agent.connect(test.port);
    for (const { frame, phases } of BAD) {
      const peer = await PHASES[phases[0]!]();
      peer.send(frame());
      agent.write('good', 512, pattern(1024, 1 + agent.sequence));
      await peer.closed();
    }
    await agent.waitAcked('good');
    expectSame(test.image('good').visible, agent.volume('good').disk, 'replica');
    expect(agent.volume('good').starts).toEqual([null]);
    agent.drop();
  });
});

describe('frames that came before a bad one', () => {
  it('are applied, so that the position told at the next start is true', async () => {
    test = await testHub({ disk: SIZE }, SMALL);
    const agent = new FakeAgent({ volumes: { disk: filledDisk(SIZE) }, chunkBytes: 4096 });
    checkAcks(agent, (name) => test.image(name));
    const peer = await agent.connect(test.port);
    await agent.waitAcked();
    agent.holdStream = true;
    agent.write('disk', 0, pattern(4096, 1));
    const last = agent.write('disk', 8192, pattern(4096, 2));
    // Good entries and garbage together, in a buffer that the hub gives back when it ends the connection.
    const frames = Buffer.concat([...agent.stream.splice(0).flat(), Buffer.alloc(64, 0xff)]);
    peer.isTorn = true;
    peer.send(frames.subarray(0, 100), frames.subarray(100));
    await peer.closed();
    agent.holdStream = false;
    await agent.connect(test.port);
    await agent.waitAcked();
    expect(agent.volume().starts).toEqual([null, last]);
    expectSame(test.image().visible, agent.volume().disk, 'replica');
    agent.drop();
  });
});

describe('peers that take without giving', () => {
  it('who never read what they ask for lose their connection', async () => {
    test = await testHub({ disk: SIZE }, { tuning: { ...SMALL.tuning, maxUnsentBytes: 64 * 1024 } });
    const peer = await PHASES.reading();
    peer.pause(true);
    const pings = Buffer.concat(
      Array.from({ length: 2000 }, (_, i) => encode.encodePing('ping', BigInt(i), 1)),
    );
    let gone = false;
    for (let i = 0; i < 400 && !gone; i += 1) {
      peer.send(pings);
      await new Promise((resolve) => setImmediate(resolve));
      gone = test.hub.status()[0]!.state === 'degraded';
    }
    await waitForState(test, 'degraded');
    expect(test.hub.status()[0]!.lastError).toBe(
      'the agent leaves more than 65536 bytes unread; the replica is not complete',
    );
    peer.destroy();
  });

  it('commands of a later version are passed over', async () => {
    test = await testHub({ disk: SIZE }, SMALL);
    const peer = await PHASES.reading();
    const later = spoil(encode.encodePing('ping', 1n, 1), 2, [200, 0]);
    peer.send(later, encode.encodePing('ping', 5n, 1));
    expect((await peer.next('pong')).token).toBe(5n);
    peer.destroy();
  });

  it('an RFC agent is never sent a command that it does not know', async () => {
    test = await testHub({ disk: SIZE }, { ...SMALL, pingIntervalMs: 10 });
    const peer = await FakePeer.connect(test.port);
    peer.send(report(false), report(false, 'unknown', 2n));
    await peer.next('remoteIoRequest', 2);
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(new Set(peer.received.map((message) => message.kind))).toEqual(
      new Set(['startProtect', 'remoteIoRequest']),
    );
    peer.destroy();
  });
});

describe('volumes that cannot be replicated', () => {
  it('are refused with the reason and the way out, on both sides', async () => {
    test = await testHub({ disk: SIZE }, SMALL);
    const agent = new FakeAgent({ volumes: { disk: SIZE * 2, other: SIZE } });
    await agent.connect(test.port);
    await waitUntil(() => agent.volume('disk').errors.length + agent.volume('other').errors.length === 2, {
      what: 'two errors',
    });
    expect(agent.volume('disk').errors).toEqual([
      'volume disk has 131072 bytes, its replica disk has 65536 bytes; on the hub: truncate -s 131072 disk',
    ]);
    expect(agent.volume('other').errors).toEqual([
      'no image is paired with volume other; on the hub: add other=PATH, or use --store DIR',
    ]);
    expect(test.hub.status()).toMatchObject([
      { name: 'disk', vmName: 'vm', state: 'failed', lastError: agent.volume('disk').errors[0] },
      { name: 'other', vmName: 'vm', state: 'failed', lastError: agent.volume('other').errors[0] },
    ]);
    expect(test.image().isOpen).toBe(false);
    // The operator follows the advice; the agent reports again.
    test.images.images.set('disk', new MemoryImage(SIZE * 2));
    agent.report();
    await agent.waitAcked('disk');
    expect(agent.volume('other').errors).toHaveLength(2);
    agent.drop();
  });

  it('for their size: none, no whole sectors, or more than is supported', async () => {
    test = await testHub({ none: 512, odd: 512, huge: 512 });
    const peer = await FakePeer.connect(test.port);
    const sizes = { none: 0, odd: 1000, huge: 2 ** 52 };
    const volumes = Object.entries(sizes).map(([name, sizeBytes], i) => ({
      name,
      volumeId: BigInt(i + 1),
      sizeBytes,
    }));
    peer.send(encode.encodeReport(volumes, true));
    await peer.next('hello');
    peer.send(hello());
    await peer.next('volumeError', 2);
    expect(peer.of('volumeError').map(({ text }) => text)).toEqual([
      'volume none has 0 bytes, which is no whole number of sectors',
      'volume odd has 1000 bytes, which is no whole number of sectors',
      'volume huge has 4 PiB; at most 64 TiB are replicated',
    ]);
    peer.destroy();
  });
});
