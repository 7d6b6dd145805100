// Options as data: one table per command serves the command line, the config file and the help text, so that the
// three can't drift apart. Values stay text here; each command's resolve function gives them meaning.
import { UsageError } from '../base/errors.ts';
import { nearestName } from '../filter/nearest-name.ts';

export interface OptionSpec {
  /** `text` takes a value; `flag` is on or off. */
  readonly type: 'text' | 'flag';
  readonly describe: string;
  /** May be given several times; a list in the config file. Text only. */
  readonly repeatable?: true;
  /** Another name for the same option. */
  readonly alias?: string;
  readonly choices?: readonly string[];
  /** The default as help shows it. The command applies it. */
  readonly fallback?: string;
  /** Given without a name on the command line, such as IMAGE; help shows this word. */
  readonly positional?: string;
}

export type OptionTable = Readonly<Record<string, OptionSpec>>;

type OptionValue<S extends OptionSpec> = S extends { type: 'flag' }
  ? boolean
  : S extends { repeatable: true }
    ? readonly string[]
    : S extends { choices: readonly (infer C)[] }
      ? C
      : string;

/** What was given, by option name. Absent means: not given. */
export type RawOptions<T extends OptionTable> = { readonly [K in keyof T]?: OptionValue<T[K]> };

type AnyValue = boolean | string | readonly string[];

/**
 * What the command line gave, as the parser hands it over, checked against the table.
 * @throws UsageError when a single option came twice, or a value is not among the choices
 */
export function fromArguments(
  table: OptionTable,
  argv: Readonly<Record<string, unknown>>,
): Record<string, AnyValue> {
  const result: Record<string, AnyValue> = {};
  for (const [name, spec] of Object.entries(table)) {
    const value = argv[name];
    if (value === undefined || (Array.isArray(value) && value.length === 0)) continue;
    const label = labelOf(name, spec);
    if (Array.isArray(value) && !spec.repeatable)
      throw new UsageError(`${label} was given twice; give it once`);
    result[name] = check(label, spec, value);
  }
  return result;
}

/**
 * What a config file gave, checked against the table. Keys are option names without the dashes, or their aliases.
 * @param source names the file in errors
 * @throws UsageError naming the key that is unknown or whose value has the wrong form
 */
export function fromConfig(table: OptionTable, content: unknown, source: string): Record<string, AnyValue> {
  if (content === null || content === undefined) return {};
  if (typeof content !== 'object' || Array.isArray(content)) {
    throw new UsageError(
      `${source}: a config file holds "option: value" lines, this one holds something else`,
    );
  }
  const result: Record<string, AnyValue> = {};
  for (const [key, value] of Object.entries(content)) {
    const name = nameOf(table, key);
    if (name === undefined) {
      const known = Object.keys(table);
      const names = [...known, ...known.map((one) => table[one]?.alias ?? one)];
      throw new UsageError(
        `${source}: unknown key ${JSON.stringify(key)}${didYouMean(key, names)}; allowed: ${known.join(', ')}`,
      );
    }
    if (name in result) throw new UsageError(`${source}: ${key} stands there twice, as ${name} too`);
    const spec = table[name]!;
    if (value === null) throw new UsageError(`${source}: ${key} has no value`);
    result[name] = check(`${source}: ${key}`, spec, fromYaml(`${source}: ${key}`, spec, value));
  }
  return result;
}

/** The command line wins over the config file, option by option; a list is replaced whole. */
export function mergeOptions<T extends OptionTable>(
  _table: T,
  fromFile: Readonly<Record<string, AnyValue>>,
  fromCommandLine: Readonly<Record<string, AnyValue>>,
): RawOptions<T> {
  return { ...fromFile, ...fromCommandLine } as RawOptions<T>;
}

/** How messages call an option: `--listen`, or `IMAGE` for a positional. */
export function labelOf(name: string, spec: OptionSpec): string {
  return spec.positional ?? `--${name}`;
}

/** ` (did you mean X?)`, or nothing. */
export function didYouMean(text: string, candidates: readonly string[], prefix = ''): string {
  const guess = nearestName(text, candidates);
  return guess === undefined ? '' : ` (did you mean ${prefix}${guess}?)`;
}

function nameOf(table: OptionTable, key: string): string | undefined {
  if (Object.hasOwn(table, key)) return key;
  return Object.keys(table).find((name) => table[name]?.alias === key);
}

/** Numbers are as good as their text; a single value is as good as a list of one. */
function fromYaml(label: string, spec: OptionSpec, value: unknown): unknown {
  if (spec.type === 'flag') return value;
  const scalar = (one: unknown): string => {
    if (typeof one === 'string') return one;
    if (typeof one === 'number' && Number.isFinite(one)) return String(one);
    throw new UsageError(`${label}: expected ${spec.repeatable ? 'texts' : 'a text'}, found ${kindOf(one)}`);
  };
  if (!spec.repeatable) return scalar(value);
  return Array.isArray(value) ? value.map(scalar) : [scalar(value)];
}

function check(label: string, spec: OptionSpec, value: unknown): AnyValue {
  if (spec.type === 'flag') {
    if (typeof value !== 'boolean')
      throw new UsageError(`${label}: expected true or false, found ${kindOf(value)}`);
    return value;
  }
  const texts = (Array.isArray(value) ? value : [value]) as string[];
  for (const text of texts) {
    if (text === '') throw new UsageError(`${label} has an empty value`);
    if (spec.choices && !spec.choices.includes(text)) {
      const guess = didYouMean(text, spec.choices);
      throw new UsageError(
        `${label}: ${JSON.stringify(text)} is unknown${guess}; allowed: ${spec.choices.join(', ')}`,
      );
    }
  }
  return spec.repeatable ? texts : texts[0]!;
}

function kindOf(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'a map';
  return JSON.stringify(value) ?? String(value);
}
