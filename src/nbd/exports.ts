// Exports of a server: what the owner gives, and what the handshake and the request rules make of it.
import { UsageError } from '../base/errors.ts';
import { MAX_DISK_BYTES, MAX_NAME_BYTES, MAX_REQUEST_BYTES } from '../base/limits.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import {
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_MAX_STRING_BYTES,
} from '../nbdwire/constants.ts';
import type { RequestRules } from '../nbdwire/request-check.ts';
import type { ExportDirectory, ExportInfo } from '../nbdwire/server-exports.ts';
import { MAX_PAYLOAD_BYTES } from './limits.ts';

/** A disk to serve. The server never closes the device: its owner does, after the server. */
export interface ExportSpec {
  /** What clients ask for; at most 255 bytes of UTF-8. */
  readonly name: string;
  /** For people, in lists; at most 4096 bytes of UTF-8. */
  readonly description?: string;
  readonly device: BlockDevice;
  /** Refuse changes even though the device allows them. */
  readonly readOnly?: boolean;
}

/** One export as connections use it: facts for the handshake, rules for requests, and the device. */
export interface ServedExport extends ExportInfo {
  readonly device: BlockDevice;
  readonly rules: RequestRules;
}

/** Smallest preferred block size that the spec allows, bytes. */
const MIN_PREFERRED_BYTES = 512;

/** Multi-conn is true here: one thread owns the device, whatever connection a request came from. */
const WRITABLE_FLAGS =
  NBD_FLAG_HAS_FLAGS |
  NBD_FLAG_SEND_FLUSH |
  NBD_FLAG_SEND_FUA |
  NBD_FLAG_SEND_TRIM |
  NBD_FLAG_SEND_WRITE_ZEROES |
  NBD_FLAG_SEND_CACHE |
  NBD_FLAG_CAN_MULTI_CONN;

/** Takes the facts as they are now; a connection keeps those of its handshake to its end. */
export function serveExport(spec: ExportSpec): ServedExport {
  const { device } = spec;
  const { limits, sizeBytes } = device;
  const readOnly = limits.readOnly || spec.readOnly === true;
  return {
    name: spec.name,
    description: spec.description,
    sizeBytes,
    transmissionFlags: readOnly ? WRITABLE_FLAGS | NBD_FLAG_READ_ONLY : WRITABLE_FLAGS,
    minBlockBytes: limits.minBlockBytes,
    preferredBlockBytes: Math.max(MIN_PREFERRED_BYTES, limits.minBlockBytes, limits.preferredBlockBytes),
    maxPayloadBytes: Math.min(MAX_REQUEST_BYTES, limits.maxRequestBytes),
    device,
    rules: {
      sizeBytes,
      readOnly,
      minBlockBytes: limits.minBlockBytes,
      // Not what is advertised: a larger request that comes all the same is carried out in pieces.
      maxPayloadBytes: MAX_PAYLOAD_BYTES,
    },
  };
}

/** A fixed set of exports; the first is the default one unless another is named "". */
export class ExportList implements ExportDirectory<ServedExport> {
  readonly #specs = new Map<string, ExportSpec>();

  /** @throws UsageError when a name or description can't be told to a client */
  constructor(specs: readonly ExportSpec[]) {
    for (const spec of specs) {
      checkSpec(spec);
      if (this.#specs.has(spec.name)) throw new UsageError(`two exports are named "${spec.name}"`);
      this.#specs.set(spec.name, spec);
    }
  }

  list(): ServedExport[] {
    return [...this.#specs.values()].map(serveExport);
  }

  find(name: string): ServedExport | undefined {
    const spec = this.#specs.get(name) ?? (name === '' ? this.#specs.values().next().value : undefined);
    return spec && serveExport(spec);
  }
}

function checkSpec({ name, description = '', device }: ExportSpec): void {
  if (Buffer.byteLength(name) > MAX_NAME_BYTES || name.includes('\0')) {
    throw new UsageError(`export name "${name.slice(0, 64)}": at most ${MAX_NAME_BYTES} bytes without NUL`);
  }
  if (Buffer.byteLength(description) > NBD_MAX_STRING_BYTES || description.includes('\0')) {
    throw new UsageError(`description of "${name}": at most ${NBD_MAX_STRING_BYTES} bytes without NUL`);
  }
  if (device.sizeBytes > MAX_DISK_BYTES) {
    throw new UsageError(`export "${name}" has ${device.sizeBytes} bytes; at most ${MAX_DISK_BYTES}`);
  }
}
