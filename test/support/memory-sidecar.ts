// A dirty map's file in memory: what it holds can be copied at any moment, as a process that dies would leave it.
import type { SidecarFile } from '../../src/repagent/sidecar-file.ts';

export class MemorySidecar implements SidecarFile {
  existed: boolean;
  bytes: Buffer;
  /** As of the last sync: what a power failure would leave. */
  durable: Buffer;
  touchedAtMs = 0;
  writes = 0;
  syncs = 0;
  /** The next writes fail. */
  writeFaults = 0;
  /** The next syncs fail. */
  syncFaults = 0;
  emptyFails = false;
  isClosed = false;
  /** Told after each write. */
  onWrite: () => void = () => {};

  constructor(bytes?: Buffer) {
    this.existed = bytes !== undefined;
    this.bytes = Buffer.from(bytes ?? Buffer.alloc(0));
    this.durable = Buffer.from(this.bytes);
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  read(position: number, length: number): Buffer {
    return Buffer.from(this.bytes.subarray(position, position + length));
  }

  write(data: Buffer, position: number): void {
    if (this.writeFaults > 0) {
      this.writeFaults -= 1;
      throw Object.assign(new Error('no space'), { code: 'ENOSPC' });
    }
    if (position + data.length > this.bytes.length) this.extend(position + data.length);
    data.copy(this.bytes, position);
    this.writes += 1;
    this.onWrite();
  }

  extend(sizeBytes: number): void {
    if (sizeBytes > this.bytes.length) this.bytes = Buffer.concat([this.bytes], sizeBytes);
  }

  empty(): void {
    if (this.emptyFails) throw new Error('read-only');
    this.bytes = Buffer.alloc(0);
  }

  touch(atMs = this.touchedAtMs + 1): void {
    this.touchedAtMs = atMs;
  }

  syncNow(): void {
    this.durable = Buffer.from(this.bytes);
    this.syncs += 1;
  }

  async sync(): Promise<void> {
    const now = Buffer.from(this.bytes);
    await new Promise((resolve) => setImmediate(resolve));
    if (this.syncFaults > 0) {
      this.syncFaults -= 1;
      throw Object.assign(new Error('input/output error'), { code: 'EIO' });
    }
    this.durable = now;
    this.syncs += 1;
  }

  close(): void {
    this.isClosed = true;
  }
}
