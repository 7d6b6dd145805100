// Takes requests off the front of a receive buffer: header, judgement, payload. Refused payloads are thrown away as
// they come, without being held. It reads bytes and gives orders; it owns neither the socket nor the device.
import { KiB } from '../base/limits.ts';
import { parseStatusFilter, STATUS_FILTER_BYTES, STATUS_FILTER_ID_BYTES } from '../nbdwire/block-status.ts';
import {
  NBD_CMD,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_ERROR,
  NBD_EXTENDED_REQUEST_BYTES,
  NBD_REQUEST_BYTES,
  nameOf,
} from '../nbdwire/constants.ts';
import { decodeExtendedRequest, decodeRequest, RequestHeader } from '../nbdwire/request.ts';
import { checkRequest, explainRefusal, type RequestRules } from '../nbdwire/request-check.ts';
import type { ReceiveBuffer } from '../transport/receive-buffer.ts';
import { MAX_SKIPPED_PAYLOAD_BYTES } from './limits.ts';
import type { ReplyQueue } from './reply-queue.ts';
import type { Transmission } from './transmission.ts';

/** Above this, the next header is received alone, so that a payload like the last one can land in its own memory. */
const LARGE_PAYLOAD_BYTES = 512 * KiB;

const WRONG_FILTER = 'the payload asks for something else than some of the selected contexts, once each';

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
  readonly #extended: boolean;
  readonly #headerBytes: number;
  /** A valid header with payload was taken and the payload has not arrived whole. */
  #payloadDue = false;
  /** Bytes of a refused payload still to come. */
  #skipBytes = 0;
  #refusal = 0;
  /** Why, where the header doesn't say. */
  #refusalText: string | undefined;
  #refuseAll = false;
  #expectLarge = false;
  problem = '';

  constructor(received: ReceiveBuffer, replies: ReplyQueue, transmission: Transmission, rules: RequestRules) {
    this.#received = received;
    this.#replies = replies;
    this.#transmission = transmission;
    this.#rules = rules;
    this.#extended = rules.style === 'extended';
    this.#headerBytes = this.#extended ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES;
    received.want(this.#headerBytes, false);
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
    if (received.available < this.#headerBytes) {
      received.want(this.#headerBytes, this.#expectLarge);
      return 'starved';
    }
    const request = this.#request;
    const decode = this.#extended ? decodeExtendedRequest : decodeRequest;
    if (!decode(received.bytes, received.start, request)) return this.#badMagic();
    received.consume(this.#headerBytes);
    this.#expectLarge = false;
    if (request.type === NBD_CMD.DISC) return 'disconnect';
    if (this.#extended && (request.flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0) return this.#takeWithPayload();
    const error = this.#judge();
    if (request.type === NBD_CMD.WRITE && !this.#extended)
      return error === NBD_ERROR.OK ? this.#takePayload() : this.#refusePayload(error);
    if (error !== NBD_ERROR.OK) this.#refuse(error);
    else if (request.type === NBD_CMD.BLOCK_STATUS)
      this.#transmission.blockStatus(request, this.#rules.contexts);
    else this.#transmission.run(request);
    return 'taken';
  }

  #judge(): number {
    return this.#refuseAll ? NBD_ERROR.ESHUTDOWN : checkRequest(this.#request, this.#rules);
  }

  /** An extended request that says that it has a payload, whether or not its command has one. */
  #takeWithPayload(): ReadResult {
    const { type, length } = this.#request;
    const { maxPayloadBytes, contexts } = this.#rules;
    // The extension wants no patience with these.
    if (length > maxPayloadBytes) return this.#tooLong();
    if (type === NBD_CMD.BLOCK_STATUS && !this.#refuseAll) {
      const mostBytes = STATUS_FILTER_BYTES + contexts.length * STATUS_FILTER_ID_BYTES;
      return length <= mostBytes ? this.#takePayload() : this.#refusePayload(NBD_ERROR.EINVAL, WRONG_FILTER);
    }
    const error =
      type === NBD_CMD.WRITE ? this.#judge() : this.#refuseAll ? NBD_ERROR.ESHUTDOWN : NBD_ERROR.EINVAL;
    return error === NBD_ERROR.OK ? this.#takePayload() : this.#refusePayload(error);
  }

  #takePayload(): ReadResult {
    const received = this.#received;
    const request = this.#request;
    const { length } = request;
    if (received.available < length) {
      this.#payloadDue = true;
      received.want(length, false);
      return 'starved';
    }
    this.#payloadDue = false;
    this.#expectLarge = length >= LARGE_PAYLOAD_BYTES;
    const { start, slab } = received;
    received.consume(length);
    received.want(this.#headerBytes, this.#expectLarge);
    const payload = slab.bytes.subarray(start, start + length);
    if (request.type === NBD_CMD.WRITE) this.#transmission.write(request, payload, slab);
    else this.#filteredStatus(payload);
    return 'taken';
  }

  /** BLOCK_STATUS with a payload: it has the length that is meant, and the contexts to tell. */
  #filteredStatus(payload: Buffer): void {
    const request = this.#request;
    const filter = parseStatusFilter(payload, this.#rules.contexts);
    if (filter === undefined) {
      this.#replies.addError(request, NBD_ERROR.EINVAL, WRONG_FILTER);
      return;
    }
    request.length = filter.length;
    const error = this.#judge();
    if (error === NBD_ERROR.OK) this.#transmission.blockStatus(request, filter.contextIds);
    else this.#refuse(error);
  }

  #refuse(error: number): void {
    if (this.#rules.style === 'simple') {
      this.#replies.addError(this.#request, error, '');
      return;
    }
    const { message, offset } = explainRefusal(this.#request, this.#rules, error);
    this.#replies.addError(this.#request, error, message, offset);
  }

  #refusePayload(error: number, message?: string): ReadResult {
    const { length } = this.#request;
    if (length > MAX_SKIPPED_PAYLOAD_BYTES) return this.#tooLong();
    this.#refusal = error;
    this.#refusalText = message;
    this.#skipBytes = length;
    return this.#skip();
  }

  #tooLong(): ReadResult {
    const { type, length } = this.#request;
    const most = this.#rules.maxPayloadBytes;
    this.problem = `a ${nameOf(NBD_CMD, type)} of ${length} bytes; at most ${most} are allowed`;
    return 'lost';
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
    if (this.#refusalText === undefined) this.#refuse(this.#refusal);
    else this.#replies.addError(this.#request, this.#refusal, this.#refusalText);
    return 'taken';
  }

  #badMagic(): ReadResult {
    const magic = this.#received.bytes.readUInt32BE(this.#received.start);
    this.problem = `request magic is 0x${magic.toString(16)}`;
    return 'lost';
  }
}
