// One volume's mirror at one hub: what changed that this hub may lack, and where that goes. Nothing in here may throw
// into a guest's request: when the mirror goes wrong, the range is dirty, the link goes down, and neither the guest nor
// another hub notices.
import { unreachable } from '../base/assert.ts';
import type { Bitmap } from '../base/bitmap.ts';
import { errorMessage } from '../base/errors.ts';
import { type Deferred, deferred } from '../base/lifecycle.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { ResyncLog, type ResyncRecord } from '../base/resync-log.ts';
import type { ResyncCause } from '../base/resync-reason.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import type { MutationKind } from '../blockdev/mutation.ts';
import type { RangeLock } from '../blockdev/range-lock.ts';
import type { Ack, Claim, Recorded, StartPairing } from '../repwire/messages.ts';
import { BitRetirement } from './bit-retirement.ts';
import { DirtyMap, type Generation } from './dirty-map.ts';
import type { DirtySidecar } from './dirty-sidecar.ts';
import { GuestThrottle } from './guest-throttle.ts';
import type { Mirror, MirroredDisk } from './mirror.ts';
import type { MirrorStream, StreamMember } from './mirror-stream.ts';
import type { RangeWatches } from './range-watch.ts';
import { attachCause } from './resync-cause.ts';
import type { ImageMark } from './sidecar-finding.ts';
import { lagMs, VolumeHealth } from './volume-health.ts';

/** off: no hub follows. on: changes go by the stream. degraded: they did not fit, until the queue has room again. */
export type VolumeMode = 'off' | 'on' | 'degraded';

/** What of a volume outlives the process. */
export interface VolumeMemory {
  readonly sidecar: DirtySidecar;
  /** The image below, once it is closed. */
  readonly image: () => ImageMark | undefined;
}

export interface ProtectedVolumeOptions {
  readonly name: string;
  readonly reportedId: bigint;
  /** What is mirrored. */
  readonly disk: MirroredDisk;
  readonly stream: MirrorStream;
  readonly memory?: VolumeMemory | undefined;
  /** How long a guest's change may be delayed so that the queue doesn't overflow, ms; undefined: not at all. */
  readonly maxDelayMs?: number | undefined;
  /** The clock by which changes age, Unix microseconds; should only go forward. */
  readonly nowUs: () => number;
  /** Told when the volume has another size than was reported. */
  readonly onResized: (volume: ProtectedVolume) => void;
  /** Told when the hub has caught up, or has to begin anew. */
  readonly onResync?: ((volume: ProtectedVolume, record: ResyncRecord) => void) | undefined;
  /** Told when the mirror itself failed. */
  readonly onFault: (volume: ProtectedVolume, error: unknown) => void;
}

export class ProtectedVolume implements StreamMember, Mirror {
  readonly name: string;
  /** The id under which the volume is reported. */
  readonly reportedId: bigint;
  readonly map: DirtyMap;
  readonly health: VolumeHealth;
  /** The id that the hub gave it on the present connection. */
  wireId: bigint;
  queuedBytes = 0;
  /** Newest entry of this volume. */
  lastSequence = 0;
  readonly #disk: MirroredDisk;
  #sizeBytes: number;
  readonly #stream: MirrorStream;
  readonly #memory: VolumeMemory | undefined;
  readonly #retirement: BitRetirement | undefined;
  /** Counts starts and stops: a start that had to wait looks whether it is still the newest. */
  #turn = 0;
  readonly #nowUs: () => number;
  readonly resyncs: ResyncLog;
  readonly throttle: GuestThrottle | undefined;
  /** How the last connection that followed ended. */
  #lost: ResyncCause | undefined;
  /** What guests wrote and the stream does not bring, each time counted; null: nobody counted from the start. */
  #missedBytes: number | null = null;
  readonly #onResized: ProtectedVolumeOptions['onResized'];
  readonly #onFault: ProtectedVolumeOptions['onFault'];
  #mode: VolumeMode = 'off';
  /** Which life of which hub the map is relative to. */
  #hubKey: string | undefined;
  #followed: Deferred<void> | undefined;

  constructor(options: ProtectedVolumeOptions) {
    this.name = options.name;
    this.#disk = options.disk;
    this.#sizeBytes = options.disk.below.sizeBytes;
    this.reportedId = options.reportedId;
    this.wireId = options.reportedId;
    this.#stream = options.stream;
    this.#nowUs = options.nowUs;
    this.resyncs = new ResyncLog((record) => options.onResync?.(this, record));
    this.throttle =
      options.maxDelayMs === undefined
        ? undefined
        : new GuestThrottle(options.stream.queue, options.maxDelayMs, () => this.#mode === 'on');
    this.#onResized = options.onResized;
    this.#onFault = options.onFault;
    this.#memory = options.memory;
    const sidecar = options.memory?.sidecar;
    this.map = new DirtyMap(this.#sizeBytes, options.nowUs, sidecar);
    if (sidecar) {
      const flush = sidecar.isExact ? async () => options.disk.below.flush() : undefined;
      this.#retirement = new BitRetirement({ map: this.map, sidecar, flush });
    }
    this.health = new VolumeHealth();
  }

  /** The device below all mirrors. */
  get below(): BlockDevice {
    return this.#disk.below;
  }

  /** The order of all changes of the disk. */
  get lock(): RangeLock {
    return this.#disk.lock;
  }

  get watches(): RangeWatches {
    return this.#disk.watches;
  }

  /** The device below is being closed or is closed. */
  get isClosed(): boolean {
    return this.#disk.isClosed;
  }

  /** What the hub may reach, bytes. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** The device below became larger. From here on what is new may be changed, and is known to be missing at the hub. */
  grown(): void {
    this.map.grow(this.below.sizeBytes);
    this.#sizeBytes = this.below.sizeBytes;
    this.#onResized(this);
  }

  get mode(): VolumeMode {
    return this.#mode;
  }

  begin(offset: number, length: number): Generation | undefined {
    try {
      return this.map.begin(offset, length);
    } catch (error) {
      this.#fault(error);
      return undefined;
    }
  }

  completed(
    kind: MutationKind,
    token: Generation | undefined,
    offset: number,
    length: number,
    data: Buffer | undefined,
  ): void {
    let sequence = 0;
    if (this.#mode === 'on') {
      try {
        sequence = this.#mirror(kind, offset, length, data);
      } catch (error) {
        this.#fault(error);
      }
    }
    if (kind === 'flush') return;
    if (sequence === 0 && this.#missedBytes !== null) this.#missedBytes += length;
    this.#complete(token, offset, length, sequence);
  }

  failed(kind: MutationKind, token: Generation | undefined, offset: number, length: number): void {
    if (kind === 'flush') return;
    let sequence = 0;
    if (this.#mode === 'on') {
      try {
        sequence = this.#entered(this.#stream.failed(this, offset, length));
      } catch (error) {
        this.#fault(error);
      }
    }
    this.#complete(token, offset, length, sequence);
  }

  /**
   * What the disk loses is what was written since its last flush that succeeded, or anything of it: it reads as it did
   * until the device is opened anew. From then on it may differ from the replica, so that all of it is compared then.
   */
  unflushed(error: unknown): void {
    this.health.flawed(
      `the disk could not be flushed: ${errorMessage(error)}; start the agent anew, which compares what may be lost`,
    );
    this.#retirement?.keepAll();
    const sidecar = this.#memory?.sidecar;
    // Of an exact map no bit was taken away of what was not flushed.
    if (sidecar && !sidecar.isExact) sidecar.markAll();
  }

  /** The hub writes: it isn't sent back to it. @param data valid until the answer */
  writeRemotely(offset: number, data: Buffer): MaybePromise<void> {
    return this.#disk.writeRemotely(this, offset, data);
  }

  /**
   * The hub starts to follow the volume.
   * @param wireId the id it has from now on
   * @param hubKey which life of which hub; undefined: one that knows the RFC alone
   * @param resumeSequence the hub has everything up to here; null: it starts from nothing
   * @param pairing what both sides keep of this attachment, if anything
   * @returns whether the hub goes on from what it has, once it is told what it lacks; undefined: overtaken
   */
  start(
    wireId: bigint,
    hubKey: string | undefined,
    resumeSequence: number | null,
    pairing: StartPairing | null = null,
  ): MaybePromise<boolean | undefined> {
    this.noteLag();
    this.stop();
    this.wireId = wireId;
    const turn = this.#turn;
    const resumes =
      resumeSequence !== null &&
      hubKey !== undefined &&
      hubKey === this.#hubKey &&
      resumeSequence <= this.#stream.sequence;
    const sidecar = this.#memory?.sidecar;
    const recalls = pairing?.recalls === true && sidecar?.pairing === pairing.pairing;
    if (resumes) this.map.resume(resumeSequence);
    else if (recalls) this.map.recall();
    else this.map.reset();
    const cause = attachCause({
      before: this.#hubKey,
      now: hubKey,
      lost: this.#lost,
      finding: sidecar?.finding,
    });
    this.#hubKey = hubKey;
    if (resumes || !pairing || !sidecar) return this.#started(resumes, cause);
    // The bits are in the file by now. Only then may its head say what they are relative to.
    this.#retirement?.restart();
    return sidecar.adopt(pairing.pairing, pairing.generation).then(() => {
      if (turn === this.#turn) return this.#started(recalls, cause);
      return undefined;
    });
  }

  #started(resumes: boolean, cause: ResyncCause): boolean {
    this.#lost = { reason: 'unknown', detail: null };
    this.resyncs.begin(cause);
    this.health.queueMeter.restart();
    this.health.started(this.#hubKey !== undefined, resumes);
    if (this.#hubKey === undefined) this.#mode = 'on';
    else this.#list(cause);
    return resumes;
  }

  /** What is remembered of a replica; undefined when nothing is kept. */
  get claim(): Omit<Claim, 'kind'> | undefined {
    const sidecar = this.#memory?.sidecar;
    if (!sidecar) return undefined;
    const { pairing, generation, recordedSequence, claim } = sidecar;
    return { volumeId: this.reportedId, pairing, generation, recordedSequence, ...claim };
  }

  /** The hub's own record has come so far. @returns what to wait for before that is echoed; false: nothing to echo */
  recorded({ pairing, generation, sequence }: Recorded): Promise<void> | false {
    const sidecar = this.#memory?.sidecar;
    if (!sidecar || sidecar.pairing !== pairing || sidecar.generation !== generation) return false;
    const kept = sidecar.recorded(sequence);
    this.#retirement?.recorded(sequence);
    return kept;
  }

  bitsDurable(): Promise<void> | undefined {
    return this.#memory?.sidecar.durable();
  }

  async forget(): Promise<void> {
    await this.#retirement?.stop();
    await this.#memory?.sidecar.close(this.#memory.image());
  }

  /** The hub tells how far it is. */
  acked(ack: Ack): void {
    this.noteLag();
    const { releasedBytes, bytes } = this.#stream.queue;
    this.health.queueMeter.note(releasedBytes, releasedBytes + bytes);
    this.map.acked(ack.sequence);
    this.health.acked(ack);
    this.#followResync(ack);
  }

  #followResync(ack: Ack): void {
    const { hubState } = this.health;
    if (hubState === 'protected') this.resyncs.end('done');
    else if (hubState === 'failed') this.resyncs.end('cut-short');
    else if (this.resyncs.isOpen) this.resyncs.explain(ack.reason, true);
    else this.resyncs.begin({ reason: ack.reason, detail: null });
  }

  /** Looks at the lag. @returns what it is now, ms; null: unknown */
  noteLag(): number | null {
    const nowUs = this.#nowUs();
    const lag = lagMs(this.health.wasInSync, this.map.oldestTimeUs, nowUs);
    this.health.lags.note(lag, nowUs / 1000);
    return lag;
  }

  /** Until everything that waits in the queue now has been sent, ms; null: unknown. */
  get queueTimeLeftMs(): number | null {
    if (this.queuedBytes === 0) return 0;
    const { releasedBytes, bytes } = this.#stream.queue;
    this.health.queueMeter.note(releasedBytes, releasedBytes + bytes);
    return this.health.queueMeter.progress.timeLeftMs;
  }

  /** Whether an acknowledgement is still to come that can come. */
  get awaitsAck(): boolean {
    const { hubState, isFailed, ackedSequence } = this.health;
    if (isFailed || ackedSequence >= this.lastSequence) return false;
    // A hub that reads the whole disk acknowledges nothing before the end of it, which may be hours away.
    if (hubState === 'initial-sync') return false;
    // What the hub has not read of a closed device it never will.
    return !this.isClosed || hubState !== 'resync';
  }

  /** The hub doesn't follow any more. @param why undefined: it begins anew */
  stop(why?: ResyncCause): void {
    this.#turn += 1;
    if (why && this.#mode !== 'off') this.#lost = why;
    this.resyncs.end('cut-short');
    this.#stream.leave(this);
    this.map.streamOff();
    this.#mode = 'off';
    this.health.stopped();
    this.#follow();
  }

  /** There is room for the stream again. */
  resumeStream(): void {
    const cause: ResyncCause = { reason: 'queue-full', detail: null };
    this.resyncs.begin(cause);
    this.#list(cause);
  }

  /** Names to the hub what it lacks, and goes on with the stream. */
  #list(cause: ResyncCause): void {
    const list = (sequence: number): Bitmap => {
      const chunks = this.map.streamOn(sequence);
      if (chunks.count > 0) this.health.listed(sequence);
      return chunks;
    };
    const why = { reason: cause.reason, changedBytes: this.#missedBytes };
    this.#entered(this.#stream.dirty(this, list, this.map.granularityBytes, why));
    this.resyncs.changed(why.changedBytes);
    this.#missedBytes = 0;
    this.#mode = 'on';
    this.#follow();
  }

  /**
   * Resolves when the stream brings, or names, every change made so far. @returns undefined when that is so already
   */
  untilFollowed(): Promise<void> | undefined {
    if (this.#mode !== 'degraded') return undefined;
    this.#followed ??= deferred();
    return this.#followed.promise;
  }

  #mirror(kind: MutationKind, offset: number, length: number, data: Buffer | undefined): number {
    switch (kind) {
      case 'write':
        return this.#entered(this.#stream.write(this, offset, data!));
      case 'writeZeroes':
      case 'trim':
        return this.#entered(this.#stream.zero(this, kind, offset, length));
      case 'flush': {
        const sequence = this.#stream.flush(this);
        if (sequence > 0) this.lastSequence = sequence;
        return sequence;
      }
      default:
        return unreachable(kind, 'mutation');
    }
  }

  /** What is not in the stream makes everything after it stay out too, until the hub was told what to read. */
  #entered(sequence: number): number {
    if (sequence > 0) {
      this.lastSequence = sequence;
    } else if (this.#mode === 'on') {
      this.#mode = 'degraded';
      this.map.streamOff();
    }
    return sequence;
  }

  #complete(token: Generation | undefined, offset: number, length: number, sequence: number): void {
    try {
      this.map.complete(token, offset, length, sequence);
    } catch (error) {
      this.#fault(error);
    }
  }

  #follow(): void {
    this.#followed?.resolve();
    this.#followed = undefined;
  }

  #fault(error: unknown): void {
    this.health.fail(`the mirror failed: ${errorMessage(error)}`);
    try {
      this.#onFault(this, error);
    } catch {
      // Whoever called this is a guest, who must not learn of it.
      this.#mode = 'off';
    }
  }
}
