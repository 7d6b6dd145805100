// The verifications of one connection: digests asked for and answered. A digest is only ever compared with everything
// applied that came before it, and nothing that came after.
import { OperationError } from '../base/errors.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { VerifyProgress, VerifyResult } from '../control/status.ts';
import { HASH_STATUS } from '../repwire/constants.ts';
import type { DiskRange, HashResponse } from '../repwire/messages.ts';
import { WireError } from '../wire/struct.ts';
import type { VerifyTuning } from './hub-tuning.ts';
import { RequestTable } from './request-table.ts';
import type { SessionVolume } from './session-volume.ts';
import { Verification } from './verification.ts';

/** Why a replica is compared, and what is done about what differs. */
export interface VerifyHow {
  readonly by: 'schedule' | 'request';
  /** undefined: as fast as the agent answers. */
  readonly bytesPerSecond?: number | undefined;
  /** resync: what differs is read anew from the agent. report: it is only told. */
  readonly onDifference: 'resync' | 'report';
}

/** Somebody asked: what differs is for them to judge. */
export const ASKED: VerifyHow = { by: 'request', onDifference: 'report' };

/** Whoever wants to know a digest. */
interface HashAsker {
  answered(range: DiskRange, digest: Buffer): MaybePromise<void>;
  busy(range: DiskRange): void;
  unreadable(range: DiskRange): void;
}

interface OpenHash {
  readonly volume: SessionVolume;
  readonly asker: HashAsker;
  readonly range: DiskRange;
}

export class HashExchange {
  readonly #tuning: VerifyTuning;
  readonly #ask: (requestId: number, volume: SessionVolume, range: DiskRange) => void;
  readonly #hashes = new RequestTable<OpenHash>('HASH_RES');
  readonly #running = new Set<Verification>();

  constructor(
    tuning: VerifyTuning,
    ask: (requestId: number, volume: SessionVolume, range: DiskRange) => void,
  ) {
    this.#tuning = tuning;
    this.#ask = ask;
  }

  /**
   * Compares a whole volume.
   * @throws OperationError when it can't be done now, or not finished
   */
  async verify(
    volume: SessionVolume,
    onProgress: (progress: VerifyProgress) => void,
    how: VerifyHow = ASKED,
  ): Promise<VerifyResult> {
    const { replica } = volume;
    if (volume.verification) throw new OperationError(`${volume.name} is being verified already`);
    if (replica.state !== 'protected') {
      throw new OperationError(`${volume.name} can't be verified: it is ${replica.state}`, {
        hint: 'wait until it is protected: repagent wait --state protected',
      });
    }
    const verification: Verification = new Verification({
      replica,
      tuning: this.#tuning,
      bytesPerSecond: how.bytesPerSecond,
      ask: (range) => this.#ask(this.#hashes.add({ volume, asker: verification, range }), volume, range),
      onProgress,
    });
    volume.verification = verification;
    this.#running.add(verification);
    const note = replica.history.verifications.begin(how);
    verification.start();
    try {
      const result = await verification.result;
      const isRepaired = how.onDifference === 'resync' && result.differing.length > 0;
      note.ended(result, verification.differences());
      // What is repaired stays due: it must be found equal, also if the hub ends before it is.
      if (isRepaired) replica.repair(verification.differences());
      else replica.memory.verified();
      return result;
    } catch (error) {
      note.failed(error);
      throw error;
    } finally {
      volume.verification = undefined;
      this.#running.delete(verification);
    }
  }

  /** Asks for what a replica has to compare: as much as may be on its way. */
  compare(volume: SessionVolume): void {
    const { replica } = volume;
    let range = replica.reads.takeCompare();
    if (!range) return;
    const read = (unknown: DiskRange): void => void replica.reads.compareArrived(unknown, null);
    const asker: HashAsker = {
      answered: (known, digest) => replica.reads.compareArrived(known, digest),
      busy: read,
      unreadable: read,
    };
    for (; range; range = replica.reads.takeCompare()) {
      this.#ask(this.#hashes.add({ volume, asker, range }), volume, range);
    }
  }

  /**
   * A digest arrived in stream order.
   * @param received the stream's position
   * @returns what has to be waited for before anything more of the stream is taken in
   * @throws WireError when it answers nothing
   */
  answered(message: HashResponse, received: number): MaybePromise<void> {
    const { volume, asker, range } = this.#hashes.take(message.requestId);
    if (volume.id !== message.volumeId) {
      throw new WireError(`HASH_RES ${message.requestId} is of volume ${message.volumeId}, not ${volume.id}`);
    }
    if (message.status === HASH_STATUS.FAILED) return asker.unreadable(range);
    if (message.status !== HASH_STATUS.OK || message.sequence !== received) return asker.busy(range);
    const stored = volume.replica.apply();
    if (stored === undefined) return asker.answered(range, message.digest);
    const digest = Buffer.from(message.digest);
    return stored.then(() => asker.answered(range, digest));
  }

  abortAll(error: Error): void {
    for (const verification of this.#running) verification.abort(error);
  }
}
