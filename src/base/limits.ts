// Every limit that is not an option, in one place. A length from outside meets one of these before memory is taken.

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;
export const TiB = 1024 * GiB;

/** The sector of the repagent protocol, bytes. Every disk is a whole number of these. */
export const SECTOR_BYTES = 512;

/** Largest disk size and offset, bytes: the largest integer a double holds exactly, in whole sectors. */
export const MAX_DISK_BYTES = Number.MAX_SAFE_INTEGER - (Number.MAX_SAFE_INTEGER % SECTOR_BYTES);

/** Largest READ or WRITE payload that an NBD client may ask for, bytes; also what is advertised. */
export const MAX_REQUEST_BYTES = 32 * MiB;

/** Bytes of mirrored writes that may wait for the hub before the dirty map takes over (--queue-bytes). */
export const DEFAULT_QUEUE_BYTES = 64 * MiB;

/** Bytes of disk that one bit of a dirty map stands for. */
export const DIRTY_GRANULARITY_BYTES = 64 * KiB;

/** The largest that one bit of an agent's map may stand for (--dirty-granularity). */
export const MAX_DIRTY_GRANULARITY_BYTES = 16 * MiB;

/** Largest payload of one frame between agent and hub, bytes; a larger guest write travels as several frames. */
export const MAX_FRAME_PAYLOAD_BYTES = MAX_REQUEST_BYTES;

/** Longest export or volume name, bytes of UTF-8 (the wire's field holds 256 with its NUL). */
export const MAX_NAME_BYTES = 255;

/** Most volumes in one agent's report. */
export const MAX_VOLUMES_PER_AGENT = 2048;

/** Most hubs that one agent replicates its volumes to. */
export const MAX_HUBS_PER_AGENT = 8;
