// Builds the chain of links over a disk, a guard above each. It owns the disk from the first line on: when building
// fails, everything is closed again.
import { AssertionError } from '../base/assert.ts';
import { errorMessage, OperationError, UsageError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import { Guard } from './guard.ts';

/** One layer of a chain. */
export interface ChainLink {
  /** As errors and the log name it. */
  readonly name: string;
  /**
   * Puts the layer over `below`, or returns `below` itself when it has nothing to do. The layer's close() does its
   * own work and then closes `below`.
   */
  wrap(below: BlockDevice): MaybePromise<BlockDevice>;
}

export interface ChainContext {
  readonly logger: Logger;
  /** The export the chain serves. */
  readonly exportName: string;
}

/**
 * @param bottom the disk; the chain closes it, also when building fails
 * @param links outermost first
 * @returns the top of the chain; its close() closes every layer once, outermost first, down to `bottom`
 * @throws UsageError naming the link whose options are wrong; OperationError naming the link that failed otherwise
 */
export async function buildChain(
  bottom: BlockDevice,
  links: readonly ChainLink[],
  context: ChainContext,
): Promise<Guard> {
  const { logger } = context;
  let top = new Guard(bottom, { name: 'disk', logger });
  // Links that override nothing could be left out here, so that a call skips them and their guard.
  for (const link of links.toReversed()) {
    let layer: BlockDevice;
    try {
      layer = await link.wrap(top);
    } catch (error) {
      await closeUnfinished(top, logger);
      throw linkFailure(link, error);
    }
    if (layer !== top) top = new Guard(layer, { name: link.name, logger, inner: top });
  }
  return top;
}

/** Closes what was built so far. The error that is told to the caller is the one that stopped the building. */
async function closeUnfinished(top: Guard, logger: Logger): Promise<void> {
  try {
    await top.close();
  } catch (error) {
    logger.error({ err: error }, 'closing an unfinished chain failed');
  }
}

function linkFailure(link: ChainLink, error: unknown): Error {
  const message = `filter ${link.name}: ${errorMessage(error)}`;
  if (error instanceof AssertionError) return error;
  if (error instanceof UsageError) return new UsageError(message, { cause: error });
  const hint = error instanceof OperationError ? error.hint : undefined;
  return new OperationError(message, { cause: error, ...(hint === undefined ? {} : { hint }) });
}
