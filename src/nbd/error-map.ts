// The one place where a failed request becomes an NBD error value.
import { AssertionError } from '../base/assert.ts';
import { type BlockErrorCode, toBlockError } from '../base/errors.ts';
import { NBD_CMD, NBD_CMD_FLAG_FAST_ZERO, NBD_ERROR, nameOf } from '../nbdwire/constants.ts';
import type { RequestHeader } from '../nbdwire/request.ts';
import { PartFailure } from './large-requests.ts';

/** The spec reserves EOVERFLOW for cases that are settled before the device is asked: it goes out as EINVAL. */
const NBD_ERRORS: Readonly<Record<BlockErrorCode, number>> = {
  EPERM: NBD_ERROR.EPERM,
  EIO: NBD_ERROR.EIO,
  ENOMEM: NBD_ERROR.ENOMEM,
  EINVAL: NBD_ERROR.EINVAL,
  ENOSPC: NBD_ERROR.ENOSPC,
  EOVERFLOW: NBD_ERROR.EINVAL,
  ENOTSUP: NBD_ERROR.ENOTSUP,
  ESHUTDOWN: NBD_ERROR.ESHUTDOWN,
};

/** What a client's user is told of an error: the server's log has the rest, with names that are nobody else's business. */
const REASONS: Readonly<Record<number, string>> = {
  [NBD_ERROR.EPERM]: 'the disk does not permit it',
  [NBD_ERROR.EIO]: 'the disk failed',
  [NBD_ERROR.ENOMEM]: 'the server has no memory for it',
  [NBD_ERROR.EINVAL]: 'the disk does not take it',
  [NBD_ERROR.ENOSPC]: 'the server has no space left for it',
  [NBD_ERROR.ENOTSUP]: 'the disk cannot do it fast',
  [NBD_ERROR.ESHUTDOWN]: 'the disk is being closed',
};

/** What a client is told of a request that the device failed. */
export interface Failure {
  /** Of NBD_ERROR. */
  readonly error: number;
  readonly message: string;
  /** Where on the disk the part that failed begins, bytes, when that is known. */
  readonly offset: number | undefined;
  /** What the device threw. */
  readonly cause: unknown;
}

/**
 * Judges whatever a device threw.
 * @throws AssertionError when that is what was thrown: a program that is wrong must not go on serving
 */
export function judgeFailure(request: RequestHeader, thrown: unknown): Failure {
  const part = thrown instanceof PartFailure ? thrown : undefined;
  const cause = part ? part.cause : thrown;
  if (cause instanceof AssertionError) throw cause;
  let error = NBD_ERRORS[toBlockError(cause).code];
  // Only who asked for a fast answer may be told that there is none.
  const isFast = request.type === NBD_CMD.WRITE_ZEROES && (request.flags & NBD_CMD_FLAG_FAST_ZERO) !== 0;
  if (error === NBD_ERROR.ENOTSUP && !isFast) error = NBD_ERROR.EINVAL;
  const { type, length, offset } = request;
  const reason = REASONS[error] ?? 'it failed';
  const message = `${nameOf(NBD_CMD, type)} of ${length} bytes at ${offset}: ${reason}`;
  return { error, message, offset: part?.offset, cause };
}
