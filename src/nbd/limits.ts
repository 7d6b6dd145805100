// What one NBD connection may hold, in one place, beside its receive buffer. docs/LIMITS.md adds these up.
import { KiB, MiB } from '../base/limits.ts';

/** Largest READ or WRITE that is carried out, bytes; MAX_REQUEST_BYTES is what is advertised. */
export const MAX_PAYLOAD_BYTES = 64 * MiB;

/** Largest refused WRITE whose payload is thrown away to stay in step, bytes; a larger one ends the connection. */
export const MAX_SKIPPED_PAYLOAD_BYTES = 256 * MiB;

/** Reply slab, bytes; a READ of half of it or more gets a slab of its own. */
export const MIN_REPLY_BYTES = 64 * KiB;
export const MAX_REPLY_BYTES = 256 * KiB;

/** Replies leave together at the end of a pass, or earlier when this many bytes wait. */
export const GATHER_BYTES = 256 * KiB;

/** Reply bytes that the client has not taken; at this many no more requests are read. */
export const MAX_UNSENT_BYTES = 32 * MiB;

/** Requests of one connection that a device may have in hand, and the bytes that belong to them. */
export const MAX_IN_FLIGHT_REQUESTS = 1024;
export const MAX_IN_FLIGHT_BYTES = 64 * MiB;

/**
 * Buffers of one connection in which requests wait for the device or replies for the client, bytes: a small request
 * keeps its whole buffer. Above this no more requests are read.
 */
export const MAX_HELD_BYTES = 128 * MiB;

/** Requests handled before other connections get their turn. */
export const MAX_REQUESTS_PER_PASS = 1024;

/** READs of fewer bytes than this are never looked at for holes, and a hole of fewer bytes than this isn't worth a chunk. */
export const MIN_SPARSE_READ_BYTES = 64 * KiB;
export const MIN_READ_HOLE_BYTES = 32 * KiB;
/** Chunks of one READ; what is left of its range is the last one. */
export const MAX_READ_CHUNKS = 32;

/** What the answer of one context may hold while it is made, bytes: it counts as in flight. */
export const STATUS_WORK_BYTES = 2 * MiB;

/** Meta contexts of an export besides base:allocation. */
export const MAX_EXTRA_CONTEXTS = 7;

/** Connections of one server, unless told otherwise. */
export const DEFAULT_MAX_CONNECTIONS = 1024;

/** Time for a handshake, and for a shutdown, unless told otherwise. */
export const DEFAULT_HANDSHAKE_TIMEOUT_MS = 10_000;
export const DEFAULT_SHUTDOWN_TIMEOUT_MS = 10_000;

/** A closing connection is cut when the client has taken nothing for this long. */
export const LINGER_MS = 5_000;
/** The same when the whole server goes down, so that an idle client doesn't hold it. */
export const SHUTDOWN_LINGER_MS = 500;

/** Silence after which a TCP peer is probed. */
export const KEEPALIVE_AFTER_MS = 30_000;

/** Lines about clients that failed at TLS, and the time for which they have to do. */
export const TLS_LOG_LINES = 30;
export const TLS_LOG_INTERVAL_MS = 60_000;

/** Time between probes of a silent TCP peer, and how many may stay unanswered. */
export const KEEPALIVE_INTERVAL_MS = 15_000;
export const KEEPALIVE_PROBES = 6;

/** Time for a TCP peer to acknowledge what was sent, or to take any of it; as long as all probes of a silent one last. */
export const TCP_USER_TIMEOUT_MS = KEEPALIVE_AFTER_MS + KEEPALIVE_INTERVAL_MS * KEEPALIVE_PROBES;

/** What the kernel takes of us at a time for a unix socket: some large replies. It doubles that for its own needs. */
export const UNIX_SEND_BYTES = MiB;

/** Connections of one address, unless told otherwise: far more than clients with multi-conn open. */
export const DEFAULT_MAX_CONNECTIONS_PER_ADDRESS = 512;

/** Looks at an idle connection within its idle timeout: it goes between one timeout and that and a quarter. */
export const IDLE_CHECKS = 4;
