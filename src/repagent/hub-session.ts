// One connection to the hub, from the report of the volumes to its end: which protocol the hub speaks, who gets which
// message. When it ends, for whatever reason, every volume is off the stream before anything else happens.
import type { Socket } from 'node:net';
import { unreachable } from '../base/assert.ts';
import { errorMessage } from '../base/errors.ts';
import { MiB } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { ResyncCause, ResyncReason } from '../base/resync-reason.ts';
import type { VerifyProgress, VerifyResult } from '../control/status.ts';
import { FEATURE_WIDE_READS, hasFlag } from '../repwire/constants.ts';
import * as encode from '../repwire/encode.ts';
import { FrameParser } from '../repwire/frame-parser.ts';
import type { Ack, Hello, Recorded, RepMessage, StartProtect, VolumeError } from '../repwire/messages.ts';
import { type ByteConsumer, SocketLink } from '../transport/socket-link.ts';
import { WireError } from '../wire/struct.ts';
import { type Compression, chooseCompression } from './compression.ts';
import { FarewellWatch } from './farewell-watch.ts';
import { HashResponder } from './hash-responder.ts';
import { Liveness } from './liveness.ts';
import { PairingTalk } from './pairing-talk.ts';
import type { ProtectedVolume } from './protected-volume.ts';
import { RemoteIo } from './remote-io.ts';
import { RequestWindow } from './request-window.ts';
import type { SessionOptions } from './session-options.ts';
import { StreamSender } from './stream-sender.ts';
import { VerifyRequests } from './verify-requests.ts';

/** Bytes that a hub may leave unread before its own questions are not answered any more. */
const MAX_UNSENT_BYTES = 64 * MiB;

/** A hub may begin anew with a volume now and then; each time costs a list of what it lacks. */
const MAX_STARTS_PER_VOLUME = 64;

/** After the farewell the hub ends the connection; it gets so long for it, ms. */
const GOODBYE_MS = 1000;

/** hello: the hub has said nothing yet. leaving: the farewell was sent, nothing else may follow it. */
type Phase = 'hello' | 'rfc' | 'extended' | 'leaving' | 'over';

/** What only a hub that said HELLO may send, after it. */
type ExtensionKind =
  | 'ack'
  | 'hashRequest'
  | 'ping'
  | 'pong'
  | 'verifyResponse'
  | 'volumeError'
  | 'recorded'
  | 'unknown';

export class HubSession implements ByteConsumer {
  readonly #options: SessionOptions;
  readonly #logger: Logger;
  readonly #link: SocketLink;
  readonly #parser: FrameParser;
  readonly #window: RequestWindow;
  readonly #verifies = new VerifyRequests();
  readonly #farewell: FarewellWatch;
  readonly #pairing: PairingTalk;
  /** Volumes by the ids that the hub may name them by: those it gave, else those that were reported. */
  readonly #ids = new Map<bigint, ProtectedVolume>();
  readonly #started = new Set<ProtectedVolume>();
  #phase: Phase = 'hello';
  /** What both sides can pack with; undefined: nothing, or not known yet. */
  compression: Compression | undefined;
  #hubKey: string | undefined;
  #sender: StreamSender | undefined;
  #remoteIo: RemoteIo | undefined;
  #hashes: HashResponder | undefined;
  #liveness: Liveness | undefined;
  #reportRetry: NodeJS.Timeout | undefined;
  #pingToken = 0n;
  #starts = 0;
  #saidStrange = false;

  /** Takes over a connected socket. `report` begins the talk. */
  constructor(socket: Socket, options: SessionOptions) {
    this.#options = options;
    this.#parser = new FrameParser((message) => this.#take(message));
    this.#link = new SocketLink(socket, this, {
      closed: (reason) => this.end(reason),
      drained: () => this.wake(),
    });
    this.#logger = options.logger.child({ hub: this.#link.peer });
    this.#window = new RequestWindow({
      pause: () => {
        this.#liveness?.hold(true);
        this.#link.pause();
      },
      resume: () => {
        this.#liveness?.hold(false);
        this.#link.resume();
      },
    });
    this.#farewell = new FarewellWatch(() => this.#isFinished());
    this.#pairing = new PairingTalk({
      volumes: options.volumes,
      send: (frame) => {
        if (!this.#hasEnded) this.#control(frame);
      },
      onFault: this.#fault,
    });
  }

  /** Whether the hub knows the extensions; undefined while that is open. */
  get isExtended(): boolean | undefined {
    return this.#phase === 'extended' ? true : this.#phase === 'rfc' ? false : undefined;
  }

  get wantBytes(): number {
    return this.#parser.wantBytes;
  }

  consume(bytes: Buffer): number {
    if (this.#phase === 'over') return bytes.length;
    this.#liveness?.heard();
    return this.#parser.consume(bytes);
  }

  /** The stream has something to send. */
  wake(): void {
    this.#sender?.wake();
  }

  /** Tells the hub of all volumes: at the beginning, when one is added, and to try again. */
  report(): void {
    if (this.#phase === 'leaving' || this.#phase === 'over') return;
    const volumes = [...this.#options.volumes.values()];
    for (const volume of volumes) {
      if (!this.#ids.has(volume.reportedId)) this.#ids.set(volume.reportedId, volume);
    }
    this.#control(
      encode.encodeReport(
        volumes.map(({ name, reportedId, sizeBytes }) => ({ name, volumeId: reportedId, sizeBytes })),
        true,
      ),
    );
    this.#pairing.claim();
  }

  /** Asks the hub to compare a volume with its replica. @throws OperationError when it fails or the connection ends */
  verify(volume: ProtectedVolume, onProgress: (progress: VerifyProgress) => void): Promise<VerifyResult> {
    return this.#verifies.ask(volume.name, onProgress, (requestId) =>
      this.#control(encode.encodeVerifyRequest(requestId, volume.wireId)),
    );
  }

  /**
   * Ends in order: everything queued is sent and acknowledged, then the hub is told.
   * @param timeoutMs after which it ends as it stands
   */
  async finish(timeoutMs: number): Promise<void> {
    if (this.#phase === 'hello') this.end(undefined);
    if (this.#phase === 'over') return;
    this.#options.stream.hurry();
    const isComplete = await this.#farewell.wait(timeoutMs);
    if (this.#hasEnded) return;
    if (this.#isSent()) {
      this.#sayFarewell(isComplete);
      await this.#farewell.closed(GOODBYE_MS);
    } else {
      this.#logger.warn('the queue could not be sent in time: the hub will have to compare or copy anew');
    }
    this.end(undefined);
  }

  /** Ends now. Idempotent. @param why the hub will have to read what changes from here on */
  end(reason: Error | undefined, why: ResyncReason = 'link-lost'): void {
    if (this.#phase === 'over') return;
    this.#phase = 'over';
    clearInterval(this.#reportRetry);
    this.#liveness?.stop();
    this.#stopStreams({ reason: why, detail: reason ? errorMessage(reason) : null });
    this.#remoteIo?.stop();
    this.#hashes?.stop();
    this.#sender?.stop();
    this.#verifies.abort(reason ? errorMessage(reason) : 'the connection to the hub ended');
    this.#link.destroy(reason);
    this.#farewell.ended();
    this.#options.onEnded(reason);
  }

  get #hasEnded(): boolean {
    return this.#phase === 'over';
  }

  #stopStreams(why: ResyncCause): void {
    this.#options.stream.shut();
    for (const volume of this.#started) volume.stop(why);
    this.#started.clear();
  }

  #sayFarewell(isComplete: boolean): void {
    const { stream } = this.#options;
    if (!isComplete) this.#logger.warn('the hub has not acknowledged everything in time');
    const sequence = this.#phase === 'extended' ? stream.sequence : 0;
    this.#phase = 'leaving';
    this.#stopStreams({ reason: 'restart', detail: null });
    this.#link.send([encode.encodeAgentShutdown(sequence)]);
    this.#link.end();
  }

  /** Whether everything has left that can leave: the farewell may follow. */
  #isSent(): boolean {
    return this.#sender?.isIdle === true && !this.#options.stream.hasDegraded;
  }

  #isFinished(): boolean {
    if (!this.#isSent()) return false;
    if (this.#phase !== 'extended') return true;
    for (const volume of this.#started) if (volume.awaitsAck) return false;
    return true;
  }

  #take(message: RepMessage): boolean {
    if (this.#phase === 'over') return false;
    if (this.#phase === 'leaving') return true;
    if (this.#phase === 'hello' && this.#negotiate(message)) return true;
    switch (message.kind) {
      case 'startProtect':
        this.#start(message);
        return true;
      case 'remoteIoRequest':
        this.#remoteIo!.request(message);
        return !this.#window.isPaused;
      case 'hello':
        throw new WireError('the hub said HELLO twice, or too late');
      case 'ack':
      case 'hashRequest':
      case 'ping':
      case 'pong':
      case 'verifyResponse':
      case 'volumeError':
      case 'recorded':
      case 'unknown':
        if (this.#phase === 'rfc') throw new WireError(`${message.kind} came from a hub that said no HELLO`);
        return this.#takeExtension(message);
      case 'protectedWrite':
      case 'protectedZero':
      case 'protectedFlush':
      case 'dirty':
      case 'reportVmVolumes':
      case 'remoteIoResponse':
      case 'hashResponse':
      case 'verifyRequest':
      case 'packed':
      case 'claim':
      case 'agentShutdown':
        throw new WireError(`${message.kind} is for hubs: is the hub's address that of an agent?`);
      default:
        return unreachable(message, 'message');
    }
  }

  #takeExtension(message: Extract<RepMessage, { kind: ExtensionKind }>): boolean {
    switch (message.kind) {
      case 'ack':
        this.#acked(message);
        return true;
      case 'hashRequest':
        if (!this.#hashes!.request(message)) throw new WireError(`HASH_REQ for volume ${message.volumeId}`);
        return !this.#window.isPaused;
      case 'ping':
        this.#control(encode.encodePing('pong', message.token, this.#options.nowUs()));
        return true;
      case 'pong':
        return true;
      case 'verifyResponse':
        this.#verifies.answered(message);
        return true;
      case 'volumeError':
        this.#refused(message);
        return true;
      case 'recorded':
        this.#recorded(message);
        return true;
      case 'unknown':
        this.#logger.debug({ command: message.commandId }, 'passed over a command of a later version');
        return true;
      default:
        return unreachable(message, 'message');
    }
  }

  /** The first frame decides. @returns whether that was all of it */
  #negotiate(message: RepMessage): boolean {
    const isHello = message.kind === 'hello';
    if (!isHello && message.kind !== 'startProtect' && message.kind !== 'remoteIoRequest') {
      throw new WireError(`the hub began with ${message.kind}`);
    }
    this.#phase = isHello ? 'extended' : 'rfc';
    const { stream, stats, limiter, compress, pace } = this.#options;
    stream.open(isHello);
    this.compression = chooseCompression(compress, isHello ? message.features : 0);
    this.#sender = new StreamSender({
      outlet: this.#link,
      queue: stream.queue,
      extensions: isHello,
      limiter,
      compression: this.compression,
      onRoom: () => {
        stream.recover();
        this.#farewell.check();
      },
      onFault: this.#fault,
    });
    const sender = this.#sender;
    const shared = {
      stream,
      window: this.#window,
      pace,
      volumeOf: (id: bigint) => this.#ids.get(id),
      onFault: this.#fault,
      logger: this.#logger,
    };
    const wideReads = isHello && hasFlag(message.features & this.#options.features, FEATURE_WIDE_READS);
    this.#remoteIo = new RemoteIo({ ...shared, wideReads, stats, answer: (answer) => sender.answer(answer) });
    if (isHello) {
      this.#hashes = new HashResponder(shared);
      this.#greet(message);
    } else {
      this.#logger.info("the hub speaks the RFC's protocol alone");
    }
    this.#options.onNegotiated();
    return isHello;
  }

  #greet(hello: Hello): void {
    if (hello.version === 0) throw new WireError('HELLO of version 0');
    this.#options.admitHub(hello.id);
    const { agentId, epoch, features, compress, pingIntervalMs, pingDeadMs, vmName, reportRetryMs, nowUs } =
      this.#options;
    this.#hubKey = `${hello.id.toString('hex')}:${hello.epoch}`;
    this.#control(encode.encodeHello(agentId, epoch, pingIntervalMs, vmName, features));
    this.#pairing.begin(features, hello.features);
    this.#liveness = new Liveness({
      intervalMs: pingIntervalMs,
      deadMs: pingDeadMs,
      ping: () => {
        this.#pingToken += 1n;
        this.#control(encode.encodePing('ping', this.#pingToken, nowUs()));
      },
      died: (silentMs) => this.end(new Error(`nothing was heard of the hub for ${silentMs} ms`)),
    });
    this.#reportRetry = setInterval(() => {
      for (const volume of this.#options.volumes.values()) {
        if (volume.health.isFailed) return this.report();
      }
    }, reportRetryMs);
    const compression = this.compression?.codec ?? 'none';
    this.#logger.info({ name: hello.name, compression }, 'the hub is there');
    if (compress !== 'off' && !this.compression) {
      this.#logger.warn({ compress }, 'the hub can not unpack that; what goes to it is not compressed');
    }
  }

  #start(message: StartProtect): void {
    const { volumeId, name, resumeSequence } = message;
    const volume = this.#options.volumes.get(name);
    this.#starts += 1;
    if (this.#starts > MAX_STARTS_PER_VOLUME * this.#options.volumes.size) {
      throw new WireError(
        `START_PROTECT came ${this.#starts} times; at most ${MAX_STARTS_PER_VOLUME} a volume`,
      );
    }
    if (!volume) {
      this.#strange({ volume: name }, 'the hub wants to replicate a volume that was not reported');
      return;
    }
    const other = this.#ids.get(volumeId);
    if (other && other !== volume && this.#started.has(other) && other.wireId === volumeId) {
      throw new WireError(`the hub gave ${name} and ${other.name} the same id ${volumeId}`);
    }
    this.#ids.set(volumeId, volume);
    this.#started.add(volume);
    const resumed = volume.start(
      volumeId,
      this.#hubKey,
      resumeSequence,
      this.#pairing.isOn ? message.pairing : null,
    );
    const tell = (resumes: boolean | undefined): void => {
      if (resumes === undefined) return;
      this.#logger.info({ volume: name, resumed: resumes }, 'the hub began to replicate a volume');
    };
    if (resumed instanceof Promise) resumed.then(tell, this.#fault);
    else tell(resumed);
  }

  #acked(ack: Ack): void {
    const { stream } = this.#options;
    if (ack.sequence > stream.sequence) {
      throw new WireError(`ACK of ${ack.sequence}, but the stream has only come to ${stream.sequence}`);
    }
    const volume = this.#ids.get(ack.volumeId);
    if (!volume || !this.#started.has(volume)) return;
    volume.acked(ack);
    this.#farewell.check();
  }

  #recorded(message: Recorded): void {
    const volume = this.#ids.get(message.volumeId);
    if (volume && this.#started.has(volume)) this.#pairing.recorded(volume, message);
  }

  #refused({ volumeId, text }: VolumeError): void {
    const volume = this.#ids.get(volumeId);
    if (!volume) {
      this.#strange({ volumeId: String(volumeId), reason: text }, 'the hub refused an unknown volume');
      return;
    }
    if (volume.health.lastError !== text) {
      this.#logger.warn({ volume: volume.name, reason: text }, 'the hub does not replicate a volume');
    }
    volume.health.refused(text);
    this.#farewell.check();
  }

  /** What makes no sense is told once a connection: a hub must not fill the log. */
  #strange(about: object, message: string): void {
    this.#logger[this.#saidStrange ? 'debug' : 'warn'](about, message);
    this.#saidStrange = true;
  }

  /** Sends a frame that is not of the stream, and waits for no limit. */
  #control(frame: Buffer): void {
    this.#link.send([frame]);
    this.#options.limiter.take(frame.length);
    if (this.#link.unsentBytes > MAX_UNSENT_BYTES) {
      this.end(new Error(`the hub leaves more than ${MAX_UNSENT_BYTES} bytes unread`));
    }
  }

  readonly #fault = (error: unknown): void => {
    this.#logger.error({ err: error }, 'mirroring failed; the connection begins anew');
    this.end(new Error(`mirroring failed: ${errorMessage(error)}`, { cause: error }), 'agent-fault');
  };
}
