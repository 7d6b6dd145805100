// Takes requests off the front of a receive buffer: header, judgement, payload. Refused payloads are thrown away as
// they come, without being held. It reads bytes and gives orders; it owns neither the socket nor the device.
import { KiB } from '../base/limits.ts';
import { NBD_CMD, NBD_ERROR, NBD_REQUEST_BYTES } from '../nbdwire/constants.ts';
import { decodeRequest, RequestHeader } from '../nbdwire/request.ts';
import { checkRequest, type RequestRules } from '../nbdwire/request-check.ts';
import { MAX_SKIPPED_PAYLOAD_BYTES } from './limits.ts';
import type { ReceiveBuffer } from './receive-buffer.ts';
import type { ReplyQueue } from './reply-queue.ts';
import type { Transmission } from './transmission.ts';

/** Above this, the next header is received alone, so that a payload like the last one can land in its own memory. */
const LARGE_PAYLOAD_BYTES = 512 * KiB;

export type ReadResult =
  /** A request, or a piece of one, was taken. */
  | 'taken'
  /** More bytes are needed first. */
  | 'starved'
  /** The client said goodbye. */
  | 'disconnect'
  /** The stream makes no sense; `problem` says why. */
  | 'lost';

export class RequestReader {
  readonly #received: ReceiveBuffer;
  readonly #replies: ReplyQueue;
  readonly #transmission: Transmission;
  readonly #rules: RequestRules;
  readonly #request = new RequestHeader();
  /** A WRITE's header was taken and its payload has not arrived whole. */
  #payloadDue = false;
  /** Bytes of a refused payload still to come. */
  #skipBytes = 0;
  #refusal = 0;
  #refuseAll = false;
  #expectLarge = false;
  problem = '';

  constructor(received: ReceiveBuffer, replies: ReplyQueue, transmission: Transmission, rules: RequestRules) {
    this.#received = received;
    this.#replies = replies;
    this.#transmission = transmission;
    this.#rules = rules;
    received.want(NBD_REQUEST_BYTES, false);
  }

  /** From now on every new request is answered with ESHUTDOWN. */
  refuseAll(): void {
    this.#refuseAll = true;
  }

  /** Whether the bytes so far end in the middle of a request. */
  get isMidRequest(): boolean {
    return this.#payloadDue || this.#skipBytes > 0 || this.#received.available > 0;
  }

  /** Takes the next request, as far as it is there. */
  take(): ReadResult {
    if (this.#payloadDue) return this.#takePayload();
    if (this.#skipBytes > 0) return this.#skip();
    const received = this.#received;
    if (received.available < NBD_REQUEST_BYTES) {
      received.want(NBD_REQUEST_BYTES, this.#expectLarge);
      return 'starved';
    }
    const request = this.#request;
    if (!decodeRequest(received.bytes, received.start, request)) return this.#badMagic();
    received.consume(NBD_REQUEST_BYTES);
    this.#expectLarge = false;
    if (request.type === NBD_CMD.DISC) return 'disconnect';
    const error = this.#refuseAll ? NBD_ERROR.ESHUTDOWN : checkRequest(request, this.#rules);
    if (request.type === NBD_CMD.WRITE)
      return error === NBD_ERROR.OK ? this.#takePayload() : this.#refuseWrite(error);
    if (error === NBD_ERROR.OK) this.#transmission.run(request);
    else this.#replies.addHeader(error, request.cookieHigh, request.cookieLow);
    return 'taken';
  }

  #takePayload(): ReadResult {
    const received = this.#received;
    const { length } = this.#request;
    if (received.available < length) {
      this.#payloadDue = true;
      received.want(length, false);
      return 'starved';
    }
    this.#payloadDue = false;
    this.#expectLarge = length >= LARGE_PAYLOAD_BYTES;
    const { start, slab } = received;
    received.consume(length);
    received.want(NBD_REQUEST_BYTES, this.#expectLarge);
    this.#transmission.write(this.#request, slab.bytes.subarray(start, start + length), slab);
    return 'taken';
  }

  #refuseWrite(error: number): ReadResult {
    const { length } = this.#request;
    if (length > MAX_SKIPPED_PAYLOAD_BYTES) {
      this.problem = `a WRITE of ${length} bytes; at most ${this.#rules.maxPayloadBytes} are allowed`;
      return 'lost';
    }
    this.#refusal = error;
    this.#skipBytes = length;
    return this.#skip();
  }

  #skip(): ReadResult {
    const received = this.#received;
    const skipped = Math.min(received.available, this.#skipBytes);
    received.consume(skipped);
    this.#skipBytes -= skipped;
    if (this.#skipBytes > 0) {
      received.want(1, false);
      return 'starved';
    }
    this.#replies.addHeader(this.#refusal, this.#request.cookieHigh, this.#request.cookieLow);
    return 'taken';
  }

  #badMagic(): ReadResult {
    const magic = this.#received.bytes.readUInt32BE(this.#received.start);
    this.problem = `request magic is 0x${magic.toString(16)}`;
    return 'lost';
  }
}
