// An agent as the hub should meet it, small enough to be right by looking at it: disks in memory, an ordered stream, an
// exact dirty map, and a history that tells what a disk held at any position of the stream. One object is one life of
// an agent over any number of connections. What it sends, and when, a test can take into its own hands.
import { createHash, randomBytes } from 'node:crypto';
import { brotliCompressSync } from 'node:zlib';
import { DIRTY_GRANULARITY_BYTES } from '../../src/base/limits.ts';
import { FEATURE_BROTLI, HASH_STATUS, REP_CMD } from '../../src/repwire/constants.ts';
import * as encode from '../../src/repwire/encode.ts';
import type { Ack, DiskRange, HashRequest, RemoteIoRequest, RepMessage } from '../../src/repwire/messages.ts';
import { FakePeer } from './fake-peer.ts';
import { waitUntil } from './wait-until.ts';

const SECTOR = 512;
const MAX_EXTENTS = 64;

interface HistoryEntry {
  /** The stream's entry by which the hub can know of it; null while it is told nowhere. */
  sequence: number | null;
  readonly offset: number;
  readonly data: Buffer;
}

export class FakeVolume {
  readonly name: string;
  readonly id: bigint;
  readonly disk: Buffer;
  readonly #initial: Buffer;
  readonly history: HistoryEntry[] = [];
  /** Chunks that the hub lacks and the stream won't bring, and chunks by the entry that brings them. */
  readonly base = new Set<number>();
  readonly sent = new Map<number, number>();
  readonly acks: Ack[] = [];
  readonly errors: string[] = [];
  readonly starts: Array<number | null> = [];
  lastSequence = 0;
  ackedSequence = 0;
  /** Changes go to the stream; off without a connection, before START_PROTECT, and in an overflow. */
  streamOn = false;
  /** START_PROTECT came on this connection. */
  isStarted = false;

  constructor(name: string, id: bigint, disk: Buffer) {
    this.name = name;
    this.id = id;
    this.disk = disk;
    this.#initial = Buffer.from(disk);
  }

  get state(): string | undefined {
    return this.acks.at(-1)?.state;
  }

  /** What the disk held when everything up to `sequence`, and nothing later, was told to the hub. */
  diskAt(sequence: number): Buffer {
    const disk = Buffer.from(this.#initial);
    // In the order in which things happened, told or not: a later change of a place hides an earlier one.
    for (const entry of this.history) {
      if (entry.sequence !== null && entry.sequence <= sequence) entry.data.copy(disk, entry.offset);
    }
    return disk;
  }
}

export interface FakeAgentOptions {
  readonly volumes: Readonly<Record<string, number | Buffer>>;
  /** Speaks the RFC alone. */
  readonly rfc?: boolean;
  readonly vmName?: string;
  readonly id?: Buffer;
  readonly chunkBytes?: number;
  /** Its frames arrive in halves. */
  readonly isTorn?: boolean;
  /** What leaves together is packed, where that may be and helps. */
  readonly isPacking?: boolean;
}

const PACKABLE: readonly number[] = [
  REP_CMD.PROTECTED_WRITE,
  REP_CMD.PROTECTED_ZERO,
  REP_CMD.PROTECTED_FLUSH,
  REP_CMD.REMOTE_IO_RES,
];

interface HeldRead {
  readonly request: RemoteIoRequest;
  /** Taken when the request came; the answer's as-of is that of the moment it is sent. */
  readonly data: Buffer;
}

export class FakeAgent {
  readonly volumes = new Map<string, FakeVolume>();
  readonly id: Buffer;
  readonly epoch = randomBytes(8).readBigUInt64LE();
  readonly rfc: boolean;
  readonly vmName: string;
  readonly #chunkBytes: number;
  readonly #isTorn: boolean;
  readonly #isPacking: boolean;
  /** PACKED frames that left. */
  packedFrames = 0;
  peer: FakePeer | undefined;
  sequence = 0;
  /** While true, entries and answers wait until the test sends them. */
  holdStream = false;
  holdReads = false;
  readonly stream: Buffer[][] = [];
  readonly reads: HeldRead[] = [];
  /** Decides about a read: an answer of its own, or undefined for the right one. */
  readFault: ((request: RemoteIoRequest) => 'fail' | 'ignore' | undefined) | undefined;
  hashFault: ((request: HashRequest) => 'busy' | 'fail' | 'ignore' | 'stale' | undefined) | undefined;
  /** VOLUME_ERRORs that arrived since the last connection began. */
  errorsSinceConnect = 0;
  onAck: ((volume: FakeVolume, ack: Ack) => void) | undefined;
  #resumedWith = new Map<string, string>();
  #hub = '';

  constructor(options: FakeAgentOptions) {
    this.rfc = options.rfc ?? false;
    this.vmName = options.vmName ?? 'vm';
    this.id = options.id ?? randomBytes(16);
    this.#isTorn = options.isTorn ?? false;
    this.#isPacking = options.isPacking ?? false;
    this.#chunkBytes = options.chunkBytes ?? DIRTY_GRANULARITY_BYTES;
    let id = 0n;
    for (const [name, disk] of Object.entries(options.volumes)) {
      id += 1n;
      this.volumes.set(name, new FakeVolume(name, id, typeof disk === 'number' ? Buffer.alloc(disk) : disk));
    }
  }

  volume(name = 'disk'): FakeVolume {
    const volume = this.volumes.get(name);
    if (!volume) throw new Error(`the fake agent has no volume ${name}`);
    return volume;
  }

  /** Dials and reports; the rest of the handshake goes by itself. */
  async connect(port: number, cutAfterBytes = Number.POSITIVE_INFINITY): Promise<FakePeer> {
    const peer = await FakePeer.connect(port);
    peer.cutAfterBytes = cutAfterBytes;
    peer.isTorn = this.#isTorn;
    this.peer = peer;
    this.errorsSinceConnect = 0;
    peer.onMessage = (message) => {
      if (this.peer === peer) this.#handle(peer, message);
    };
    peer.onClose = () => {
      if (this.peer === peer) this.#linkLost();
    };
    this.report();
    return peer;
  }

  report(): void {
    const volumes = [...this.volumes.values()].map((volume) => ({
      name: volume.name,
      volumeId: volume.id,
      sizeBytes: volume.disk.length,
    }));
    this.peer?.send(encode.encodeReport(volumes, !this.rfc));
  }

  /** Cuts the connection without a goodbye. */
  drop(): void {
    const peer = this.peer;
    this.#linkLost();
    peer?.destroy();
  }

  async goodbye(): Promise<void> {
    this.peer?.send(encode.encodeAgentShutdown(this.rfc ? 0 : this.sequence));
    this.peer?.end();
    await this.peer?.closed();
  }

  write(name: string, offset: number, data: Buffer): number {
    const volume = this.volume(name);
    data.copy(volume.disk, offset);
    return this.#changed(volume, offset, data, (stamp) => [
      encode.encodeProtectedWrite(volume.id, offset, data.length, 0, stamp, data),
      data,
    ]);
  }

  zero(name: string, offset: number, length: number, trim = false): number {
    const volume = this.volume(name);
    const data = Buffer.alloc(length);
    data.copy(volume.disk, offset);
    return this.#changed(volume, offset, data, (stamp) =>
      this.rfc
        ? [encode.encodeProtectedWrite(volume.id, offset, length, 0, stamp, data), data]
        : [encode.encodeProtectedZero(volume.id, offset, length, trim, stamp)],
    );
  }

  flush(name: string): void {
    const volume = this.volume(name);
    if (this.rfc || !volume.streamOn) return;
    const stamp = this.#stamp();
    this.#enqueue(volume, stamp.sequence, [encode.encodeProtectedFlush(volume.id, stamp)]);
  }

  /** A write that failed: only its first half reached the disk, and nobody can know that. */
  failedWrite(name: string, offset: number, data: Buffer): number {
    const volume = this.volume(name);
    const half = data.subarray(0, Math.floor(data.length / 2 / SECTOR) * SECTOR);
    half.copy(volume.disk, offset);
    return this.#changed(
      volume,
      offset,
      half,
      (stamp) => [encode.encodeProtectedWrite(volume.id, offset, data.length, -1, stamp, data)],
      data.length,
    );
  }

  /** The queue is full: from here on changes of the volume are only remembered. */
  overflow(name: string): void {
    this.volume(name).streamOn = false;
  }

  endOverflow(name: string): void {
    const volume = this.volume(name);
    if (!volume.streamOn && volume.isStarted) this.#streamOn(volume);
    this.#answerReads();
  }

  /** Sends the first `count` entries that wait. */
  sendStream(count = Number.POSITIVE_INFINITY): void {
    let together: Buffer[] = [];
    for (const frames of this.stream.splice(0, Math.min(count, this.stream.length))) {
      if (this.#isPacking && PACKABLE.includes(frames[0]!.readUInt16LE(2))) {
        together.push(...frames);
        continue;
      }
      this.#sendPacked(together);
      together = [];
      this.peer?.send(...frames);
    }
    this.#sendPacked(together);
  }

  /** Answers the read at `index` of those that wait. */
  answerRead(index = 0): void {
    const [read] = this.reads.splice(index, 1);
    if (read) this.#answerRead(read);
  }

  async waitFor(state: string, name = 'disk', timeoutMs = 10_000): Promise<void> {
    const volume = this.volume(name);
    await waitUntil(() => volume.state === state, {
      what: `${name} to be ${state}, not ${volume.state}`,
      timeoutMs,
      intervalMs: 2,
    });
  }

  /** Waits until everything told so far is acknowledged. */
  async waitAcked(name = 'disk', timeoutMs = 10_000): Promise<void> {
    const volume = this.volume(name);
    await waitUntil(() => volume.ackedSequence >= volume.lastSequence && volume.state === 'protected', {
      what: `${name} to be acknowledged up to ${volume.lastSequence}, not ${volume.ackedSequence}`,
      timeoutMs,
      intervalMs: 2,
    });
  }

  #handle(peer: FakePeer, message: RepMessage): void {
    switch (message.kind) {
      case 'hello':
        this.#hub = `${message.id.toString('hex')}/${message.epoch}`;
        peer.send(
          encode.encodeHello(this.id, this.epoch, 2000, this.vmName, this.#isPacking ? FEATURE_BROTLI : 0),
        );
        return;
      case 'startProtect':
        this.#start(message.name, message.resumeSequence);
        return;
      case 'remoteIoRequest':
        this.#readAsked(message);
        return;
      case 'ack':
        this.#acked(message);
        return;
      case 'hashRequest':
        this.#hash(message);
        return;
      case 'ping':
        peer.send(encode.encodePing('pong', message.token, Date.now() * 1000));
        return;
      case 'volumeError':
        this.#byId(message.volumeId).errors.push(message.text);
        this.errorsSinceConnect += 1;
        return;
      default:
        return;
    }
  }

  #start(name: string, resume: number | null): void {
    const volume = this.volume(name);
    volume.starts.push(resume);
    volume.isStarted = true;
    if (this.rfc) {
      volume.streamOn = true;
      return;
    }
    if (resume !== null && this.#resumedWith.get(name) === this.#hub) {
      for (const [chunk, sequence] of volume.sent) {
        if (sequence <= resume) continue;
        volume.sent.delete(chunk);
        volume.base.add(chunk);
      }
    } else {
      volume.sent.clear();
      for (let chunk = 0; chunk * this.#chunkBytes < volume.disk.length; chunk += 1) volume.base.add(chunk);
    }
    this.#resumedWith.set(name, this.#hub);
    this.#streamOn(volume);
  }

  /** Tells the hub what it lacks, as one entry, and mirrors from here on. */
  #streamOn(volume: FakeVolume): void {
    const stamp = this.#stamp();
    for (const entry of volume.history) entry.sequence ??= stamp.sequence;
    const extents = this.#extents(volume);
    const frames: Buffer[] = [];
    do {
      const some = extents.splice(0, MAX_EXTENTS);
      frames.push(encode.encodeDirty(volume.id, stamp, some, extents.length > 0));
    } while (extents.length > 0);
    for (const chunk of volume.base) volume.sent.set(chunk, stamp.sequence);
    volume.base.clear();
    volume.streamOn = true;
    this.#enqueue(volume, stamp.sequence, frames);
  }

  #extents(volume: FakeVolume): DiskRange[] {
    return [...volume.base]
      .sort((a, b) => a - b)
      .map((chunk) => {
        const offset = chunk * this.#chunkBytes;
        return { offset, length: Math.min(this.#chunkBytes, volume.disk.length - offset) };
      });
  }

  #changed(
    volume: FakeVolume,
    offset: number,
    data: Buffer,
    frames: (stamp: encode.Stamp) => Buffer[],
    length = data.length,
  ): number {
    const entry: HistoryEntry = { sequence: null, offset, data: Buffer.from(data) };
    volume.history.push(entry);
    const first = Math.floor(offset / this.#chunkBytes);
    const end = Math.ceil((offset + length) / this.#chunkBytes);
    if (!volume.streamOn) {
      for (let chunk = first; chunk < end; chunk += 1) volume.base.add(chunk);
      return 0;
    }
    const stamp = this.#stamp();
    entry.sequence = stamp.sequence;
    for (let chunk = first; chunk < end; chunk += 1) volume.sent.set(chunk, stamp.sequence);
    this.#enqueue(volume, stamp.sequence, frames(this.rfc ? encode.NO_STAMP : stamp));
    return stamp.sequence;
  }

  #stamp(): encode.Stamp {
    this.sequence += 1;
    return { sequence: this.sequence, timeUs: Date.now() * 1000 };
  }

  #enqueue(volume: FakeVolume, sequence: number, frames: Buffer[]): void {
    volume.lastSequence = sequence;
    this.stream.push(frames.map((frame) => Buffer.from(frame)));
    if (!this.holdStream) this.sendStream();
  }

  #readAsked(request: RemoteIoRequest): void {
    const fault = this.readFault?.(request);
    if (fault === 'ignore') return;
    if (fault === 'fail') {
      this.peer?.send(
        encode.encodeRemoteIoResponse(request.requestId, request.volumeId, -1, 0, NO_EXTENSION),
      );
      return;
    }
    const { disk } = this.#byId(request.volumeId);
    const offset = Number(request.offsetSectors) * SECTOR;
    const data = Buffer.from(disk.subarray(offset, offset + request.sizeSectors * SECTOR));
    this.reads.push({ request, data });
    if (!this.holdReads) this.#answerReads();
  }

  /** Not those of volumes whose changes are not mirrored: no position of the stream fits what they hold. */
  #answerReads(): void {
    if (this.holdReads) return;
    for (const read of this.reads.splice(0)) this.#answerRead(read);
  }

  #answerRead(read: HeldRead): void {
    const { request } = read;
    const volume = this.#byId(request.volumeId);
    if (!volume.streamOn) {
      this.reads.push(read);
      return;
    }
    const allZero = !this.rfc && read.data.equals(Buffer.alloc(read.data.length));
    const extension = this.rfc ? NO_EXTENSION : { sequence: this.sequence, allZero };
    const payloadBytes = allZero ? 0 : read.data.length;
    const head = encode.encodeRemoteIoResponse(
      request.requestId,
      request.volumeId,
      0,
      payloadBytes,
      extension,
    );
    this.#sendPacked(allZero ? [head] : [head, read.data]);
  }

  #sendPacked(frames: readonly Buffer[]): void {
    const content = Buffer.concat(frames);
    const packed = this.#isPacking && !this.rfc ? brotliCompressSync(content) : content;
    if (packed.length >= content.length) {
      if (content.length > 0) this.peer?.send(content);
      return;
    }
    this.packedFrames += 1;
    this.peer?.send(encode.encodePacked('brotli', content.length, packed.length), packed);
  }

  #acked(ack: Ack): void {
    const volume = this.#byId(ack.volumeId);
    volume.acks.push(ack);
    this.onAck?.(volume, ack);
    volume.ackedSequence = Math.max(volume.ackedSequence, ack.sequence);
    for (const [chunk, sequence] of volume.sent) if (sequence <= ack.sequence) volume.sent.delete(chunk);
  }

  #hash(request: HashRequest): void {
    const fault = this.hashFault?.(request);
    if (fault === 'ignore') return;
    const volume = this.#byId(request.volumeId);
    const offset = Number(request.offsetSectors) * SECTOR;
    // A stale digest is of other bytes, and says that it is of another position.
    const isStale = fault === 'stale';
    const end = offset + request.sizeSectors * SECTOR;
    const bytes = isStale ? Buffer.alloc(0) : volume.disk.subarray(offset, end);
    const position = isStale ? this.sequence - 1 : this.sequence;
    const status =
      fault === 'fail'
        ? HASH_STATUS.FAILED
        : fault === 'busy' || !volume.streamOn
          ? HASH_STATUS.BUSY
          : HASH_STATUS.OK;
    const digest = status === HASH_STATUS.OK ? createHash('sha256').update(bytes).digest() : Buffer.alloc(0);
    // In stream order, but no entry of its own.
    this.stream.push([encode.encodeHashResponse(request.requestId, volume.id, status, position, digest)]);
    if (!this.holdStream) this.sendStream();
  }

  #byId(id: bigint): FakeVolume {
    for (const volume of this.volumes.values()) if (volume.id === id) return volume;
    throw new Error(`the hub spoke of volume ${id}, which the agent doesn't have`);
  }

  #linkLost(): void {
    this.peer = undefined;
    this.stream.length = 0;
    this.reads.length = 0;
    for (const volume of this.volumes.values()) {
      volume.streamOn = false;
      volume.isStarted = false;
      volume.acks.length = 0;
    }
  }
}

const NO_EXTENSION = { sequence: 0, allZero: false };

/** A disk of `sizeBytes` whose every 64 KiB differ, with some of them zero. */
export function filledDisk(sizeBytes: number, seed = 1): Buffer {
  const disk = Buffer.alloc(sizeBytes);
  const piece = 64 * 1024;
  for (let at = 0; at < sizeBytes; at += piece) {
    const end = Math.min(at + piece, sizeBytes);
    if ((at / piece + seed) % 3 === 0) continue;
    createHash('sha256').update(`${seed}/${at}`).digest().copy(disk, at);
    disk.fill(disk.subarray(at, Math.min(at + 32, end)), at, end);
  }
  return disk;
}
