// A disk that is copied to a hub while a guest uses it, on virtual time: agent and hub are the product's own, the disk
// does one thing at a time, in order of arrival, and takes as long for it as it is long. Nothing of the machine's own time is in it.
import { silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { MemoryDevice } from '../../src/blockdev/memory-device.ts';
import { PassThrough } from '../../src/filter/pass-through.ts';
import { seededRandom } from '../../src/filter/random.ts';
import { AgentGroup, type GroupStatus } from '../../src/repagent/agent-group.ts';
import type { ResyncRate } from '../../src/repagent/resync-pace.ts';
import { startHub } from '../../src/rephub/hub.ts';
import { MemoryImages } from '../support/memory-images.ts';
import { catchErrors } from './catch-errors.ts';
import { Clock, Host } from './clock.ts';
import { HUB_PORT, Network } from './network.ts';

const BLOCK = 4096;
const EVERY_MS = 8;
/** What each request takes of the disk besides its bytes, ms. */
const SEEK_MS = 0.5;

/** One request after the other, as the arm of a disk moves. */
class ArmDisk extends PassThrough {
  readonly bytesPerMs: number;
  #freeAtMs = 0;

  constructor(below: BlockDevice, bytesPerMs: number) {
    super(below);
    this.bytesPerMs = bytesPerMs;
  }

  override async read(offset: number, target: Buffer): Promise<void> {
    await this.#turn(target.length);
    await super.read(offset, target);
  }

  override async write(offset: number, data: Buffer, fua: boolean): Promise<void> {
    await this.#turn(data.length);
    await super.write(offset, data, fua);
  }

  #turn(length: number): Promise<void> {
    const now = performance.now();
    this.#freeAtMs = Math.max(now, this.#freeAtMs) + SEEK_MS + length / this.bytesPerMs;
    return new Promise((resolve) => setTimeout(resolve, this.#freeAtMs - now));
  }
}

export interface Fared {
  readonly meanMs: number;
  readonly medianMs: number;
  readonly p99Ms: number;
  /** What the hub had read meanwhile. */
  readonly bytesPerSecond: number;
}

export class CopyScene {
  readonly clock: Clock;
  readonly sizeBytes: number;
  readonly #raw: MemoryDevice;
  readonly #images: MemoryImages;
  readonly #net: Network;
  readonly #agentHost = new Host('agent');
  readonly #hubHost = new Host('hub');
  readonly #agents: AgentGroup;
  readonly #guest: BlockDevice;
  readonly #undo: Array<() => void> = [];
  #requests = 0;
  #failure: Error | undefined;

  constructor({
    rate,
    sizeBytes,
    bytesPerMs,
  }: {
    readonly rate: ResyncRate;
    readonly sizeBytes: number;
    readonly bytesPerMs: number;
  }) {
    const random = seededRandom(1);
    this.sizeBytes = sizeBytes;
    this.clock = new Clock(random);
    this.#undo.push(
      this.clock.install(),
      catchErrors((error) => this.#failed(error)),
    );
    this.clock.onThrow = (error) => this.#failed(error);
    this.#net = new Network(this.clock, random);
    this.#images = new MemoryImages({ a: sizeBytes });
    this.#raw = new MemoryDevice({ sizeBytes });
    this.#raw.write(0, Buffer.alloc(sizeBytes, 'what is on the disk; '), false);
    this.#agents = new AgentGroup(
      [{ name: 'hub', hubHost: 'sim', hubPort: HUB_PORT, logger: silentLogger }],
      {
        ...{ vmName: 'vm', agentId: Buffer.alloc(16, 1), resyncRate: rate, logger: silentLogger },
        dial: this.#net.dialFrom(this.#agentHost),
        nowUs: () => Math.round(this.clock.wallMs() * 1000),
      },
    );
    this.#guest = this.#agents.protect('a', new ArmDisk(this.#raw, bytesPerMs), () => undefined);
  }

  /** From now on the hub copies. */
  copy(): void {
    this.clock.as(this.#hubHost, () => {
      void startHub({
        listen: { host: 'sim', port: HUB_PORT },
        pairs: new Map([['a', 'a']]),
        ...{ stateDir: undefined, logger: silentLogger, hubName: 'hub', images: this.#images },
        createServer: this.#net.serverOf(this.#hubHost),
      });
    });
    this.clock.as(this.#agentHost, () => this.#agents.start());
    this.until('the copy begins', () => this.status.volumes[0]!.state === 'initial-sync');
  }

  /** A guest that reads or writes a block now and then. */
  guestAtWork(forMs: number): Fared {
    const before = this.readBytes;
    const endsAtMs = this.clock.nowMs + forMs;
    const tookMs: number[] = [];
    let isOver = false;
    const work = async (): Promise<void> => {
      const block = Buffer.alloc(BLOCK, 7);
      while (performance.now() < endsAtMs) {
        const offset = ((this.#requests * 7919) % (this.sizeBytes / BLOCK)) * BLOCK;
        const atMs = performance.now();
        await (this.#requests % 2 === 0
          ? this.#guest.read(offset, block)
          : this.#guest.write(offset, block, false));
        this.#requests += 1;
        tookMs.push(performance.now() - atMs);
        await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
      }
      isOver = true;
    };
    this.clock.as(this.#agentHost, () => {
      work().catch((error: unknown) => this.#failed(error));
    });
    this.until('the guest ends', () => isOver);
    tookMs.sort((a, b) => a - b);
    return {
      meanMs: tookMs.reduce((sum, ms) => sum + ms, 0) / tookMs.length,
      medianMs: tookMs[tookMs.length >> 1]!,
      p99Ms: tookMs[Math.floor(0.99 * tookMs.length)]!,
      bytesPerSecond: ((this.readBytes - before) / forMs) * 1000,
    };
  }

  get status(): GroupStatus {
    return this.#agents.status();
  }

  /** What the hub had read since the beginning. */
  get readBytes(): number {
    return this.status.resyncReads.readBytes;
  }

  /** Whether the replica is the disk. */
  get isEqual(): boolean {
    const disk = Buffer.alloc(this.sizeBytes);
    this.#raw.read(0, disk);
    return disk.equals(this.#images.image('a').visible);
  }

  until(what: string, isSo: () => boolean, withinMs = 120_000): void {
    const isOver = this.clock.runUntil(
      this.clock.nowMs + withinMs,
      () => this.#failure !== undefined || isSo(),
    );
    if (this.#failure !== undefined) throw this.#failure;
    if (!isOver) throw new Error(`${what}: not within ${withinMs} ms of virtual time`);
  }

  close(): void {
    this.#agentHost.isAlive = false;
    this.#hubHost.isAlive = false;
    for (const undo of this.#undo.reverse()) undo();
  }

  #failed(error: unknown): void {
    this.#failure ??= error instanceof Error ? error : new Error(String(error));
  }
}

/** Runs it in a turn of its own: within the reaction of a promise those of others could not run. */
export function onVirtualTime<T>(run: () => T): Promise<T> {
  return new Promise((resolve, reject) => {
    setImmediate(() => {
      try {
        resolve(run());
      } catch (error) {
        reject(error instanceof Error ? error : new Error(String(error)));
      }
    });
  });
}
