// Starts the volumes that an agent reports: finds the replica, claims it, opens it. What can't be replicated is refused
// with a reason and tried again with the next report. No replica is ever claimed by two connections.
import { AssertionError } from '../base/assert.ts';
import { errorMessage, OperationError } from '../base/errors.ts';
import { SECTOR_BYTES } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import { formatBytes } from '../base/size.ts';
import type { VolumeStatus } from '../control/status.ts';
import type { Claim, ReportedVolume, StartPairing } from '../repwire/messages.ts';
import { WireError } from '../wire/struct.ts';
import { MAX_REPLICA_BYTES } from './hub-tuning.ts';
import type { Replica } from './replica.ts';
import type { AgentIdentity, ReplicaLink } from './replica-link.ts';
import type { Beginning } from './replica-memory.ts';
import { refusedStatus } from './replica-status.ts';
import type { SessionVolume } from './session-volume.ts';

/** The connection, as its starter sees it. */
export interface StartingSession extends ReplicaLink {
  readonly agent: AgentIdentity | null;
  readonly vmName: string;
  readonly description: string;
  readonly isOver: boolean;
}

export interface VolumeStarterOptions {
  readonly session: StartingSession;
  readonly replicaFor: (volumeName: string) => Replica | undefined;
  /** Why nothing of this agent may be replicated; undefined when it may. */
  readonly refusal: () => string | undefined;
  readonly logger: Logger;
  readonly started: (
    volume: SessionVolume,
    resumeSequence: number | null,
    pairing: StartPairing | undefined,
  ) => void;
  readonly refused: (volumeId: bigint, reason: string) => void;
}

interface Entry {
  readonly volume: ReportedVolume;
  /** By which the agent and the hub call it on this connection. */
  readonly id: bigint;
  state: 'reported' | 'starting' | 'started' | 'refused';
  reason: string;
  /** What the agent remembers of the replica; undefined until it has said so, or when it keeps nothing. */
  claim: Claim | undefined;
}

export class VolumeStarter {
  readonly #options: VolumeStarterOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #ids = new Set<bigint>();
  readonly #claims = new Set<Replica>();

  constructor(options: VolumeStarterOptions) {
    this.#options = options;
  }

  /** Volumes without a replica of their own, and why. */
  get refusals(): VolumeStatus[] {
    const { session } = this.#options;
    return [...this.#entries.values()]
      .filter((entry) => entry.state === 'refused')
      .map(({ volume, reason }) => refusedStatus(volume.name, session.vmName, volume.sizeBytes, reason));
  }

  /**
   * Takes note of what is new in a report.
   * @param mayAssignIds the agent takes whatever id START_PROTECT gives to a name, as the RFC has it
   * @throws WireError when it contradicts itself or an earlier one
   */
  report(volumes: readonly ReportedVolume[], mayAssignIds: boolean): void {
    if (new Set(volumes.map((volume) => volume.name)).size < volumes.length) {
      throw new WireError('REPORT_VM_VOLUMES names a volume twice');
    }
    for (const volume of volumes) {
      const known = this.#entries.get(volume.name);
      if (known?.state === 'started' || known?.state === 'starting') {
        if (known.volume.sizeBytes !== volume.sizeBytes || known.volume.volumeId !== volume.volumeId) {
          throw new WireError(`volume ${volume.name} changed its size or its id while it is replicated`);
        }
        continue;
      }
      if (known) this.#ids.delete(known.id);
      const id = this.#idFor(volume, mayAssignIds);
      this.#ids.add(id);
      this.#entries.set(volume.name, {
        volume,
        id,
        state: 'reported',
        reason: known?.reason ?? '',
        claim: undefined,
      });
    }
  }

  /** The agent says what it remembers of a replica: the volume is begun with. @throws WireError */
  claimed(claim: Claim): void {
    const entry = [...this.#entries.values()].find(({ volume }) => volume.volumeId === claim.volumeId);
    if (!entry) throw new WireError(`CLAIM of volume ${claim.volumeId}, which was not reported`);
    entry.claim = claim;
    if (entry.state === 'reported') this.#begin(entry);
  }

  /** Tries a volume again that was refused. */
  retry(volumeName: string): void {
    const entry = this.#entries.get(volumeName);
    if (entry?.state === 'refused') this.#begin(entry);
  }

  /** Begins with everything that was reported and is not started yet. */
  startAll(): void {
    for (const entry of this.#entries.values()) {
      if (entry.state === 'reported') this.#begin(entry);
    }
  }

  #begin(entry: Entry): void {
    this.#start(entry).catch((error: unknown) => {
      this.#options.logger.error({ volume: entry.volume.name, err: error }, 'starting a volume failed');
      this.#options.session.end(error instanceof Error ? error : new Error(String(error)));
    });
  }

  /** The connection is over: others may have the replicas. */
  releaseAll(): void {
    for (const replica of this.#claims) this.#release(replica);
  }

  async #start(entry: Entry): Promise<void> {
    entry.state = 'starting';
    const { session, replicaFor, refusal, logger } = this.#options;
    const { name, sizeBytes } = entry.volume;
    const forbidden = refusal();
    if (forbidden !== undefined) {
      this.#refuse(entry, forbidden);
      return;
    }
    const replica = replicaFor(name);
    if (!replica) {
      this.#refuse(
        entry,
        `no image is paired with volume ${name}; on the hub: add ${name}=PATH, or use --store DIR`,
      );
      return;
    }
    if (replica.claimant && replica.claimant !== session) {
      const { description } = replica.claimant as StartingSession;
      this.#refuse(entry, `volume ${name} is already replicated by ${description}`);
      return;
    }
    replica.claimant = session;
    replica.vmName = session.vmName;
    this.#claims.add(replica);
    let beginning: Beginning | undefined;
    try {
      checkSize(name, sizeBytes);
      await replica.prepare(sizeBytes, session.agent);
      if (!replica.remembers(session.agent)) {
        const { isDurable } = replica.content;
        const { agent, vmName } = session;
        beginning = await replica.memory.begin(agent, vmName, sizeBytes, entry.claim, isDurable);
      }
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      const reason = reasonOf(error);
      if (replica.claimant === session) replica.refuse(reason);
      this.#release(replica);
      this.#refuse(entry, reason);
      return;
    }
    // The connection may have ended meanwhile, and another one begun.
    if (session.isOver || replica.claimant !== session) return;
    if (beginning)
      logger.info({ volume: name, how: beginning.kind, reason: beginning.reason }, 'the volume begins');
    const resumeSequence = replica.attach(session, session.vmName, beginning);
    entry.state = 'started';
    this.#options.started(
      {
        id: entry.id,
        name,
        sizeBytes,
        replica,
        touched: false,
        verification: undefined,
        toldRemainingBytes: -1,
      },
      resumeSequence,
      beginning?.pairing,
    );
  }

  #refuse(entry: Entry, reason: string): void {
    const { session, logger, refused } = this.#options;
    entry.state = 'refused';
    if (session.isOver) return;
    const fields = { vm: session.vmName, volume: entry.volume.name };
    if (reason === entry.reason) logger.debug(fields, reason);
    else logger.error(fields, reason);
    entry.reason = reason;
    refused(entry.id, reason);
  }

  #release(replica: Replica): void {
    this.#claims.delete(replica);
    if (replica.claimant === this.#options.session) replica.claimant = undefined;
  }

  #idFor(volume: ReportedVolume, mayAssign: boolean): bigint {
    if (!this.#ids.has(volume.volumeId)) return volume.volumeId;
    if (!mayAssign) throw new WireError(`two volumes have the id ${volume.volumeId}`);
    let id = 1n;
    while (this.#ids.has(id)) id += 1n;
    return id;
  }
}

function checkSize(name: string, sizeBytes: number): void {
  if (sizeBytes <= 0 || sizeBytes % SECTOR_BYTES !== 0) {
    throw new OperationError(`volume ${name} has ${sizeBytes} bytes, which is no whole number of sectors`);
  }
  if (sizeBytes > MAX_REPLICA_BYTES) {
    throw new OperationError(
      `volume ${name} has ${formatBytes(sizeBytes)}; at most ${formatBytes(MAX_REPLICA_BYTES)} are replicated`,
    );
  }
}

function reasonOf(error: unknown): string {
  const hint = error instanceof OperationError ? error.hint : undefined;
  return hint === undefined ? errorMessage(error) : `${errorMessage(error)}; on the hub: ${hint}`;
}
