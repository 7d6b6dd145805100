// One agent's connection: handshake, the order of its stream, and who gets what. Changes are taken in during a pass over
// received bytes and applied at its end; while a store is slow the connection is paused, so that order is kept and
// memory bounded. Nothing that arrives after the session's end may reach a replica.
import type { Socket } from 'node:net';
import { unreachable } from '../base/assert.ts';
import { OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { steadyUs } from '../base/steady-clock.ts';
import type { VerifyProgress, VerifyResult, VolumeStatus } from '../control/status.ts';
import { ACK_STATES, type AckState, FEATURE_PAIRING, hasFlag } from '../repwire/constants.ts';
import * as encode from '../repwire/encode.ts';
import { FrameParser } from '../repwire/frame-parser.ts';
import type {
  AgentShutdown,
  Hello,
  Recorded,
  RepMessage,
  ReportVmVolumes,
  StartPairing,
} from '../repwire/messages.ts';
import { SocketLink } from '../transport/socket-link.ts';
import { WireError } from '../wire/struct.ts';
import type { ProvenAgent } from './agent-gate.ts';
import { HashExchange, type VerifyHow } from './hash-exchange.ts';
import { Heartbeat } from './heartbeat.ts';
import { HUB_FEATURES } from './hub-tuning.ts';
import { PackedIntake } from './packed-intake.ts';
import { ReadPump } from './read-pump.ts';
import type { Replica } from './replica.ts';
import type { AgentIdentity, ReplicaLink } from './replica-link.ts';
import { describeEnd, endIfOurs } from './session-end.ts';
import type { SessionHost } from './session-host.ts';
import { SESSION_PHASES, type SessionPhase } from './session-phases.ts';
import type { SessionVolume } from './session-volume.ts';
import { StreamIntake } from './stream-intake.ts';
import { StreamPosition } from './stream-position.ts';
import { VerifyAnswers } from './verify-answers.ts';
import { VolumeStarter } from './volume-starter.ts';

export class AgentSession implements ReplicaLink {
  readonly #host: SessionHost;
  readonly #logger: Logger;
  readonly #link: SocketLink;
  readonly #parser: FrameParser;
  readonly #packed: PackedIntake;
  readonly #pump: ReadPump;
  readonly #hashes: HashExchange;
  readonly #starter: VolumeStarter;
  readonly #volumes = new Map<bigint, SessionVolume>();
  readonly #byReplica = new Map<Replica, SessionVolume>();
  /** Volumes of which the agent has to be told something. */
  readonly #told = new Set<SessionVolume>();
  readonly #converging = new Set<Replica>();
  readonly #handshake: NodeJS.Timeout;
  readonly #flush = (): void => this.#sendPending();
  readonly #hold = (stored: Promise<void>): void => this.#holdUntil(stored);
  #phase: SessionPhase = 'reporting';
  #intake: StreamIntake;
  #heartbeat: Heartbeat | undefined;
  #progress: NodeJS.Timeout | undefined;
  #holds = 0;
  #flushIsDue = false;
  #isOver = false;
  #isGraceful = false;
  /** The agent says what it remembers of each replica before that is begun with. */
  #claims = false;
  agent: AgentIdentity | null = null;
  /** The machine's name, as the agent or else its address tells it. */
  vmName: string;

  /** Takes over a connected socket. @param proven who the agent is, where it had to prove that */
  constructor(socket: Socket, host: SessionHost, proven?: ProvenAgent) {
    this.#host = host;
    // An agent that knows the RFC alone tells no name.
    this.vmName = proven?.names[0] ?? socket.remoteAddress ?? 'unknown';
    this.#parser = new FrameParser((message) => this.#take(message));
    this.#intake = new StreamIntake(this.#volumes, null);
    this.#link = new SocketLink(socket, this, { closed: (reason) => this.end(reason) });
    this.#logger = host.logger.child({
      agent: this.#link.peer,
      ...(proven && { certificate: proven.names.join(', ') }),
    });
    const { tuning } = host;
    this.#packed = new PackedIntake({
      atOnceBytes: tuning.unpackAtOnceBytes,
      handle: (message) => this.#take(message),
      later: (take) => this.#takeLater(take),
    });
    this.#pump = new ReadPump(tuning.maxSessionReads, (id, volume, read) => {
      this.#send(encode.encodeRemoteIoRequest(id, volume.id, read.offset, read.length, true));
    });
    this.#hashes = new HashExchange(tuning.verify, (id, volume, range) => {
      this.#send(encode.encodeHashRequest(id, volume.id, range.offset, range.length));
    });
    this.#starter = new VolumeStarter({
      session: this,
      replicaFor: (name) => host.replicaFor(this.vmName, name),
      refusal: () => proven?.refusal(this.vmName),
      logger: this.#logger,
      started: (volume, resumeSequence, pairing) => this.#started(volume, resumeSequence, pairing),
      refused: (volumeId, reason) => this.#refused(volumeId, reason),
    });
    this.#handshake = setTimeout(() => {
      this.end(new Error(`the peer said nothing useful for ${tuning.handshakeMs} ms`));
    }, tuning.handshakeMs);
    this.#logger.debug('connected');
  }

  /** How others are told of it. */
  get description(): string {
    return `${this.vmName} at ${this.#link.peer}`;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  get receivedSequence(): number {
    return this.#intake.received;
  }

  get clockOffsetUs(): number | null {
    return this.#heartbeat?.clockOffsetUs ?? null;
  }

  /** Volumes that this agent reported and the hub does not replicate. */
  get refusals(): VolumeStatus[] {
    return this.#starter.refusals;
  }

  get wantBytes(): number {
    return this.#parser.wantBytes;
  }

  /** One pass over received bytes. Whatever stops it, what was taken in is applied. */
  consume(bytes: Buffer): number {
    if (this.#isOver) return bytes.length;
    this.#heartbeat?.heard();
    try {
      return this.#consumePass(bytes);
    } catch (error) {
      endIfOurs(error);
      throw error;
    }
  }

  #consumePass(bytes: Buffer): number {
    this.#packed.passBegins();
    try {
      return this.#parser.consume(bytes);
    } finally {
      this.#intake.applyAll(this.#hold);
      if (this.#holds === 0) this.#passEnded();
    }
  }

  /** A pass over what had to be waited for, while nothing else was taken in. */
  #takeLater(take: () => void): void {
    if (this.#isOver) return;
    try {
      try {
        take();
      } finally {
        this.#intake.applyAll(this.#hold);
      }
    } catch (error) {
      endIfOurs(error);
      this.end(error instanceof Error ? error : new Error(String(error)));
    }
  }

  tell(replica: Replica): void {
    if (replica.state === 'converging') this.#converging.add(replica);
    else this.#converging.delete(replica);
    const volume = this.#byReplica.get(replica);
    if (!volume) return;
    this.#told.add(volume);
    this.#flushSoon();
  }

  recorded(replica: Replica, position: Omit<Recorded, 'kind' | 'volumeId'>): void {
    const volume = this.#byReplica.get(replica);
    if (volume) this.#send(encode.encodeRecorded({ volumeId: volume.id, ...position }));
  }

  /** Tries a volume again that was refused. */
  retry(volumeName: string): void {
    if (!this.#isOver) this.#starter.retry(volumeName);
  }

  wake(replica: Replica): void {
    const volume = this.#byReplica.get(replica);
    if (!volume) return;
    this.#pump.wake(volume);
    this.#flushSoon();
  }

  /** @throws OperationError when it can't be done now, or not finished */
  async verify(
    replica: Replica,
    onProgress: (progress: VerifyProgress) => void,
    how?: VerifyHow,
  ): Promise<VerifyResult> {
    const volume = this.#byReplica.get(replica);
    if (!volume || this.#isOver) throw new OperationError(`${replica.volumeName} has no agent`);
    if (!this.agent) {
      throw new OperationError(`the agent of ${volume.name} knows no digests: it speaks the RFC alone`, {
        hint: 'compare the images offline, with cmp or qemu-img compare',
      });
    }
    return this.#hashes.verify(volume, onProgress, how);
  }

  /** Ends the connection now, for good. Idempotent. */
  end(reason: Error | undefined): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#handshake);
    clearInterval(this.#progress);
    this.#heartbeat?.stop();
    const why = describeEnd(reason);
    // Whoever goes on talking nonsense after a goodbye did not mean it.
    if (reason instanceof WireError) this.#isGraceful = false;
    this.#hashes.abortAll(new OperationError(`the agent is gone: ${why}`));
    for (const { replica } of this.#volumes.values()) replica.detach(this.#isGraceful, why);
    this.#starter.releaseAll();
    this.#link.destroy(reason);
    if (this.#isGraceful) this.#logger.info({ vm: this.vmName }, 'the agent shut down');
    else this.#logger.warn({ vm: this.vmName, reason: why }, 'the connection to the agent ended');
    this.#host.ended(this);
  }

  #take(message: RepMessage): boolean {
    if (this.#isOver) return false;
    if (!SESSION_PHASES[this.#phase].takes.has(message.kind)) {
      throw new WireError(`${message.kind} came in the phase ${this.#phase}`);
    }
    switch (message.kind) {
      case 'protectedWrite':
        this.#intake.write(message);
        return true;
      case 'remoteIoResponse':
        this.#intake.touch(this.#pump.answered(message));
        return true;
      case 'protectedZero':
        this.#intake.zero(message);
        return true;
      case 'protectedFlush':
        this.#intake.flush(message);
        return true;
      case 'dirty':
        this.#intake.dirty(message);
        return true;
      case 'packed':
        return this.#mayGoOn(this.#packed.take(message));
      case 'hashResponse':
        return this.#mayGoOn(this.#hashes.answered(message, this.#intake.received));
      case 'ping':
        this.#send(encode.encodePing('pong', message.token, steadyUs()));
        return true;
      case 'pong':
        this.#heartbeat?.pong(message.token, message.timeUs);
        return true;
      case 'reportVmVolumes':
        this.#reported(message);
        return true;
      case 'hello':
        this.#greeted(message);
        return true;
      case 'agentShutdown':
        this.#saidGoodbye(message);
        return true;
      case 'verifyRequest':
        this.#verifyAsked(message.requestId, message.volumeId);
        return true;
      case 'claim':
        if (this.#claims) this.#starter.claimed(message);
        return true;
      case 'recorded':
        this.#volumes.get(message.volumeId)?.replica.memory.echoed(message);
        return true;
      case 'unknown':
        this.#logger.debug({ command: message.commandId }, 'passed over a command of a later version');
        return true;
      case 'startProtect':
      case 'remoteIoRequest':
      case 'ack':
      case 'hashRequest':
      case 'verifyResponse':
      case 'volumeError':
        throw new WireError(`${message.kind} is for agents`);
      default:
        return unreachable(message, 'message');
    }
  }

  #reported(message: ReportVmVolumes): void {
    this.#starter.report(message.volumes, !message.offersHello && !this.agent);
    if (this.#phase === 'reporting') {
      if (message.offersHello) {
        this.#phase = 'greeting';
        const { identity, pingIntervalMs, name } = this.#host;
        this.#send(encode.encodeHello(identity.id, identity.epoch, pingIntervalMs, name, HUB_FEATURES));
        return;
      }
      this.#phase = 'rfc';
      clearTimeout(this.#handshake);
      this.#logger.info({ vm: this.vmName }, 'an agent that speaks the RFC alone began');
    }
    if (this.#phase !== 'greeting' && !this.#claims) this.#starter.startAll();
  }

  #greeted(message: Hello): void {
    if (message.version === 0) throw new WireError('HELLO of version 0');
    clearTimeout(this.#handshake);
    this.#phase = 'hello';
    this.agent = { id: message.id.toString('hex'), epoch: message.epoch };
    this.vmName = message.name;
    this.#intake = new StreamIntake(this.#volumes, new StreamPosition());
    const { tuning, pingIntervalMs } = this.#host;
    this.#heartbeat = new Heartbeat({
      intervalMs: pingIntervalMs,
      deadMs: tuning.deadMs,
      ping: (token, timeUs) => this.#send(encode.encodePing('ping', token, timeUs)),
      died: () => this.end(new Error(`nothing was heard of the agent for ${tuning.deadMs} ms`)),
    });
    this.#progress = setInterval(() => this.#tellProgress(), tuning.progressMs);
    this.#host.introduced(this);
    this.#logger.info({ vm: this.vmName, id: this.agent.id }, 'an agent began');
    this.#packed.agree(message.features);
    this.#pump.agree(message.features);
    this.#claims = hasFlag(message.features, FEATURE_PAIRING);
    if (!this.#claims) this.#starter.startAll();
  }

  #saidGoodbye(message: AgentShutdown): void {
    this.#phase = 'goodbye';
    this.#isGraceful = this.agent === null || message.sequence === this.#intake.received;
    if (this.#isGraceful) return;
    this.#logger.warn(
      { sequence: message.sequence, received: this.#intake.received },
      'the agent shut down before it had sent everything',
    );
  }

  #started(volume: SessionVolume, resumeSequence: number | null, pairing: StartPairing | undefined): void {
    this.#volumes.set(volume.id, volume);
    this.#byReplica.set(volume.replica, volume);
    this.#send(encode.encodeStartProtect(volume.id, volume.name, resumeSequence, pairing));
    this.#told.add(volume);
    this.wake(volume.replica);
  }

  #refused(volumeId: bigint, reason: string): void {
    if (this.agent) this.#send(encode.encodeVolumeError(volumeId, reason));
  }

  #verifyAsked(requestId: number, volumeId: bigint): void {
    const volume = this.#volumes.get(volumeId);
    const answers = new VerifyAnswers(requestId, volumeId, volume?.sizeBytes ?? 0, (frame) =>
      this.#send(frame),
    );
    if (!volume) {
      answers.failed();
      return;
    }
    this.#hashes
      .verify(volume, (progress) => answers.progress(progress))
      .then(
        (result) => answers.done(result),
        (error: unknown) => {
          this.#logger.warn({ volume: volume.name, err: error }, 'the verification could not be finished');
          answers.failed();
        },
      );
  }

  #mayGoOn(work: MaybePromise<void>): boolean {
    if (work === undefined) return true;
    this.#holdUntil(work);
    return false;
  }

  /** Takes nothing more in until `work`, which never rejects, has ended. */
  #holdUntil(work: Promise<void>): void {
    this.#holds += 1;
    if (this.#holds === 1) {
      this.#link.pause();
      this.#heartbeat?.hold(true);
    }
    void work.then(() => {
      this.#holds -= 1;
      if (this.#holds > 0 || this.#isOver) return;
      this.#heartbeat?.hold(false);
      this.#passEnded();
      this.#link.resume();
    });
  }

  #passEnded(): void {
    for (const replica of this.#converging) replica.streamAdvanced();
  }

  #tellProgress(): void {
    for (const volume of this.#volumes.values()) {
      const { replica } = volume;
      const remainingBytes = replica.engine.remainingBytes;
      if (remainingBytes === volume.toldRemainingBytes) continue;
      volume.toldRemainingBytes = remainingBytes;
      this.tell(replica);
    }
  }

  #flushSoon(): void {
    if (this.#flushIsDue) return;
    this.#flushIsDue = true;
    queueMicrotask(this.#flush);
  }

  #sendPending(): void {
    this.#flushIsDue = false;
    if (this.#isOver) return;
    this.#link.cork();
    for (const volume of this.#told) this.#sendAck(volume);
    this.#told.clear();
    this.#pump.pump((volume) => this.#hashes.compare(volume));
    this.#link.uncork();
  }

  #sendAck({ id, replica }: SessionVolume): void {
    const state = replica.state as AckState;
    if (!this.agent || !ACK_STATES.includes(state)) return;
    const { totalBytes, remainingBytes } = replica.engine;
    const doneBytes = totalBytes - remainingBytes;
    const { reason } = replica.history.resyncs;
    this.#send(encode.encodeAck(id, replica.ackedSequence, state, doneBytes, totalBytes, reason));
  }

  #send(frame: Buffer): void {
    if (this.#isOver) return;
    this.#link.send([frame]);
    const { maxUnsentBytes } = this.#host.tuning;
    if (this.#link.unsentBytes > maxUnsentBytes) {
      this.end(new Error(`the agent leaves more than ${maxUnsentBytes} bytes unread`));
    }
  }
}
