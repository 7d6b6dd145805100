// The hub: accepts agents and keeps a replica of each of their volumes. It owns the replicas; connections come and go.
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import os from 'node:os';
import { errorMessage, OperationError } from '../base/errors.ts';
import { deferred, Stopper } from '../base/lifecycle.ts';
import { MAX_NAME_BYTES } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { FileCalls } from '../base/small-files.ts';
import type { VerifyProgress, VerifyResult, VolumeStatus } from '../control/status.ts';
import { AgentGate, type HubTls, type ProvenAgent } from './agent-gate.ts';
import { AgentSession } from './agent-session.ts';
import { Catalog, type ReplicaPlace, type UndoSettings } from './catalog.ts';
import type { VerifyHow } from './hash-exchange.ts';
import { type HubIdentity, loadHubIdentity } from './hub-id.ts';
import { DEFAULT_PING_INTERVAL_MS, DEFAULT_TUNING, type HubTuning, MAX_SESSIONS } from './hub-tuning.ts';
import { fileImages, type ImageOpener } from './image-opener.ts';
import { Replica } from './replica.ts';
import { isSameLife } from './replica-link.ts';
import { ReplicaMemory, type Resolution } from './replica-memory.ts';
import { replicaStatus } from './replica-status.ts';
import type { SessionHost } from './session-host.ts';
import { VerifySchedule } from './verify-schedule.ts';

export interface HubOptions {
  /** Where agents dial; port 0 takes any. */
  readonly listen: { readonly host: string; readonly port: number };
  /** Volume name to path of an existing image of the volume's size. */
  readonly pairs: ReadonlyMap<string, string>;
  /** Keeps replicas of all other volumes here, as <machine>/<volume>. */
  readonly storeDir?: string | undefined;
  /** The hub's id is kept here; without it, it is another hub with every start. */
  readonly stateDir?: string | undefined;
  /** How what a replica held is kept while it is overwritten; by default as much as there can be, and held when the disk is full. */
  readonly undo?: UndoSettings | undefined;
  /** How agents show this hub; the host name unless told. */
  readonly hubName?: string | undefined;
  readonly logger: Logger;
  /** Demand TLS of agents, with proof on both sides. Without it everything is sent in the clear. */
  readonly tls?: HubTls | undefined;
  /** Verify every replica so often, and what to do about differences; undefined: only when asked to. */
  readonly verify?: (Omit<VerifyHow, 'by'> & { readonly everyMs: number }) | undefined;
  /** Milliseconds. */
  readonly pingIntervalMs?: number | undefined;
  /** For tests: other times and sizes, other places for images and records, another network than TCP. */
  readonly tuning?: Partial<HubTuning> | undefined;
  readonly images?: ImageOpener | undefined;
  readonly files?: FileCalls | undefined;
  readonly createServer?: ((accept: (socket: Socket) => void) => Server) | undefined;
}

export interface Hub {
  /** With the port that was taken. */
  readonly address: { readonly host: string; readonly port: number };
  /** Every volume that the hub knows of, also those that it refused. */
  status(): VolumeStatus[];
  /**
   * Compares a volume with its replica while it is in use.
   * @param volumeName its name, or `machine/volume` where several machines have one of that name
   * @throws OperationError when it is not protected, or the comparison can't be finished
   */
  verify(volumeName: string, onProgress: (progress: VerifyProgress) => void): Promise<VerifyResult>;
  /**
   * Says who is right where the stories of agent and replica don't fit together.
   * @param agentId hexadecimal; the agent that was refused last unless given
   * @returns what follows, in words
   * @throws OperationError when there is nothing to choose
   */
  resolve(volumeName: string, use: Resolution, agentId?: string): Promise<string>;
  /** Resolves when every volume was replicated and its agent shut down gracefully. Never rejects. */
  readonly completed: Promise<void>;
  /** Ends every connection, makes the replicas durable, and lets go of them. Idempotent. */
  close(): Promise<void>;
}

/**
 * Starts a hub.
 * @throws OperationError when an image is missing or unusable, two volumes share one, or the address can't be had
 */
export async function startHub(options: HubOptions): Promise<Hub> {
  const images = options.images ?? fileImages(options.logger);
  const catalog = new Catalog({
    pairs: options.pairs,
    storeDir: options.storeDir,
    stateDir: options.stateDir,
    images,
    files: options.files,
    undo: options.undo,
    logger: options.logger,
  });
  const sizes = await catalog.checkPairs();
  const identity = await loadHubIdentity(options.stateDir, options.files);
  const hub = new RunningHub(options, catalog, identity);
  await hub.addPairs(sizes);
  await hub.listen();
  return hub;
}

class RunningHub implements Hub, SessionHost {
  readonly identity: HubIdentity;
  readonly name: string;
  readonly pingIntervalMs: number;
  readonly tuning: HubTuning;
  readonly logger: Logger;
  readonly #listen: { readonly host: string; readonly port: number };
  readonly #catalog: Catalog;
  readonly #server: Server;
  readonly #gate: AgentGate | undefined;
  readonly #sessions = new Set<AgentSession>();
  readonly #replicas = new Map<string, Replica>();
  readonly #completed = deferred<void>();
  readonly #schedule: VerifySchedule<Replica> | undefined;
  #address: { readonly host: string; readonly port: number };
  #closing: Promise<void> | undefined;

  constructor(options: HubOptions, catalog: Catalog, identity: HubIdentity) {
    this.identity = identity;
    this.name = cutName(options.hubName ?? os.hostname());
    this.pingIntervalMs = options.pingIntervalMs ?? DEFAULT_PING_INTERVAL_MS;
    this.tuning = { ...DEFAULT_TUNING, ...options.tuning };
    this.logger = options.logger;
    this.#listen = options.listen;
    this.#address = options.listen;
    this.#catalog = catalog;
    const listener = options.createServer ?? listenPaused;
    this.#server = listener((socket) => this.#accept(socket));
    const { verify } = options;
    this.#schedule =
      verify &&
      new VerifySchedule({
        everyMs: verify.everyMs,
        replicas: () => this.#replicas.values(),
        verify: async (replica) => {
          await this.#verify(replica, () => {}, { by: 'schedule', ...verify });
        },
        logger: options.logger,
      });
    this.#gate =
      options.tls &&
      new AgentGate({
        tls: options.tls,
        handshakeMs: this.tuning.handshakeMs,
        logger: options.logger,
        proven: (secure, agent) => this.#begin(secure, agent),
      });
  }

  get address(): { readonly host: string; readonly port: number } {
    return this.#address;
  }

  get completed(): Promise<void> {
    return this.#completed.promise;
  }

  async addPairs(sizes: ReadonlyMap<string, number>): Promise<void> {
    for (const place of this.#catalog.pairs) {
      const replica = this.#addReplica(place, sizes.get(place.key));
      replica.content.undoSeen = await this.#catalog.peekUndo(place).catch(() => undefined);
      // Whoever begins hears what is wrong with it.
      await replica.memory.prepare().catch(() => undefined);
    }
  }

  listen(): Promise<void> {
    const { host, port } = this.#listen;
    return new Promise((resolve, reject) => {
      const failed = (error: Error): void => {
        const message = `the hub can't listen on ${host}:${port}: ${errorMessage(error)}`;
        reject(new OperationError(message, { hint: 'choose another address with --listen', cause: error }));
      };
      this.#server.once('error', failed);
      this.#server.listen({ host, port }, () => {
        this.#server.off('error', failed);
        this.#server.on('error', (error) => this.logger.error({ err: error }, 'the listening socket failed'));
        this.#address = { host, port: (this.#server.address() as AddressInfo).port };
        this.logger.info({ ...this.#address, id: this.identity.id.toString('hex') }, 'listening for agents');
        resolve();
      });
    });
  }

  status(): VolumeStatus[] {
    const replicas = [...this.#replicas.values()].map(replicaStatus);
    const shown = new Set(replicas.map(({ vmName, name }) => JSON.stringify([vmName, name])));
    const refused = [...this.#sessions].flatMap((session) => session.refusals);
    return [...replicas, ...refused.filter(({ vmName, name }) => !shown.has(JSON.stringify([vmName, name])))];
  }

  async verify(volumeName: string, onProgress: (progress: VerifyProgress) => void): Promise<VerifyResult> {
    return this.#verify(this.#find(volumeName), onProgress);
  }

  async resolve(volumeName: string, use: Resolution, agentId?: string): Promise<string> {
    const replica = this.#find(volumeName);
    if (replica.link) {
      throw new OperationError(`volume ${volumeName} is being replicated by ${replica.vmName}`, {
        hint: 'end that agent first, if another one is to have the replica',
      });
    }
    const done = await replica.memory.resolve(use, agentId);
    // What was kept for another content must not be taken for this one's: it is looked at anew.
    await replica.content.letGo();
    for (const session of this.#sessions) session.retry(replica.volumeName);
    return done;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #verify(
    replica: Replica,
    onProgress: (progress: VerifyProgress) => void,
    how?: VerifyHow,
  ): Promise<VerifyResult> {
    const session = [...this.#sessions].find((one) => one === replica.link);
    if (!session) {
      throw new OperationError(`${replica.volumeName} can't be verified: no agent replicates it now`, {
        hint: 'start the agent, then: repagent wait --state protected',
      });
    }
    return session.verify(replica, onProgress, how);
  }

  replicaFor(vmName: string, volumeName: string): Replica | undefined {
    const place = this.#catalog.locate(vmName, volumeName);
    return place && (this.#replicas.get(place.key) ?? this.#addReplica(place));
  }

  introduced(session: AgentSession): void {
    for (const other of this.#sessions) {
      if (other === session || !isSameLife(other.agent, session.agent)) continue;
      other.end(new Error('the agent connected again'));
    }
  }

  ended(session: AgentSession): void {
    this.#sessions.delete(session);
    this.#checkCompleted();
  }

  #accept(socket: Socket): void {
    // An error before the session listens must not end the process.
    socket.on('error', () => {});
    if (this.#closing || this.#sessions.size + (this.#gate?.waiting ?? 0) >= MAX_SESSIONS) {
      socket.destroy();
      return;
    }
    if (this.#gate) this.#gate.admit(socket);
    else this.#begin(socket, undefined);
  }

  #begin(socket: Socket, proven: ProvenAgent | undefined): void {
    if (this.#closing) socket.destroy();
    else this.#sessions.add(new AgentSession(socket, this, proven));
  }

  #addReplica(place: ReplicaPlace, sizeBytes?: number): Replica {
    const replica = new Replica({
      key: place.key,
      volumeName: place.volumeName,
      sizeBytes,
      openStore: (sizeBytes, grows, note) => this.#catalog.openStore(place, sizeBytes, grows, note),
      memory: (onRecorded) =>
        new ReplicaMemory({
          volumeName: place.volumeName,
          place: this.#catalog.recordPlace(place),
          look: (durably) => this.#catalog.look(place, durably),
          recordMs: this.tuning.recordMs,
          logger: this.logger,
          onRecorded,
        }),
      tuning: this.tuning,
      logger: this.logger,
      onFinished: () => this.#checkCompleted(),
    });
    replica.vmName = place.vmName;
    this.#replicas.set(place.key, replica);
    return replica;
  }

  #find(volumeName: string): Replica {
    const replicas = [...this.#replicas.values()];
    const found = replicas.filter(
      (one) => one.volumeName === volumeName || `${one.vmName}/${one.volumeName}` === volumeName,
    );
    if (found.length === 1) return found[0]!;
    if (found.length === 0) {
      throw new OperationError(`there is no volume ${volumeName}`, {
        hint: `known volumes: ${replicas.map((one) => one.volumeName).join(', ') || 'none'}`,
      });
    }
    throw new OperationError(`${found.length} machines have a volume ${volumeName}`, {
      hint: `say which: ${found.map((one) => `${one.vmName}/${one.volumeName}`).join(', ')}`,
    });
  }

  #checkCompleted(): void {
    const replicas = [...this.#replicas.values()];
    if (replicas.length === 0 || this.#closing) return;
    if (replicas.every((one) => one.isFinished && one.claimant === undefined)) this.#completed.resolve();
  }

  async #close(): Promise<void> {
    const stopper = new Stopper();
    this.#schedule?.close();
    for (const replica of this.#replicas.values()) {
      stopper.add(`replica of ${replica.volumeName}`, () => replica.close());
    }
    const stopped = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#gate?.close();
    for (const session of this.#sessions) session.end(new Error('the hub is shutting down'));
    stopper.add('listening', () => stopped);
    await stopper.close();
  }
}

/** Nothing is read of a connection before its session has the memory for it. */
function listenPaused(accept: (socket: Socket) => void): Server {
  return createServer({ pauseOnConnect: true }, accept);
}

/** As much of a name as the wire's field holds. */
function cutName(name: string): string {
  let cut = name;
  while (Buffer.byteLength(cut) > MAX_NAME_BYTES) cut = [...cut].slice(0, -1).join('');
  return cut;
}
