// The typed errors of operation. What a failure means to the peer or the user is decided where it is raised.

/** Error codes a block device may answer; the NBD server maps each to its wire value in one place. */
export type BlockErrorCode =
  | 'EPERM'
  | 'EIO'
  | 'ENOMEM'
  | 'EINVAL'
  | 'ENOSPC'
  | 'EOVERFLOW'
  | 'ENOTSUP'
  | 'ESHUTDOWN';

/** A block I/O request failed. `message` names what was wrong and what is allowed. */
export class BlockError extends Error {
  override readonly name = 'BlockError';
  readonly code: BlockErrorCode;

  constructor(code: BlockErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

const PLATFORM_CODES: Readonly<Record<string, BlockErrorCode>> = {
  EPERM: 'EPERM',
  EACCES: 'EPERM',
  EROFS: 'EPERM',
  EIO: 'EIO',
  ENOMEM: 'ENOMEM',
  EINVAL: 'EINVAL',
  ENOSPC: 'ENOSPC',
  EDQUOT: 'ENOSPC',
  EFBIG: 'ENOSPC',
  EOVERFLOW: 'EOVERFLOW',
  ENOTSUP: 'ENOTSUP',
  EOPNOTSUPP: 'ENOTSUP',
};

/** Turns anything thrown by the platform into a {@link BlockError}; what has no code of its own is EIO. */
export function toBlockError(error: unknown): BlockError {
  if (error instanceof BlockError) return error;
  const code = errorCode(error);
  return new BlockError(PLATFORM_CODES[code ?? ''] ?? 'EIO', errorMessage(error), { cause: error });
}

/** Wrong input from the command line or a config file: says what is wrong and what is allowed. Exit status 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** A failure at run time that the user can act on. `hint` is the next step, one line. Exit status 1. */
export class OperationError extends Error {
  override readonly name = 'OperationError';
  readonly hint: string | undefined;

  constructor(message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.hint = options.hint;
  }
}

/** The `code` of a Node system error, if it has one. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** The message of anything that was thrown. */
export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
