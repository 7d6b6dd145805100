// The filters that can be named on a command line: the built-in ones, those registered by a program, and files that
// export one. Names are resolved here and nowhere else.
import { isAbsolute, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { assert } from '../base/assert.ts';
import { errorMessage, UsageError } from '../base/errors.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import { alignFilter } from './align-filter.ts';
import type { ChainLink } from './chain.ts';
import type { FilterContext, FilterStatus } from './context.ts';
import { cowFilter } from './cow-filter.ts';
import { definitionProblem, type FilterDefinition, type FilterExample } from './define-filter.ts';
import { delayFilter } from './delay-filter.ts';
import { errorFilter } from './error-filter.ts';
import { evilFilter } from './evil-filter.ts';
import { checkChanges, checkOptions, type FilterSpec, splitSpec, suggestion } from './filter-spec.ts';
import { logFilter } from './log-filter.ts';
import { offsetFilter } from './offset-filter.ts';
import { optionDefault, optionType } from './option-schema.ts';
import { pauseFilter } from './pause-filter.ts';
import { protectFilter } from './protect-filter.ts';
import { rateFilter } from './rate-filter.ts';
import { readonlyFilter } from './readonly-filter.ts';
import { retryFilter } from './retry-filter.ts';
import { statsFilter } from './stats-filter.ts';

export interface OptionDescription {
  readonly name: string;
  readonly type: string;
  /** As one would write it; `required`; or empty. */
  readonly default: string;
  readonly description: string;
}

/** A filter as `repagent filters` and the documentation show it. */
export interface FilterDescription {
  readonly name: string;
  readonly summary: string;
  readonly options: readonly OptionDescription[];
  readonly examples: readonly FilterExample[];
}

export class FilterRegistry {
  readonly #filters = new Map<string, FilterDefinition>();

  constructor(filters: readonly FilterDefinition[] = []) {
    for (const filter of filters) this.register(filter);
  }

  /** Makes a filter known by its name. @throws AssertionError when the definition is wrong or the name is taken */
  register(definition: FilterDefinition): void {
    const problem = definitionProblem(definition);
    assert(problem === undefined, problem ?? '');
    const known = this.#filters.get(definition.name);
    assert(known === undefined || known === definition, `a filter named ${definition.name} exists already`);
    this.#filters.set(definition.name, definition);
  }

  /**
   * Reads `name,key=value,...`; see splitSpec. A name that is a path (`./x.js`, `../x.js`, absolute) is imported and
   * must export `filter`.
   * @throws UsageError saying what is wrong and what is allowed
   */
  async parse(text: string): Promise<FilterSpec> {
    const { name, values } = splitSpec(text);
    const definition = isPath(name) ? await loadFilter(name) : this.#named(name);
    return { name: definition.name, definition, options: checkOptions(definition, values) };
  }

  /** Every filter, sorted by name. */
  describe(): FilterDescription[] {
    const filters = [...this.#filters.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    return filters.map(describeFilter);
  }

  #named(name: string): FilterDefinition {
    const definition = this.#filters.get(name);
    if (definition) return definition;
    const known = [...this.#filters.keys()].sort();
    throw new UsageError(
      `unknown filter ${JSON.stringify(name)}: there are ${known.join(', ')}, ` +
        `or a path such as ./my-filter.js${suggestion(name, known)}`,
    );
  }
}

const defaultRegistry = new FilterRegistry([
  alignFilter,
  cowFilter,
  delayFilter,
  errorFilter,
  evilFilter,
  logFilter,
  offsetFilter,
  pauseFilter,
  protectFilter,
  rateFilter,
  readonlyFilter,
  retryFilter,
  statsFilter,
]);

/** Makes a filter of one's own known to {@link parseFilterSpec} by its name. */
export function registerFilter(definition: FilterDefinition): void {
  defaultRegistry.register(definition);
}

/** Reads a spec such as `delay,read=5ms`. @throws UsageError saying what is wrong and what is allowed */
export function parseFilterSpec(text: string): Promise<FilterSpec> {
  return defaultRegistry.parse(text);
}

/** Every filter that can be named, as data for help and documentation. */
export function describeFilters(): FilterDescription[] {
  return defaultRegistry.describe();
}

/** Describes one filter, such as one loaded from a file. */
export function describeFilter(definition: FilterDefinition): FilterDescription {
  return {
    name: definition.name,
    summary: definition.summary,
    options: Object.entries(definition.options).map(([name, option]) => ({
      name,
      type: optionType(option),
      default: optionDefault(option),
      description: option.description,
    })),
    examples: definition.examples ?? [],
  };
}

/** The link that puts the filter of `spec` into a chain. */
export function filterLink(spec: FilterSpec, context: FilterContext): ChainLink {
  const { name, definition, options } = spec;
  return {
    name,
    async wrap(below) {
      const logger = context.logger.child({ filter: name });
      const own: FilterContext = {
        logger,
        exportName: context.exportName,
        publish: (key, status) => context.publish(key, status),
        offer: (key, adjust) => context.offer(key, adjust),
      };
      const device = await definition.create(below, options, own);
      if (hasStatus(device)) context.publish(name, () => device.status());
      if (isAdjustable(device)) {
        context.offer(name, (changes) => device.adjust(checkChanges(definition, changes)));
      }
      return device;
    },
  };
}

function hasStatus(device: BlockDevice): device is BlockDevice & { status(): FilterStatus } {
  return 'status' in device && typeof device.status === 'function';
}

function isAdjustable(
  device: BlockDevice,
): device is BlockDevice & { adjust(changes: Readonly<Record<string, unknown>>): MaybePromise<void> } {
  return 'adjust' in device && typeof device.adjust === 'function';
}

function isPath(name: string): boolean {
  return name.startsWith('./') || name.startsWith('../') || isAbsolute(name);
}

async function loadFilter(path: string): Promise<FilterDefinition> {
  const url = pathToFileURL(resolve(path)).href;
  let module: Record<string, unknown>;
  try {
    module = (await import(url)) as Record<string, unknown>;
  } catch (error) {
    const advice = path.endsWith('ts') ? ' (a filter is a JavaScript module: compile TypeScript first)' : '';
    throw new UsageError(`filter ${path} can't be loaded: ${errorMessage(error)}${advice}`, { cause: error });
  }
  const { filter } = module;
  if (filter === undefined) {
    const exported = Object.keys(module).join(', ') || 'nothing';
    throw new UsageError(
      `filter ${path} must export \`filter\`, made by defineFilter; it exports ${exported}`,
    );
  }
  const problem = definitionProblem(filter);
  if (problem !== undefined) throw new UsageError(`filter ${path}: ${problem}`);
  return filter as FilterDefinition;
}
