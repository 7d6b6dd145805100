// One exported disk: the image, the filters asked for, and with a hub the mirroring filter in its place among them.
import { UsageError } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { BlockDevice } from '../../blockdev/block-device.ts';
import { openImage } from '../../blockdev/open-image.ts';
import { buildChain, type ChainLink } from '../../filter/chain.ts';
import { type ChangeTexts, createFilterContext, type FilterStatus } from '../../filter/context.ts';
import { type FilterSpec, splitSpec } from '../../filter/filter-spec.ts';
import { Pauser } from '../../filter/pauser.ts';
import { filterLink, parseFilterSpec } from '../../filter/registry.ts';
import type { MetaContext } from '../../nbd/meta-contexts.ts';
import { isNbdUri, type NamedSource } from '../parse-image.ts';
import type { Replication } from './replication.ts';

/** What a chain is made of, outermost first; `mirror` stands for the mirroring filter. */
export type PlannedLink = FilterSpec | 'mirror';

/** A volume that is open. */
export interface Volume {
  readonly name: string;
  /** The top of the chain; closing it closes everything down to the image. */
  readonly device: BlockDevice;
  /** What BLOCK_STATUS can tell of it besides its allocation. */
  readonly contexts: readonly MetaContext[];
  /** What the chain's filters publish, by name. */
  stats(): Record<string, FilterStatus>;
  /** Holds clients' calls: at the filter pause where that was placed, else above all filters. */
  readonly pauser: Pauser;
  /** Changes options of a running filter. @throws OperationError, UsageError */
  adjust(filter: string, changes: ChangeTexts): Promise<void>;
}

export interface VolumeOptions {
  readonly image: NamedSource;
  readonly format: string;
  readonly readOnly: boolean;
  readonly createSizeBytes: number | undefined;
  readonly upstreamConnections: number | undefined;
  readonly plan: readonly PlannedLink[];
  readonly replication: Pick<Replication, 'protect' | 'dirtyContext'>;
  readonly logger: Logger;
}

/** The name that places the mirroring filter among the others. */
const MIRROR_NAME = 'repagent';

/**
 * Reads the `--filter` options. With a hub the mirroring filter is the innermost unless `repagent` is placed.
 * @throws UsageError for a spec that is wrong, or a placed mirror that has no hub
 */
export async function planLinks(specs: readonly string[], hasHub: boolean): Promise<PlannedLink[]> {
  const plan: PlannedLink[] = [];
  for (const text of specs) {
    const { name, values } = splitSpec(text);
    if (name !== MIRROR_NAME) {
      plan.push(await parseFilterSpec(text));
      continue;
    }
    if (values.size > 0)
      throw new UsageError(`--filter ${MIRROR_NAME}: takes no options; the hub is given by --hub`);
    if (!hasHub) throw new UsageError(`--filter ${MIRROR_NAME}: needs a hub; add --hub HOST[:PORT]`);
    if (plan.includes('mirror'))
      throw new UsageError(`--filter ${MIRROR_NAME}: was given twice; place it once`);
    plan.push('mirror');
  }
  if (hasHub && !plan.includes('mirror')) plan.push('mirror');
  return plan;
}

/**
 * Opens the image and builds its chain; nothing stays open when that fails.
 * @throws UsageError or OperationError naming the image or the filter
 */
export async function openVolume(options: VolumeOptions): Promise<Volume> {
  const { image, format, readOnly, createSizeBytes, plan, replication } = options;
  const logger = options.logger.child({ volume: image.name });
  const { upstreamConnections } = options;
  const from = { source: image.source, format, readOnly, createSizeBytes, upstreamConnections, logger };
  const bottom = await openImage(from);
  const context = createFilterContext({ logger, exportName: image.name });
  // The hub knows whole sectors only, so whatever is finer than that is made whole right above the mirror.
  const align = await parseFilterSpec('align');
  const imagePath = isNbdUri(image.source) ? undefined : image.source;
  const links: ChainLink[] = plan.flatMap((link) => {
    if (link !== 'mirror') return [filterLink(link, context)];
    return [
      filterLink(align, context),
      { name: MIRROR_NAME, wrap: (below: BlockDevice) => replication.protect(image.name, below, imagePath) },
    ];
  });
  const dirty = replication.dirtyContext(image.name);
  const device = await buildChain(bottom, links, { logger, exportName: image.name });
  return {
    name: image.name,
    device,
    contexts: dirty && keepsOffsets(plan) ? [dirty] : [],
    stats: () => context.status(),
    pauser: new Pauser(device.find('pause') ?? device, logger),
    adjust: (filter, changes) => context.adjust(filter, changes),
  };
}

/** Whether a client's offsets are those that the mirror sees: what the hub lacks is told by those. */
function keepsOffsets(plan: readonly PlannedLink[]): boolean {
  const above = plan.slice(0, plan.indexOf('mirror'));
  return !above.some((link) => link !== 'mirror' && link.name === 'offset');
}
