// The text form of a filter, `name,key=value,...`: split, and checked against the filter's schema. Strict: what it
// doesn't know is an error, never skipped. Whatever else is written in this form says its own kind in errors.
import { UsageError } from '../base/errors.ts';
import type { FilterDefinition } from './define-filter.ts';
import { nearestName } from './nearest-name.ts';
import { type OptionSchema, type OptionValues, parseOption } from './option-schema.ts';

/** A filter with its options, checked; see filterLink. */
export interface FilterSpec {
  readonly name: string;
  readonly definition: FilterDefinition;
  readonly options: OptionValues<OptionSchema>;
}

/** A spec's text taken apart, nothing checked yet. */
export interface SpecText {
  readonly name: string;
  /** Every value of each option, in order; an option without `=` has the value `on`. */
  readonly values: ReadonlyMap<string, readonly string[]>;
}

/**
 * Takes `name,key=value,...` apart; `,,` stands for a comma inside a name or value.
 * @param kind of what the text is of, for errors
 * @throws UsageError when the text has not that form
 */
export function splitSpec(text: string, kind = 'filter'): SpecText {
  const [name = '', ...settings] = splitAtCommas(text);
  if (name === '' || name.includes('=')) {
    throw new UsageError(`${kind} ${JSON.stringify(text)}: must start with a name, as in name,option=value`);
  }
  const values = new Map<string, string[]>();
  for (const setting of settings) {
    const equals = setting.indexOf('=');
    const key = equals === -1 ? setting : setting.slice(0, equals);
    if (key === '') {
      throw new UsageError(
        `${kind} ${name}: ${JSON.stringify(setting)} is not option=value (write ,, for a comma)`,
      );
    }
    const list = values.get(key);
    const value = equals === -1 ? 'on' : setting.slice(equals + 1);
    if (list) list.push(value);
    else values.set(key, [value]);
  }
  return { name, values };
}

/**
 * Checks the options of a spec against the schema of what it names, and fills in defaults.
 * @throws UsageError for an option that is unknown, wrong or missing
 */
export function checkOptions<S extends OptionSchema>(
  named: { readonly name: string; readonly options: S },
  values: SpecText['values'],
  kind = 'filter',
): OptionValues<S> {
  const schema = named.options;
  checkNames(`${kind} ${named.name}`, schema, values);
  const options: Record<string, unknown> = {};
  for (const [key, option] of Object.entries(schema)) {
    const texts = values.get(key);
    const what = `${kind} ${named.name}: option ${key}`;
    if (texts) options[key] = parseOption(option, texts, what);
    else if (option.required) throw new UsageError(`${what} is required: ${option.description}`);
    else options[key] = option.default;
  }
  // Each value has just been checked against the option it is for.
  return options as OptionValues<S>;
}

/**
 * Checks what is to be changed of a running filter.
 * @returns the new values, of those options alone
 * @throws UsageError for an option that is unknown, wrong or fixed, or for none at all
 */
export function checkChanges(
  definition: FilterDefinition,
  values: SpecText['values'],
): Readonly<Record<string, unknown>> {
  const { name, options: schema } = definition;
  const adjustable = Object.keys(schema).filter((key) => schema[key]?.adjustable);
  if (adjustable.length === 0)
    throw new UsageError(`filter ${name} has nothing that can be changed while it runs`);
  checkNames(`filter ${name}`, schema, values);
  const changes: Record<string, unknown> = {};
  for (const [key, texts] of values) {
    const option = schema[key]!;
    const what = `filter ${name}: option ${key}`;
    if (!option.adjustable) {
      throw new UsageError(`${what} is fixed while the filter runs; ${adjustable.join(', ')} can be changed`);
    }
    changes[key] = parseOption(option, texts, what);
  }
  if (values.size > 0) return changes;
  throw new UsageError(`filter ${name}: say what is to be changed; it takes ${adjustable.join(', ')}`);
}

/** `Did you mean ...?` with a space before it, or nothing. */
export function suggestion(name: string, known: readonly string[]): string {
  const nearest = nearestName(name, known);
  return nearest === undefined ? '' : `; did you mean ${nearest}?`;
}

function checkNames(what: string, schema: OptionSchema, values: SpecText['values']): void {
  const known = Object.keys(schema);
  for (const key of values.keys()) if (!known.includes(key)) throw unknownOption(what, key, known);
}

function unknownOption(what: string, key: string, known: readonly string[]): UsageError {
  const allowed = known.length === 0 ? 'it takes none' : `it takes ${known.join(', ')}`;
  return new UsageError(
    `${what}: unknown option ${JSON.stringify(key)}: ${allowed}${suggestion(key, known)}`,
  );
}

function splitAtCommas(text: string): string[] {
  const parts: string[] = [];
  let part = '';
  for (let at = 0; at < text.length; at += 1) {
    const isComma = text[at] === ',';
    if (isComma && text[at + 1] !== ',') {
      parts.push(part);
      part = '';
      continue;
    }
    if (isComma) at += 1;
    part += text[at];
  }
  return [...parts, part];
}
