// What agent and hub say of what each keeps beyond its own end: the agent's claim on each replica, and how far the hub's
// record has come. Only between two that both know how.
import { FEATURE_PAIRING, hasFlag } from '../repwire/constants.ts';
import * as encode from '../repwire/encode.ts';
import type { Recorded } from '../repwire/messages.ts';
import type { ProtectedVolume } from './protected-volume.ts';

export interface PairingTalkOptions {
  readonly volumes: ReadonlyMap<string, ProtectedVolume>;
  /** Sends a frame, unless the connection has ended. */
  readonly send: (frame: Buffer) => void;
  readonly onFault: (error: unknown) => void;
}

export class PairingTalk {
  readonly #options: PairingTalkOptions;
  #isOn = false;

  constructor(options: PairingTalkOptions) {
    this.#options = options;
  }

  /** Whether both sides know how. */
  get isOn(): boolean {
    return this.#isOn;
  }

  /** Both have said what they know. */
  begin(ours: number, theirs: number): void {
    this.#isOn = hasFlag(ours, FEATURE_PAIRING) && hasFlag(theirs, FEATURE_PAIRING);
    this.claim();
  }

  /** Says what is remembered of each volume's replica: the hub waits for it after every report. */
  claim(): void {
    if (!this.#isOn) return;
    for (const { claim } of this.#options.volumes.values()) {
      if (claim) this.#options.send(encode.encodeClaim(claim));
    }
  }

  /** The hub's record has moved on: it hears that this is known here, as soon as it is kept. */
  recorded(volume: ProtectedVolume, message: Recorded): void {
    const kept = volume.recorded(message);
    if (kept === false) return;
    kept.then(() => this.#options.send(encode.encodeRecorded(message)), this.#options.onFault);
  }
}
