// A volume with its filter and the stream behind it, into a connection that the test holds in its hands. No sockets.
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { MirrorFilter } from '../../../src/repagent/mirror-filter.ts';
import { MirrorStream } from '../../../src/repagent/mirror-stream.ts';
import { ProtectedVolume } from '../../../src/repagent/protected-volume.ts';
import { StreamSender } from '../../../src/repagent/stream-sender.ts';
import { settled } from '../../support/test-devices.ts';
import { FakeOutlet, noLimit } from './outlet.ts';

export class VolumeRig {
  readonly outlet = new FakeOutlet();
  readonly stream: MirrorStream;
  readonly volume: ProtectedVolume;
  readonly filter: MirrorFilter;
  readonly faults: unknown[] = [];
  /** Told of overflow and recovery. */
  readonly seen: string[] = [];
  sender: StreamSender | undefined;
  nowUs = 1000;

  /** @param filter the disk of another rig, for one more hub of it */
  constructor(
    below: BlockDevice,
    queueBytes = 1024 * 1024,
    filter = new MirrorFilter(below),
    maxDelayMs?: number,
  ) {
    this.stream = new MirrorStream(queueBytes, () => this.nowUs, {
      wake: () => this.sender?.wake(),
      lost: () => {
        this.seen.push('lost');
        this.disconnect();
      },
      degraded: (some) => this.seen.push(some ? 'overflowed' : 'recovered'),
    });
    this.filter = filter;
    this.volume = new ProtectedVolume({
      name: 'sda',
      reportedId: 1n,
      disk: this.filter,
      stream: this.stream,
      nowUs: () => this.nowUs,
      maxDelayMs,
      onResized: () => this.disconnect(),
      onFault: (_volume, error) => {
        this.faults.push(error);
        this.disconnect();
      },
    });
    this.filter.join(this.volume);
  }

  /** A hub with extensions begins to follow, and nothing is dirty. */
  connect(extensions = true, resumeSequence: number | null = null, hubKey = 'hub:1'): void {
    this.disconnect();
    this.stream.open(extensions);
    this.sender = new StreamSender({
      outlet: this.outlet,
      queue: this.stream.queue,
      extensions,
      limiter: noLimit(),
      onRoom: () => this.stream.recover(),
      onFault: (error) => this.faults.push(error),
    });
    // Without a pairing it is done at once.
    void this.volume.start(7n, extensions ? hubKey : undefined, resumeSequence);
  }

  disconnect(): void {
    this.stream.shut();
    this.volume.stop();
    this.sender?.stop();
    this.sender = undefined;
  }

  /** The hub says that everything so far is durable, and the replica complete. */
  protect(): void {
    const { sequence } = this.stream;
    this.volume.acked({
      kind: 'ack',
      volumeId: 7n,
      sequence,
      state: 'protected',
      syncDoneBytes: 0,
      syncTotalBytes: 0,
      reason: 'unknown',
    });
  }

  /** The hub says that everything so far is durable. */
  ack(): void {
    this.volume.map.acked(this.stream.sequence);
  }

  async turns(count = 6): Promise<void> {
    for (let turn = 0; turn < count; turn += 1) await settled();
  }

  /** The stream as it left since the last call, such as `write 0+512`. */
  async sent(): Promise<string[]> {
    await this.turns();
    return this.outlet.messages.splice(0).map((message) => {
      switch (message.kind) {
        case 'protectedWrite':
          return `${message.status === 0 ? 'write' : 'failed'} ${message.offset}+${message.length}`;
        case 'protectedZero':
          return `${message.trim ? 'trim' : 'zero'} ${message.offset}+${message.length}`;
        case 'dirty':
          return ['dirty', ...message.extents.map(({ offset, length }) => `${offset}+${length}`)].join(' ');
        case 'protectedFlush':
          return 'flush';
        default:
          return message.kind;
      }
    });
  }
}
