// Puts filters over a device as the command line does: from their specs, through the chain builder.
import { type Logger, silentLogger } from '../../src/base/log.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { buildChain } from '../../src/filter/chain.ts';
import { createFilterContext, type FilterContextOwner } from '../../src/filter/context.ts';
import type { Guard } from '../../src/filter/guard.ts';
import { filterLink, parseFilterSpec } from '../../src/filter/registry.ts';

export interface TestChain {
  readonly chain: Guard;
  readonly context: FilterContextOwner;
}

/** The chain of `specs`, outermost first, over `bottom`, with the context that its filters publish to. */
export async function filterChain(
  bottom: BlockDevice,
  specs: readonly string[],
  logger: Logger = silentLogger,
): Promise<TestChain> {
  const context = createFilterContext({ logger, exportName: 'disk' });
  const links = [];
  for (const spec of specs) links.push(filterLink(await parseFilterSpec(spec), context));
  return { chain: await buildChain(bottom, links, context), context };
}

/** The chain of `specs` over `bottom`, when nothing else about it matters. */
export async function filtered(bottom: BlockDevice, ...specs: string[]): Promise<BlockDevice> {
  return (await filterChain(bottom, specs)).chain;
}
