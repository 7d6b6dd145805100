// Takes the entries of an agent's stream off a connection and gives them to their replicas, in order. Everything from
// the peer is checked against the volume before it gets there.
import type { MaybePromise } from '../base/maybe.ts';
import type { Dirty, ProtectedFlush, ProtectedWrite, ProtectedZero } from '../repwire/messages.ts';
import { WireError } from '../wire/struct.ts';
import { checkOnVolume, type SessionVolume } from './session-volume.ts';
import type { StreamPosition } from './stream-position.ts';

export class StreamIntake {
  readonly #volumes: ReadonlyMap<bigint, SessionVolume>;
  /** Null without HELLO: entries carry no sequence. */
  readonly #position: StreamPosition | null;
  /** Volumes that took something in during this pass. */
  readonly #touched: SessionVolume[] = [];
  /** The volume of the last entry: most often also that of the next. */
  #last: SessionVolume | undefined;

  constructor(volumes: ReadonlyMap<bigint, SessionVolume>, position: StreamPosition | null) {
    this.#volumes = volumes;
    this.#position = position;
  }

  /** The newest entry that was taken in; 0 without HELLO. */
  get received(): number {
    return this.#position?.received ?? 0;
  }

  write(message: ProtectedWrite): void {
    const volume = this.#volume(message.volumeId);
    // Before its sequence is taken: an entry that was refused must not count as received.
    checkOnVolume('a write', volume, message.offset, message.length);
    this.#enter(volume, message.sequence);
    if (message.status === 0) volume.replica.write(message.offset, message.data, message.timeUs);
    else volume.replica.failedChange(message.offset, message.length, message.timeUs);
  }

  zero(message: ProtectedZero): void {
    const volume = this.#volume(message.volumeId);
    checkOnVolume('a range of zeroes', volume, message.offset, message.length);
    this.#enter(volume, message.sequence);
    volume.replica.zero(message.offset, message.length, message.trim, message.timeUs);
  }

  flush(message: ProtectedFlush): void {
    const volume = this.#volume(message.volumeId);
    this.#enter(volume, message.sequence);
    volume.replica.flush(message.timeUs);
  }

  dirty(message: Dirty): void {
    const volume = this.#volume(message.volumeId);
    for (const extent of message.extents)
      checkOnVolume('a dirty range', volume, extent.offset, extent.length);
    if (volume.replica.awaitsDirty && message.sequence <= volume.replica.receivedSequence) {
      throw new WireError(
        `the stream went back to ${message.sequence} from ${volume.replica.receivedSequence}`,
      );
    }
    this.#position?.takeDirty(message.volumeId, message.sequence, message.more);
    volume.replica.dirty(message);
    this.touch(volume);
  }

  /** The volume took something in: it is applied at the end of the pass. */
  touch(volume: SessionVolume): void {
    if (volume.touched) return;
    volume.touched = true;
    this.#touched.push(volume);
  }

  /** Applies what came in this pass. @param hold is given what has to be waited for before the next */
  applyAll(hold: (stored: Promise<void>) => void): void {
    for (let i = 0; i < this.#touched.length; i += 1) {
      const volume = this.#touched[i]!;
      volume.touched = false;
      const stored: MaybePromise<void> = volume.replica.apply();
      if (stored) hold(stored);
    }
    this.#touched.length = 0;
  }

  #enter(volume: SessionVolume, sequence: number): void {
    if (this.#position) {
      if (volume.replica.awaitsDirty) {
        throw new WireError(
          `entry ${sequence} of ${volume.name} came before what the replica lacks was told`,
        );
      }
      this.#position.take(sequence);
    }
    this.touch(volume);
  }

  #volume(volumeId: bigint): SessionVolume {
    if (this.#last?.id === volumeId) return this.#last;
    const volume = this.#volumes.get(volumeId);
    if (!volume) throw new WireError(`a change of volume ${volumeId}, which is not replicated`);
    this.#last = volume;
    return volume;
  }
}
