// Asks an agent for what its volumes' replicas lack, fairly among volumes, and gives the answers to them. So many
// requests are on their way and no more, however slow the agent answers.
import {
  FEATURE_WIDE_READS,
  hasFlag,
  LEAST_WIDE_ANSWER_BYTES,
  MAX_REMOTE_IO_BYTES,
} from '../repwire/constants.ts';
import type { RemoteIoResponse } from '../repwire/messages.ts';
import { WireError } from '../wire/struct.ts';
import { RequestTable } from './request-table.ts';
import type { SessionVolume } from './session-volume.ts';
import type { SyncRead } from './sync-read.ts';

interface OpenRead {
  readonly volume: SessionVolume;
  readonly read: SyncRead;
}

export class ReadPump {
  readonly #maxReads: number;
  /** The agent may be asked for more than it can answer at once. */
  #readsWide = false;
  readonly #ask: (requestId: number, volume: SessionVolume, read: SyncRead) => void;
  readonly #reads = new RequestTable<OpenRead>('REMOTE_IO_RES');
  /** Volumes that may have something to read, in the order in which it is their turn. */
  readonly #hungry = new Set<SessionVolume>();
  /** Goes on where the last turn ended: a walk from the start would step over every volume that left the row since. */
  #row = this.#hungry.values();
  /** Volumes that may have something to compare. */
  readonly #unsure = new Set<SessionVolume>();

  constructor(maxReads: number, ask: (requestId: number, volume: SessionVolume, read: SyncRead) => void) {
    this.#maxReads = maxReads;
    this.#ask = ask;
  }

  /** The agent has said what it knows. @param features of its HELLO */
  agree(features: number): void {
    this.#readsWide = hasFlag(features, FEATURE_WIDE_READS);
  }

  /** There may be something to read, or to compare, that was not there before. */
  wake(volume: SessionVolume): void {
    this.#hungry.add(volume);
    this.#unsure.add(volume);
  }

  /**
   * Sends as many requests as may be on their way: one of each volume in turn. What it costs goes by what is sent and
   * by who was woken, not by how many volumes wait.
   * @param compare asks for all the digests that a volume wants now
   */
  pump(compare: (volume: SessionVolume) => void): void {
    for (const volume of this.#unsure) compare(volume);
    this.#unsure.clear();
    while (this.#reads.size < this.#maxReads) {
      const volume = this.#next();
      if (!volume) return;
      this.#hungry.delete(volume);
      const read = volume.replica.reads.takeRead(this.#readsWide);
      if (!read) continue;
      this.#ask(this.#reads.add({ volume, read }), volume, read);
      // To the end of the row.
      this.#hungry.add(volume);
    }
  }

  #next(): SessionVolume | undefined {
    const { value, done } = this.#row.next();
    if (!done) return value;
    if (this.#hungry.size === 0) return undefined;
    this.#row = this.#hungry.values();
    return this.#row.next().value;
  }

  /**
   * Gives an answer to its replica.
   * @returns the volume, which has to be applied
   * @throws WireError when it answers nothing, or not what was asked
   */
  answered(message: RemoteIoResponse): SessionVolume {
    const { volume, read } = this.#reads.take(message.requestId);
    if (volume.id !== message.volumeId) {
      throw new WireError(
        `REMOTE_IO_RES ${message.requestId} is of volume ${message.volumeId}, not ${volume.id}`,
      );
    }
    if (message.status !== 0) {
      volume.replica.reads.readFailed(read);
      return volume;
    }
    const answeredBytes = answeredOf(message, read);
    if (!message.allZero && message.data.length !== answeredBytes) {
      throw new WireError(
        `REMOTE_IO_RES ${message.requestId} has ${message.data.length} bytes, not ${answeredBytes}`,
      );
    }
    const data = message.allZero ? null : message.data;
    volume.replica.reads.readArrived(read, data, message.sequence, answeredBytes);
    return volume;
  }
}

/** How much of a read was answered, bytes. @throws WireError when that leads nowhere, or beyond it */
function answeredOf({ requestId, answeredBytes }: RemoteIoResponse, { length }: SyncRead): number {
  if (answeredBytes === 0) return length;
  const isWide = length > MAX_REMOTE_IO_BYTES;
  if (isWide && answeredBytes >= LEAST_WIDE_ANSWER_BYTES && answeredBytes <= length) return answeredBytes;
  throw new WireError(`REMOTE_IO_RES ${requestId} answers ${answeredBytes} bytes of ${length}`);
}
