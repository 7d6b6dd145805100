// How a filter is described: its name, its options as data, and how it is put over a device. Options arrive at
// create() checked and typed; a filter never parses text.
import { assert } from '../base/assert.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice } from '../blockdev/block-device.ts';
import type { FilterContext } from './context.ts';
import type { OptionSchema, OptionValues } from './option-schema.ts';

export interface FilterExample {
  /** A complete spec, as given to --filter. */
  readonly spec: string;
  /** What it does, one sentence without a full stop. */
  readonly text: string;
}

export interface FilterDefinition<S extends OptionSchema = OptionSchema> {
  /** Lower-case letters, digits and dashes. */
  readonly name: string;
  /** One sentence without a full stop. */
  readonly summary: string;
  readonly options: S;
  readonly examples?: readonly FilterExample[];
  /**
   * Puts the filter over `below`. Returning `below` means that there is nothing to do. A device with a `status()`
   * method has its status shown with the chain's; with an `adjust(changes)` method it is told the new values of the
   * options that are adjustable, checked, without those that don't change.
   * @throws UsageError when the options don't fit the device below
   */
  create(below: BlockDevice, options: OptionValues<S>, context: FilterContext): MaybePromise<BlockDevice>;
}

/**
 * Defines a filter. `options` of create() are typed by the schema.
 * @throws AssertionError when the definition itself is wrong
 */
export function defineFilter<const S extends OptionSchema>(
  definition: FilterDefinition<S>,
): FilterDefinition<S> {
  const problem = definitionProblem(definition);
  assert(problem === undefined, problem ?? '');
  return definition;
}

const NAME_SHAPE = /^[a-z][a-z0-9-]*$/;
const KINDS: readonly string[] = [
  'size',
  'integer',
  'number',
  'duration',
  'boolean',
  'string',
  'choice',
  'list',
  'ranges',
] satisfies OptionSchema[string]['kind'][];

/** What is wrong with something that claims to be a filter definition, or undefined. For filters loaded from files. */
export function definitionProblem(value: unknown): string | undefined {
  if (!isRecord(value)) return 'a filter is an object made by defineFilter';
  const { name, summary, options, create } = value;
  if (typeof name !== 'string' || !NAME_SHAPE.test(name)) {
    return `filter name ${JSON.stringify(name)} must be lower-case letters, digits and dashes`;
  }
  if (typeof summary !== 'string' || summary === '') return `filter ${name} has no summary`;
  if (typeof create !== 'function') return `filter ${name} has no create function`;
  if (!isRecord(options)) return `filter ${name} has no options object`;
  for (const [key, option] of Object.entries(options)) {
    if (!NAME_SHAPE.test(key)) return `filter ${name}: option ${JSON.stringify(key)} must be lower-case`;
    if (!isRecord(option) || !KINDS.includes(String(option.kind))) {
      return `filter ${name}: option ${key} has no known kind; use one of ${KINDS.join(', ')}`;
    }
    if (typeof option.description !== 'string') return `filter ${name}: option ${key} has no description`;
    if (option.required === true && option.default !== undefined) {
      return `filter ${name}: option ${key} is required and has a default`;
    }
  }
  return undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
