// The agent: mirrors every change of its volumes to one hub, in order. What it promises the guest comes first: no
// request waits for the hub, and none fails because of it.
import { createHash, randomBytes } from 'node:crypto';
import { errorMessage, OperationError, UsageError } from '../base/errors.ts';
import {
  DEFAULT_QUEUE_BYTES,
  MAX_DISK_BYTES,
  MAX_NAME_BYTES,
  MAX_VOLUMES_PER_AGENT,
  SECTOR_BYTES,
} from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { ResyncReason } from '../base/resync-reason.ts';
import { steadyUs } from '../base/steady-clock.ts';
import type { NotedError } from '../base/sticky-error.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import type { LinkTraffic, VerifyProgress, VerifyResult, VolumeStatus } from '../control/status.ts';
import { FEATURE_PAIRING, FEATURE_WIDE_READS, type PackCodec } from '../repwire/constants.ts';
import { AGENT_ID_BYTES } from './agent-id.ts';
import { type BandwidthSchedule, UNLIMITED } from './bandwidth-schedule.ts';
import { type CompressMode, compressionFeatures } from './compression.ts';
import type { DirtyRun } from './dirty-map.ts';
import { DEFAULT_RECONNECT, type Dial, HubLink, type HubTls, type ReconnectOptions } from './hub-link.ts';
import { HubSession } from './hub-session.ts';
import { LinkLimiter } from './link-limiter.ts';
import type { LinkState } from './link-states.ts';
import { MirrorFilter } from './mirror-filter.ts';
import { MirrorStream } from './mirror-stream.ts';
import { DEFAULT_HOLD, type HoldTuning, OverflowHold } from './overflow-hold.ts';
import { ProtectedVolume, type VolumeMemory } from './protected-volume.ts';
import type { RemoteIoStats } from './remote-io.ts';
import { ResyncPace } from './resync-pace.ts';
import type { ImageMark } from './sidecar-finding.ts';
import type { MapKeeper } from './state-dir.ts';
import { volumeStatus } from './volume-status.ts';

const DEFAULT_PING_INTERVAL_MS = 2000;
const DEFAULT_PING_DEAD_MS = 10_000;
const DEFAULT_REPORT_RETRY_MS = 10_000;
const DEFAULT_SHUTDOWN_TIMEOUT_MS = 10_000;

export interface AgentOptions {
  readonly hubHost: string;
  readonly hubPort: number;
  /** How the hub shows this machine; at most 255 bytes of UTF-8. */
  readonly vmName: string;
  /** 16 bytes, see agent-id.ts. */
  readonly agentId: Buffer;
  /** Keeps dirty maps beyond the end of the process; without it each start begins from nothing. */
  readonly state?: MapKeeper | undefined;
  /** Asked when the hub has said its id (16 bytes): why it can't be followed; undefined when it can. */
  readonly admitHub?: ((hubId: Buffer) => string | undefined) | undefined;
  /** Bytes of mirrored changes that may wait for the hub before the dirty map takes over. */
  readonly queueBytes?: number | undefined;
  /** Delay guests' changes by up to so much while that queue fills, ms; undefined: never. */
  readonly maxDelayMs?: number | undefined;
  /** When disks may be read for the hub, shared with the agents of other hubs; undefined: one of its own, auto. */
  readonly pace?: ResyncPace | undefined;
  /** For how long overflows of that queue in quick succession keep volumes off the stream. */
  readonly overflowHold?: Partial<HoldTuning> | undefined;
  readonly pingIntervalMs?: number | undefined;
  /** Silence after which the connection to the hub is given up, ms. */
  readonly pingDeadMs?: number | undefined;
  /** How often volumes that the hub refused are reported again, ms. */
  readonly reportRetryMs?: number | undefined;
  /** How long close() may wait for what is queued to be sent and acknowledged, ms. */
  readonly shutdownTimeoutMs?: number | undefined;
  readonly reconnect?: Partial<ReconnectOptions> | undefined;
  /** How much may be sent to the hub, and when. */
  readonly bandwidth?: BandwidthSchedule | undefined;
  /** Off unless given. */
  readonly compress?: CompressMode | undefined;
  /** Encrypt the link to the hub, with proof on both sides. */
  readonly tls?: HubTls | undefined;
  /** For tests: another network than TCP. */
  readonly dial?: Dial | undefined;
  /** The clock, Unix microseconds. */
  readonly nowUs?: (() => number) | undefined;
  readonly logger: Logger;
}

export interface AgentStatus {
  readonly link: {
    readonly hub: string;
    readonly state: LinkState;
    readonly lastError: string | null;
    readonly firstError: NotedError | null;
    readonly traffic: LinkTraffic;
    readonly compression: PackCodec | null;
  };
  readonly volumes: VolumeStatus[];
}

export interface AgentStats extends Readonly<RemoteIoStats> {
  /** Connections on which the hub said what it speaks. */
  readonly connections: number;
  /** Newest sequence of the stream. */
  readonly sequence: number;
  readonly queuedBytes: number;
  /** How often a volume fell back to its dirty map because the queue was full. */
  readonly overflows: number;
}

export class Agent {
  readonly #options: AgentOptions;
  readonly #logger: Logger;
  readonly #nowUs: () => number;
  readonly #volumes = new Map<string, ProtectedVolume>();
  readonly #stream: MirrorStream;
  readonly #link: HubLink;
  readonly #limiter: LinkLimiter;
  readonly #pace: ResyncPace;
  readonly #epoch = randomBytes(8).readBigUInt64LE();
  readonly #faulty = new Set<ProtectedVolume>();
  readonly #remoteIo: RemoteIoStats = {
    remoteReads: 0,
    remoteReadBytes: 0,
    remoteWrites: 0,
    remoteWriteBytes: 0,
    remoteRefusals: 0,
  };
  #closing: Promise<void> | undefined;

  /** @throws UsageError when a name or the id can't be */
  constructor(options: AgentOptions) {
    checkName('the name of the machine', options.vmName);
    if (options.agentId.length !== AGENT_ID_BYTES) {
      throw new UsageError(`an agent's id has ${AGENT_ID_BYTES} bytes, not ${options.agentId.length}`);
    }
    this.#options = options;
    this.#logger = options.logger;
    this.#nowUs = options.nowUs ?? (() => Date.now() * 1000);
    const events = {
      wake: () => this.#link.session?.wake(),
      lost: () => this.#endSession(new Error(this.#rfcOverflow), 'queue-full'),
      degraded: (some: boolean) => this.#degraded(some),
    };
    const compress = options.compress ?? 'off';
    const hold = new OverflowHold({ ...DEFAULT_HOLD, ...options.overflowHold });
    this.#stream = new MirrorStream(options.queueBytes ?? DEFAULT_QUEUE_BYTES, this.#nowUs, events, hold);
    this.#pace = options.pace ?? new ResyncPace('auto');
    this.#limiter = new LinkLimiter(options.bandwidth ?? UNLIMITED, {
      nowMs: () => performance.now(),
      wallMs: () => this.#nowUs() / 1000,
    });
    this.#link = new HubLink({
      host: options.hubHost,
      port: options.hubPort,
      dial: options.dial,
      reconnect: { ...DEFAULT_RECONNECT, ...options.reconnect },
      tls: options.tls,
      logger: this.#logger,
      openSession: (socket, hooks) =>
        new HubSession(socket, {
          vmName: options.vmName,
          agentId: options.agentId,
          epoch: this.#epoch,
          pingIntervalMs: options.pingIntervalMs ?? DEFAULT_PING_INTERVAL_MS,
          pingDeadMs: options.pingDeadMs ?? DEFAULT_PING_DEAD_MS,
          reportRetryMs: options.reportRetryMs ?? DEFAULT_REPORT_RETRY_MS,
          admitHub: (hubId) => this.#admitHub(hubId),
          features:
            (options.state ? FEATURE_PAIRING : 0) + FEATURE_WIDE_READS + compressionFeatures(compress),
          volumes: this.#volumes,
          stream: this.#stream,
          limiter: this.#limiter,
          compress,
          stats: this.#remoteIo,
          pace: this.#pace,
          nowUs: this.#nowUs,
          logger: this.#logger,
          ...hooks,
        }),
    });
  }

  /**
   * Registers a volume.
   * @param name at most 255 bytes of UTF-8, unique
   * @param below the disk; must accept requests of 512 bytes
   * @param image looks at the image below, so that changes past this agent are noticed
   * @returns the mirroring filter over it; the guest must reach the disk only through it. It takes whole sectors.
   * @throws UsageError or OperationError when the volume can't be replicated
   */
  protect(
    name: string,
    below: BlockDevice,
    image: () => ImageMark | undefined = () => undefined,
  ): BlockDevice {
    const disk = new MirrorFilter(below);
    this.mirror(name, disk, image);
    return disk;
  }

  /**
   * The same for a disk that has further mirrors, of other hubs.
   * @throws UsageError or OperationError when the volume can't be replicated
   */
  mirror(name: string, disk: MirrorFilter, image: () => ImageMark | undefined): void {
    const { below } = disk;
    this.#check(name, below);
    let flaw: string | undefined;
    const memory = this.#openMemory(name, below, image, (error) => {
      flaw = `the dirty map can't be kept in its file: ${errorMessage(error)}`;
      this.#volumes.get(name)?.health.flawed(flaw);
    });
    const volume = new ProtectedVolume({
      name,
      reportedId: this.#idOf(name),
      disk,
      stream: this.#stream,
      memory,
      maxDelayMs: this.#options.maxDelayMs,
      // A step of the machine's clock must not change how old a change is.
      nowUs: this.#options.nowUs ?? steadyUs,
      // A connection is about volumes of the sizes that it began with. The next one brings only what is new.
      onResized: ({ name: resized, sizeBytes }) => {
        this.#logger.info({ volume: resized, sizeBytes }, 'the volume was resized; the hub is told');
        this.#endSession(new Error(`${resized} was resized`), 'resized');
      },
      onFault: (faulty, error) => this.#fault(faulty, error),
      onResync: ({ name: volume }, record) => this.#logger.info({ volume, ...record }, 'a resync has ended'),
    });
    disk.join(volume);
    this.#pace.add(disk.load);
    this.#volumes.set(name, volume);
    if (flaw !== undefined) volume.health.flawed(flaw);
    this.#link.session?.report();
  }

  /** Begins to dial the hub, and goes on until close(). */
  start(): void {
    if (!this.#closing) this.#link.start();
  }

  status(): AgentStatus {
    const { hubHost, hubPort, vmName } = this.#options;
    const { state, lastError, errors } = this.#link;
    const firstError = errors.first;
    return {
      link: {
        hub: `${hubHost}:${hubPort}`,
        state,
        lastError,
        firstError,
        traffic: this.#limiter.traffic,
        compression: this.#link.session?.compression?.codec ?? null,
      },
      volumes: [...this.#volumes.values()].map((volume) => volumeStatus(volume, vmName)),
    };
  }

  /** Whether the hub may lack anything of the range of a volume. @param offset bytes @param length bytes, above 0 */
  isDirty(volumeName: string, offset: number, length: number): boolean {
    return this.#volumes.get(volumeName)?.map.isDirty(offset, length) ?? false;
  }

  /** Which parts of a range of a volume the hub may lack, from its start on; see DirtyMap.runs. */
  dirtyRuns(volumeName: string, offset: number, length: number, maxRuns: number): DirtyRun[] {
    const map = this.#volumes.get(volumeName)?.map;
    return map ? map.runs(offset, length, maxRuns) : [{ length, isDirty: true }];
  }

  get stats(): AgentStats {
    return {
      connections: this.#link.connections,
      sequence: this.#stream.sequence,
      queuedBytes: this.#stream.queue.bytes,
      overflows: this.#stream.overflows,
      ...this.#remoteIo,
    };
  }

  /**
   * Has the hub compare a volume with its replica, while writes go on.
   * @throws OperationError when it can't be done now, or not finished
   */
  async verify(volumeName: string, onProgress: (progress: VerifyProgress) => void): Promise<VerifyResult> {
    const volume = this.#volumes.get(volumeName);
    if (!volume) {
      throw new OperationError(`there is no volume ${JSON.stringify(volumeName)}`, {
        hint: '`repagent status` lists the volumes',
      });
    }
    const { session } = this.#link;
    if (!session || session.isExtended === undefined || volume.mode === 'off') {
      throw new OperationError(`no hub replicates volume ${JSON.stringify(volumeName)} at present`, {
        hint: '`repagent status` shows why',
      });
    }
    if (!session.isExtended) {
      throw new OperationError("the hub speaks only the RFC's protocol, which knows no digests", {
        hint: 'compare the images offline, with cmp or qemu-img compare',
      });
    }
    return session.verify(volume, onProgress);
  }

  /**
   * Sends what is queued, waits for its acknowledgement, and tells the hub that the agent ends; all within the shutdown
   * timeout. What guests write from then on goes to the dirty map only, and the hub will not learn of it.
   */
  close(): Promise<void> {
    this.#closing ??= this.#link.close(this.#options.shutdownTimeoutMs ?? DEFAULT_SHUTDOWN_TIMEOUT_MS);
    return this.#closing;
  }

  get #rfcOverflow(): string {
    const { limitBytes } = this.#stream.queue;
    return `the queue of ${limitBytes} bytes is full, and the hub speaks only the RFC's protocol: it has to copy anew`;
  }

  #openMemory(
    volumeName: string,
    below: BlockDevice,
    image: () => ImageMark | undefined,
    onBroken: (error: unknown) => void,
  ): VolumeMemory | undefined {
    const { state } = this.#options;
    if (!state) return undefined;
    const sidecar = state.openMap({
      volumeName,
      sizeBytes: below.sizeBytes,
      image: image(),
      onBroken,
    });
    return { sidecar, image };
  }

  #check(name: string, below: BlockDevice): void {
    const what = `volume ${JSON.stringify(name)}`;
    checkName('the name of a volume', name);
    if (this.#volumes.has(name))
      throw new UsageError(`${what} is there twice; give each volume its own name`);
    if (this.#volumes.size >= MAX_VOLUMES_PER_AGENT) {
      throw new UsageError(`${what} is one too many; an agent replicates at most ${MAX_VOLUMES_PER_AGENT}`);
    }
    const { sizeBytes, limits } = below;
    if (sizeBytes <= 0 || sizeBytes % SECTOR_BYTES !== 0 || sizeBytes > MAX_DISK_BYTES) {
      throw new OperationError(`${what} has ${sizeBytes} bytes, which is not a number of whole sectors`, {
        hint: `make its size a multiple of ${SECTOR_BYTES} bytes`,
      });
    }
    if (limits.minBlockBytes > SECTOR_BYTES) {
      throw new OperationError(
        `${what} takes only blocks of ${limits.minBlockBytes} bytes; replication needs ${SECTOR_BYTES}`,
        { hint: 'put the align filter below the mirror: --filter repagent --filter align' },
      );
    }
  }

  /** An id that a hub's own numbers won't meet by chance, the same in every report. */
  #idOf(name: string): bigint {
    const hash = createHash('sha256').update(this.#options.agentId).update(name).digest();
    return hash.readBigUInt64LE();
  }

  /** @throws OperationError, before anything of the volumes was said to the hub but that they are there */
  #admitHub(hubId: Buffer): void {
    const refusal = this.#options.admitHub?.(hubId);
    if (refusal === undefined) return;
    for (const { health } of this.#volumes.values()) health.refused(refusal);
    throw new OperationError(refusal);
  }

  #degraded(some: boolean): void {
    this.#link.note(some ? 'overflowed' : 'recovered');
    if (some) {
      this.#logger.warn('the hub does not keep up; changes go to the dirty map until half the queue is free');
    } else {
      this.#logger.info('the hub keeps up again; it reads what was not mirrored');
    }
  }

  #fault(volume: ProtectedVolume, error: unknown): void {
    // The first one is worth a line; each write could bring another.
    const level = this.#faulty.has(volume) ? 'debug' : 'error';
    this.#faulty.add(volume);
    this.#logger[level]({ err: error, volume: volume.name }, 'the mirror failed; the guest is not disturbed');
    this.#endSession(new Error(`the mirror of ${volume.name} failed`, { cause: error }), 'agent-fault');
  }

  #endSession(reason: Error, why: ResyncReason): void {
    this.#link.session?.end(reason, why);
  }
}

function checkName(what: string, name: string): void {
  const bytes = Buffer.byteLength(name, 'utf8');
  if (bytes > 0 && bytes <= MAX_NAME_BYTES && !name.includes('\0')) return;
  throw new UsageError(
    `${what}, ${JSON.stringify(name)}, must have 1 to ${MAX_NAME_BYTES} bytes and no NUL, not ${bytes} bytes`,
  );
}
