// Exports of a server: what the owner gives, and what the handshake and the request rules make of it.
import { UsageError } from '../base/errors.ts';
import { MAX_DISK_BYTES, MAX_NAME_BYTES, MAX_REQUEST_BYTES } from '../base/limits.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import {
  NBD_BASE_ALLOCATION,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_ROTATIONAL,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_MAX_STRING_BYTES,
} from '../nbdwire/constants.ts';
import type { ExportRules } from '../nbdwire/request-check.ts';
import type { ExportDirectory, ExportInfo } from '../nbdwire/server-exports.ts';
import { type AccessRules, mayUse, OPEN_TO_ALL } from './access.ts';
import type { ClientIdentity } from './client-identity.ts';
import { MAX_EXTRA_CONTEXTS, MAX_PAYLOAD_BYTES } from './limits.ts';
import { allocationContext, type MetaContext } from './meta-contexts.ts';

/** A disk to serve. The server never closes the device: its owner does, after the server. */
export interface ExportSpec {
  /** What clients ask for; at most 255 bytes of UTF-8. */
  readonly name: string;
  /** For people, in lists; at most 4096 bytes of UTF-8. */
  readonly description?: string;
  readonly device: BlockDevice;
  /** Refuse changes even though the device allows them. */
  readonly readOnly?: boolean;
  /** Tell clients that seeks cost time. */
  readonly rotational?: boolean;
  /** What BLOCK_STATUS can tell of it besides base:allocation; at most MAX_EXTRA_CONTEXTS. */
  readonly contexts?: readonly MetaContext[];
  /** Who may use it, and who sees it. Default: everybody. */
  readonly visibility?: ExportVisibility;
  /** Why it can't be used at present; undefined when it can. Default: it always can. */
  readonly absence?: () => string | undefined;
}

/** What of an export may change while it is served. Clients that are connected stay. */
export interface ExportVisibility {
  /** To a client that they don't let in the export doesn't exist. */
  readonly access: AccessRules;
  /** Not listed; who knows the name may open it. */
  readonly hidden: boolean;
}

/** One export as connections use it: facts for the handshake, rules for requests, and the device. */
export interface ServedExport extends ExportInfo {
  readonly device: BlockDevice;
  readonly rules: ExportRules;
  /** By id. */
  readonly metaContexts: readonly MetaContext[];
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
  NBD_FLAG_SEND_FAST_ZERO |
  NBD_FLAG_SEND_CACHE |
  NBD_FLAG_CAN_MULTI_CONN;

/** Takes the facts as they are now; a connection keeps those of its handshake to its end. */
export function serveExport(spec: ExportSpec): ServedExport {
  const { device } = spec;
  const { limits, sizeBytes } = device;
  const readOnly = limits.readOnly || spec.readOnly === true;
  const rotational = spec.rotational === true;
  const metaContexts = [allocationContext(device), ...(spec.contexts ?? [])];
  return {
    name: spec.name,
    description: spec.description,
    sizeBytes,
    transmissionFlags:
      WRITABLE_FLAGS | (readOnly ? NBD_FLAG_READ_ONLY : 0) | (rotational ? NBD_FLAG_ROTATIONAL : 0),
    minBlockBytes: limits.minBlockBytes,
    preferredBlockBytes: Math.max(MIN_PREFERRED_BYTES, limits.minBlockBytes, limits.preferredBlockBytes),
    maxPayloadBytes: Math.min(MAX_REQUEST_BYTES, limits.maxRequestBytes),
    contexts: metaContexts.map((context) => context.name),
    device,
    metaContexts,
    rules: {
      sizeBytes,
      readOnly,
      minBlockBytes: limits.minBlockBytes,
      // Not what is advertised: a larger request that comes all the same is carried out in pieces.
      maxPayloadBytes: MAX_PAYLOAD_BYTES,
      fastZero: limits.fastZero,
    },
  };
}

const VISIBLE_TO_ALL: ExportVisibility = { access: OPEN_TO_ALL, hidden: false };

interface ListedExport {
  readonly spec: ExportSpec;
  visibility: ExportVisibility;
}

/** A fixed set of exports; the first is the default one unless another is named "". */
export class ExportList {
  readonly #exports = new Map<string, ListedExport>();

  /** @throws UsageError when a name or description can't be told to a client */
  constructor(specs: readonly ExportSpec[]) {
    for (const spec of specs) {
      checkSpec(spec);
      if (this.#exports.has(spec.name)) throw new UsageError(`two exports are named "${spec.name}"`);
      this.#exports.set(spec.name, { spec, visibility: spec.visibility ?? VISIBLE_TO_ALL });
    }
  }

  /** Whether it depends on a client's certificate what it may use. */
  get namesCertificates(): boolean {
    return this.#some(({ certificates }) => certificates !== undefined);
  }

  /** The exports as `client` finds them. Who it is, is asked anew at every look-up, since TLS tells only half-way. */
  forClient(client: ClientIdentity): ExportDirectory<ServedExport> {
    const needsTls = (): boolean =>
      this.#some(({ certificates, keys }) => certificates !== undefined || keys !== undefined);
    const findFor = (name: string): ListedExport | undefined => {
      const found = this.#named(name);
      return found && mayUse(found.visibility.access, client) ? found : undefined;
    };
    return {
      get hasTlsOnly() {
        return needsTls();
      },
      list: () =>
        [...this.#exports.values()]
          .filter(({ visibility }) => !visibility.hidden && mayUse(visibility.access, client))
          .map(({ spec }) => serveExport(spec)),
      find: (name) => {
        const found = findFor(name);
        return found && found.spec.absence?.() === undefined ? serveExport(found.spec) : undefined;
      },
      absence: (name) => findFor(name)?.spec.absence?.(),
    };
  }

  /** The export of a client that chose it elsewhere. @param sizeBytes what it was told there */
  negotiated(name: string, sizeBytes: number): ServedExport | undefined {
    const found = this.#exports.get(name);
    if (!found) return undefined;
    const served = serveExport(found.spec);
    return { ...served, sizeBytes, rules: { ...served.rules, sizeBytes } };
  }

  /** Changes who may use and see an export from the next look-up on; every export that is not named is open to all. */
  setVisibility(byName: ReadonlyMap<string, ExportVisibility>): void {
    for (const [name, one] of this.#exports) one.visibility = byName.get(name) ?? VISIBLE_TO_ALL;
  }

  #some(condition: (access: AccessRules) => boolean): boolean {
    return [...this.#exports.values()].some(({ visibility }) => condition(visibility.access));
  }

  #named(name: string): ListedExport | undefined {
    return this.#exports.get(name) ?? (name === '' ? this.#exports.values().next().value : undefined);
  }
}

/** Namespace, colon, leaf, as the spec wants them. */
const CONTEXT_NAME = /^[^\s:]+:[^\s]+$/;

function checkSpec({ name, description = '', device, contexts = [] }: ExportSpec): void {
  const names = new Set([NBD_BASE_ALLOCATION, ...contexts.map((context) => context.name)]);
  if (contexts.length > MAX_EXTRA_CONTEXTS || names.size !== contexts.length + 1) {
    throw new UsageError(`export "${name}": at most ${MAX_EXTRA_CONTEXTS} meta contexts, of different names`);
  }
  for (const one of names) {
    if (!CONTEXT_NAME.test(one) || Buffer.byteLength(one) > MAX_NAME_BYTES) {
      throw new UsageError(`export "${name}": ${JSON.stringify(one)} is no name of a meta context`);
    }
  }
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
