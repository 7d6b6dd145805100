// A disk that another process has: its facts, for the handshake. It carries nothing out: whoever chose it is given away.
import { AssertionError } from '../../../base/assert.ts';
import type { BlockDevice, DeviceLimits } from '../../../blockdev/block-device.ts';
import type { ExportFacts } from './messages.ts';

export class RemoteDevice implements BlockDevice {
  #facts: ExportFacts;

  constructor(facts: ExportFacts) {
    this.#facts = facts;
  }

  update(facts: ExportFacts): void {
    this.#facts = facts;
  }

  resized(sizeBytes: number): void {
    this.#facts = { ...this.#facts, sizeBytes };
  }

  get sizeBytes(): number {
    return this.#facts.sizeBytes;
  }

  get limits(): DeviceLimits {
    return this.#facts.limits;
  }

  read(): never {
    return this.#refuse();
  }

  write(): never {
    return this.#refuse();
  }

  /** What is durable is the worker's business, which flushes when it ends. */
  flush(): void {}

  trim(): never {
    return this.#refuse();
  }

  writeZeroes(): never {
    return this.#refuse();
  }

  cache(): never {
    return this.#refuse();
  }

  extents(): never {
    return this.#refuse();
  }

  resize(): never {
    return this.#refuse();
  }

  async close(): Promise<void> {}

  #refuse(): never {
    throw new AssertionError(`a request for ${this.#facts.name}, which a worker has`);
  }
}
