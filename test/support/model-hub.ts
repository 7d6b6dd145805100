// The simplest hub that follows the protocol: applies the stream as it comes, reads what is dirty, acknowledges. It
// keeps whole disks in memory and checks at every message what must hold. Tests make it slow, forgetful, or dead.
import { DIRTY_GRANULARITY_BYTES as CHUNK } from '../../src/base/limits.ts';
import * as encode from '../../src/repwire/encode.ts';
import type { DiskRange, RemoteIoResponse, RepMessage } from '../../src/repwire/messages.ts';
import type { FakeConnection, FakeHub } from './fake-hub.ts';
import { PrefixCheck, type TruthDevice } from './truth-device.ts';

const SECTOR = 512;

interface Read extends DiskRange {
  readonly requestId: number;
  /** Sectors of which newer data came by the stream. */
  readonly superseded: Set<number>;
}

export class ModelReplica {
  readonly name: string;
  readonly disk: Buffer;
  readonly check: PrefixCheck;
  readonly pending = new Set<number>();
  reads: Read[] = [];
  /** The stream must have come so far before what was read is consistent. */
  target = 0;
  acked = 0;
  /** Whether the hub keeps anything of it. */
  known = false;
  /** Content is junk until the first list of a copy from nothing has come. */
  spoil = false;

  constructor(name: string, truth: TruthDevice) {
    this.name = name;
    this.disk = Buffer.alloc(truth.sizeBytes, 0xee);
    this.check = new PrefixCheck(truth, this.disk);
  }

  get chunks(): number {
    return Math.ceil(this.disk.length / CHUNK);
  }

  write(offset: number, data: Buffer): void {
    data.copy(this.disk, offset);
    this.#changed(offset, data.length);
  }

  zero(offset: number, length: number): void {
    this.disk.fill(0, offset, offset + length);
    this.#changed(offset, length);
  }

  /** The range is to be read (again): an answer on its way may be older than what is asked for now, and come later. */
  unread(offset: number, length: number): void {
    const first = Math.floor(offset / CHUNK);
    const last = Math.floor((offset + length - 1) / CHUNK);
    for (let chunk = first; chunk <= last; chunk += 1) this.pending.add(chunk);
    this.#supersede(first * CHUNK, (last + 1 - first) * CHUNK);
  }

  everything(): void {
    this.reads = [];
    this.unread(0, this.disk.length);
    this.target = 0;
  }

  /** Reads that will not be answered. */
  dropReads(): void {
    for (const read of this.reads.splice(0)) this.unread(read.offset, read.length);
  }

  answered(response: RemoteIoResponse): void {
    const at = this.reads.findIndex((read) => read.requestId === response.requestId);
    const read = this.reads[at];
    if (!read) throw new Error(`nobody asked for ${response.requestId}`);
    this.reads.splice(at, 1);
    if (response.status !== 0) {
      this.unread(read.offset, read.length);
      return;
    }
    this.target = Math.max(this.target, response.sequence);
    const data = response.allZero ? Buffer.alloc(read.length) : response.data;
    if (data.length !== read.length) throw new Error(`${data.length} bytes for a read of ${read.length}`);
    for (let sector = read.offset; sector < read.offset + read.length; sector += SECTOR) {
      if (read.superseded.has(sector)) continue;
      data.copy(this.disk, sector, sector - read.offset, sector - read.offset + SECTOR);
    }
    this.check.replicaChanged(read.offset, read.length);
  }

  #changed(offset: number, length: number): void {
    this.check.replicaChanged(offset, length);
    this.#supersede(offset, length);
  }

  #supersede(offset: number, length: number): void {
    for (const read of this.reads) {
      const from = Math.max(offset, read.offset);
      const to = Math.min(offset + length, read.offset + read.length);
      for (let sector = from; sector < to; sector += SECTOR) read.superseded.add(sector);
    }
  }
}

export class ModelHub {
  readonly hub: FakeHub;
  readonly replicas = new Map<string, ModelReplica>();
  /** What went wrong first. */
  failure: string | undefined;
  readsOn = true;
  acksOn = true;
  /** Entries of the stream that are complete, over connections of one life of the agent. */
  received = 0;
  #isFirst = true;
  #agentEpoch: bigint | undefined;
  #lastRequest = 0;
  #busy = false;

  constructor(hub: FakeHub) {
    this.hub = hub;
    hub.onMessage = (connection, message) => this.#guarded(connection, message);
    hub.resumeSequence = (name) => (this.replicas.get(name)?.known ? this.received : null);
  }

  add(name: string, truth: TruthDevice): ModelReplica {
    const replica = new ModelReplica(name, truth);
    this.replicas.set(name, replica);
    return replica;
  }

  /** Forgets everything, as a hub does that was killed. */
  reborn(): void {
    this.hub.reborn();
    this.#agentEpoch = undefined;
    for (const replica of this.replicas.values()) replica.known = false;
  }

  isProtected(replica: ModelReplica): boolean {
    const { target, pending, reads, spoil } = replica;
    return !spoil && pending.size === 0 && reads.length === 0 && this.received >= target;
  }

  /** Whether everything was read and applied. */
  get isSettled(): boolean {
    return [...this.replicas.values()].every((replica) => this.isProtected(replica));
  }

  /** Asks and acknowledges. To be called when a switch was turned. */
  pump(): void {
    const connection = this.hub.connections.at(-1);
    if (!connection || connection.ended || connection.started.size === 0) return;
    for (const replica of this.replicas.values()) {
      const id = connection.started.get(replica.name);
      if (id === undefined) continue;
      if (this.readsOn) this.#ask(connection, replica, id);
      if (!this.acksOn || this.hub.mode !== 'hello') continue;
      const isProtected = this.isProtected(replica);
      if (isProtected) replica.acked = this.received;
      const done = replica.disk.length - Math.min(replica.disk.length, replica.pending.size * CHUNK);
      connection.send(
        encode.encodeAck(id, replica.acked, isProtected ? 'protected' : 'resync', done, replica.disk.length),
      );
    }
  }

  #guarded(connection: FakeConnection, message: RepMessage): undefined {
    if (connection !== this.hub.connections.at(-1)) return;
    try {
      this.#take(connection, message);
    } catch (error) {
      this.failure ??= String(error);
    }
    if (!this.#busy) {
      this.#busy = true;
      setImmediate(() => {
        this.#busy = false;
        this.pump();
      });
    }
  }

  #take(connection: FakeConnection, message: RepMessage): void {
    switch (message.kind) {
      case 'reportVmVolumes':
        if (connection.reports.length > 1) return;
        this.#isFirst = true;
        for (const replica of this.replicas.values()) replica.dropReads();
        if (this.hub.mode === 'rfc') for (const replica of this.replicas.values()) replica.everything();
        return;
      case 'hello': {
        const isKnown = message.epoch === this.#agentEpoch;
        this.#agentEpoch = message.epoch;
        if (!isKnown) this.received = 0;
        for (const replica of this.replicas.values()) {
          if (isKnown && replica.known) continue;
          replica.everything();
          replica.acked = 0;
          replica.spoil = true;
          replica.known = false;
        }
        return;
      }
      case 'protectedWrite': {
        const replica = this.#replicaOf(connection, message.volumeId);
        if (this.hub.mode === 'hello') this.#entry(message.sequence);
        if (message.status !== 0) replica.unread(message.offset, message.length);
        else replica.write(message.offset, message.data);
        break;
      }
      case 'protectedZero':
        this.#entry(message.sequence);
        this.#replicaOf(connection, message.volumeId).zero(message.offset, message.length);
        break;
      case 'protectedFlush':
        this.#entry(message.sequence);
        break;
      case 'dirty':
        this.#list(connection, message);
        break;
      case 'remoteIoResponse':
        this.#replicaOf(connection, message.volumeId).answered(message);
        break;
      case 'ping':
      case 'agentShutdown':
        return;
      default:
        throw new Error(`${message.kind} is nothing that an agent sends here`);
    }
    if (this.hub.mode === 'hello') this.#checkPrefix();
  }

  #list(connection: FakeConnection, message: Extract<RepMessage, { kind: 'dirty' }>): void {
    const replica = this.#replicaOf(connection, message.volumeId);
    if (replica.spoil) {
      replica.spoil = false;
      replica.disk.fill(0xee);
      replica.check.replicaChanged(0, replica.disk.length);
    }
    for (const { offset, length } of message.extents) {
      if (offset + length > replica.disk.length) throw new Error('the list reaches beyond the disk');
      replica.unread(offset, length);
    }
    if (message.more) return;
    this.#entry(message.sequence);
    replica.known = true;
  }

  #entry(sequence: number): void {
    const expected = this.received + 1;
    if (sequence !== expected && !(this.#isFirst && sequence > expected)) {
      throw new Error(`entry ${sequence} came when ${expected} was due`);
    }
    this.#isFirst = false;
    this.received = sequence;
  }

  #checkPrefix(): void {
    for (const replica of this.replicas.values()) {
      if (!this.isProtected(replica)) continue;
      const wrong = replica.check.check();
      if (wrong) throw new Error(`at ${this.received}, ${replica.name}: ${wrong}`);
    }
  }

  #replicaOf(connection: FakeConnection, id: bigint): ModelReplica {
    for (const [name, started] of connection.started) if (started === id) return this.replicas.get(name)!;
    throw new Error(`volume ${id} was not started`);
  }

  #ask(connection: FakeConnection, replica: ModelReplica, id: bigint): void {
    while (replica.reads.length < 4) {
      const first = replica.pending.values().next().value;
      if (first === undefined) return;
      let end = first + 1;
      while (end < first + 3 && replica.pending.has(end)) end += 1;
      for (let chunk = first; chunk < end; chunk += 1) replica.pending.delete(chunk);
      const offset = first * CHUNK;
      const length = Math.min(end * CHUNK, replica.disk.length) - offset;
      this.#lastRequest += 1;
      replica.reads.push({ requestId: this.#lastRequest, offset, length, superseded: new Set() });
      connection.send(encode.encodeRemoteIoRequest(this.#lastRequest, id, offset, length, true));
    }
  }
}
