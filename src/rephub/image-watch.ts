// What is known of a replica's image beside its content: whether the hub has had it in its hands all the time, and what
// others did to it when it had not.
import { OperationError } from '../base/errors.ts';
import type { ImageLook, ReplicaRecord } from './replica-record.ts';
import { isChanged, isOtherImage } from './verdict.ts';

export class ImageWatch {
  /** Others changed the image while the hub did not have it, and nobody has decided yet what follows. */
  isStrange = false;
  /** Another image is in the place of the one that was recorded. */
  isExchanged = false;
  #look: ImageLook | undefined;
  #isWatched = false;
  #isSeen = false;

  /** The hub has had the image in its hands since it looked: nobody else can have changed it. */
  get isWatched(): boolean {
    return this.#isWatched;
  }

  /** What has to be judged; undefined: nothing has. */
  get look(): ImageLook | undefined {
    return this.#isWatched ? undefined : this.#look;
  }

  /** Takes note of how the image looks before it is opened. */
  seen(look: ImageLook | undefined, record: ReplicaRecord | undefined): void {
    this.#look = look;
    this.#isSeen = true;
    // Times alone may be those of what the hub itself wrote since a record that could not be written.
    this.isExchanged = isOtherImage(record, look);
    this.isStrange = isChanged(record, look);
  }

  /** The image is open, and what was seen of it was judged. @throws OperationError when it was lost meanwhile */
  watch(): void {
    this.expectSeen();
    this.#isWatched = true;
    this.isStrange = false;
  }

  /** The image was closed or lost: whoever looks at it next must judge anew. */
  released(): void {
    this.#isWatched = false;
    this.#isSeen = false;
    this.#look = undefined;
  }

  /** @throws OperationError when the store failed after the look, so that another image may be the one that is open */
  expectSeen(): void {
    if (this.#isSeen) return;
    throw new OperationError('the store of the replica failed while it was opened; it is tried again');
  }
}
