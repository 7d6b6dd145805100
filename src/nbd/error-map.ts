// The one place where a failed request becomes an NBD error value.
import { AssertionError } from '../base/assert.ts';
import { type BlockErrorCode, toBlockError } from '../base/errors.ts';
import { NBD_ERROR } from '../nbdwire/constants.ts';

/** The spec reserves EOVERFLOW and ENOTSUP for cases that this server doesn't have: they go out as EINVAL. */
const NBD_ERRORS: Readonly<Record<BlockErrorCode, number>> = {
  EPERM: NBD_ERROR.EPERM,
  EIO: NBD_ERROR.EIO,
  ENOMEM: NBD_ERROR.ENOMEM,
  EINVAL: NBD_ERROR.EINVAL,
  ENOSPC: NBD_ERROR.ENOSPC,
  EOVERFLOW: NBD_ERROR.EINVAL,
  ENOTSUP: NBD_ERROR.EINVAL,
  ESHUTDOWN: NBD_ERROR.ESHUTDOWN,
};

/**
 * The wire value for whatever a device threw.
 * @throws AssertionError when that is what was thrown: a program that is wrong must not go on serving
 */
export function nbdErrorOf(error: unknown): number {
  if (error instanceof AssertionError) throw error;
  return NBD_ERRORS[toBlockError(error).code];
}
