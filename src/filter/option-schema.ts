// The kinds of options that filters may have: how each is checked, typed and described. One table of cases per
// question, switched exhaustively, so that a new kind can't be half there.
import { unreachable } from '../base/assert.ts';
import { UsageError } from '../base/errors.ts';
import { formatBytes, formatDuration, parseDurationMs, parseSize } from '../base/size.ts';

interface OptionCommon {
  /** One sentence without a full stop, for `repagent filters` and the documentation. */
  readonly description: string;
  readonly required?: boolean;
  /** May be changed while the filter runs, by `repagent adjust`; the device then has an `adjust` method. */
  readonly adjustable?: boolean;
}

interface NumericOption extends OptionCommon {
  readonly default?: number;
  readonly min?: number;
  readonly max?: number;
}

export interface SizeOption extends NumericOption {
  readonly kind: 'size';
  /** Bytes that the value must be a whole number of. */
  readonly multipleOf?: number;
}

export interface IntegerOption extends NumericOption {
  readonly kind: 'integer';
}

export interface NumberOption extends NumericOption {
  readonly kind: 'number';
}

/** Its value is milliseconds. */
export interface DurationOption extends NumericOption {
  readonly kind: 'duration';
}

/** Written without a value it is true. */
export interface BooleanOption extends OptionCommon {
  readonly kind: 'boolean';
  readonly default?: boolean;
}

export interface StringOption extends OptionCommon {
  readonly kind: 'string';
  readonly default?: string;
}

export interface ChoiceOption extends OptionCommon {
  readonly kind: 'choice';
  readonly choices: readonly string[];
  readonly default?: string;
}

/** Elements are joined by `+`, or the option is given several times. */
export interface ListOption extends OptionCommon {
  readonly kind: 'list';
  /** What the elements may be; anything when not given. */
  readonly choices?: readonly string[];
  readonly default?: readonly string[];
}

/** Byte ranges such as `1M-2M`, joined by `+`: from the first byte to before the second; `1M-` has no end. */
export interface RangesOption extends OptionCommon {
  readonly kind: 'ranges';
  readonly default?: undefined;
}

/** `end` is not inside, and Infinity when there is none. */
export interface ByteSpan {
  readonly start: number;
  readonly end: number;
}

export type Option =
  | SizeOption
  | IntegerOption
  | NumberOption
  | DurationOption
  | BooleanOption
  | StringOption
  | ChoiceOption
  | ListOption
  | RangesOption;

export type OptionSchema = Readonly<Record<string, Option>>;

type Choice<O> = O extends { readonly choices: readonly (infer C)[] } ? C : string;

type ValueOf<O extends Option> = O extends { readonly kind: 'boolean' }
  ? boolean
  : O extends { readonly kind: 'string' }
    ? string
    : O extends { readonly kind: 'choice' }
      ? Choice<O>
      : O extends { readonly kind: 'list' }
        ? readonly Choice<O>[]
        : O extends { readonly kind: 'ranges' }
          ? readonly ByteSpan[]
          : number;

type IsPresent<O> = O extends { readonly required: true }
  ? true
  : O extends { readonly default: NonNullable<unknown> }
    ? true
    : false;

/** The values of a schema: an option with neither `required` nor a default may be undefined. */
export type OptionValues<S extends OptionSchema> = {
  readonly [K in keyof S]: IsPresent<S[K]> extends true ? ValueOf<S[K]> : ValueOf<S[K]> | undefined;
};

/**
 * Checks and converts what the user wrote for one option.
 * @param texts every value given for it, in order; at least one
 * @param what names the option in the error
 * @throws UsageError saying what is allowed
 */
export function parseOption(option: Option, texts: readonly string[], what: string): unknown {
  if (option.kind === 'list') return parseList(option, texts, what);
  if (option.kind === 'ranges') return texts.flatMap((text) => parseRanges(text, what));
  const text = texts[0] ?? '';
  if (texts.length > 1) throw new UsageError(`${what} is given ${texts.length} times; once is allowed`);
  switch (option.kind) {
    case 'size':
      return inRange(option, multipleOf(option, parseSize(text, what), what), what);
    case 'duration':
      return inRange(option, parseDurationMs(text, what), what);
    case 'integer':
      return inRange(option, parseNumber(text, /^[+-]?\d+$/, 'a whole number', what), what);
    case 'number':
      return inRange(option, parseNumber(text, /^[+-]?(\d+\.?\d*|\.\d+)$/, 'a number', what), what);
    case 'boolean':
      return parseBoolean(text, what);
    case 'string':
      if (text === '') throw new UsageError(`${what} is empty; give it a value`);
      return text;
    case 'choice':
      return oneOf(option.choices, text, what);
    default:
      return unreachable(option, 'option');
  }
}

/** The type of an option as the documentation shows it. */
export function optionType(option: Option): string {
  return option.adjustable ? `${kindText(option)}, adjustable` : kindText(option);
}

function kindText(option: Option): string {
  switch (option.kind) {
    case 'size':
    case 'duration':
    case 'integer':
    case 'number':
      return [option.kind, rangeText(option), multipleText(option)].filter((text) => text !== '').join(', ');
    case 'boolean':
    case 'string':
      return option.kind;
    case 'choice':
      return `one of ${option.choices.join(', ')}`;
    case 'list':
      return option.choices ? `list of ${option.choices.join(', ')}` : 'list';
    case 'ranges':
      return 'ranges';
    default:
      return unreachable(option, 'option');
  }
}

/** The default of an option as one would write it, or `required`, or nothing. */
export function optionDefault(option: Option): string {
  if (option.required) return 'required';
  if (option.default === undefined) return '';
  switch (option.kind) {
    case 'duration':
      return option.default >= 1000 && option.default % 1000 === 0
        ? `${option.default / 1000}s`
        : `${option.default}ms`;
    case 'boolean':
      return option.default ? 'on' : 'off';
    case 'list':
      return option.default.join('+');
    case 'size':
    case 'integer':
    case 'number':
    case 'string':
    case 'choice':
      return String(option.default);
    default:
      return unreachable(option, 'option');
  }
}

const BOOLEANS: Readonly<Record<string, boolean>> = {
  on: true,
  true: true,
  yes: true,
  off: false,
  false: false,
  no: false,
};

function parseBoolean(text: string, what: string): boolean {
  const value = Object.hasOwn(BOOLEANS, text) ? BOOLEANS[text] : undefined;
  if (value === undefined) throw new UsageError(`${what}: ${JSON.stringify(text)} is neither on nor off`);
  return value;
}

function parseNumber(text: string, shape: RegExp, kind: string, what: string): number {
  const value = shape.test(text) ? Number(text) : Number.NaN;
  const fits = kind === 'a number' ? Number.isFinite(value) : Number.isSafeInteger(value);
  if (!fits) throw new UsageError(`${what}: ${JSON.stringify(text)} is not ${kind}`);
  return value;
}

function parseList(option: ListOption, texts: readonly string[], what: string): string[] {
  const elements = texts.flatMap((text) => text.split('+'));
  if (elements.includes('')) throw new UsageError(`${what} has an empty element; write a+b`);
  const { choices } = option;
  return choices ? elements.map((element) => oneOf(choices, element, what)) : elements;
}

function parseRanges(text: string, what: string): ByteSpan[] {
  return text.split('+').map((range) => {
    const [from = '', to, ...more] = range.split('-');
    if (to === undefined || more.length > 0) {
      throw new UsageError(
        `${what}: ${JSON.stringify(range)} is not a range; write 1M-2M, or 1M- to the end`,
      );
    }
    const start = from === '' ? 0 : parseSize(from, what);
    const end = to === '' ? Number.POSITIVE_INFINITY : parseSize(to, what);
    if (start >= end)
      throw new UsageError(`${what}: ${JSON.stringify(range)} is empty: it must end after it begins`);
    return { start, end };
  });
}

function oneOf(choices: readonly string[], text: string, what: string): string {
  if (choices.includes(text)) return text;
  throw new UsageError(`${what}: ${JSON.stringify(text)} is not allowed; use one of ${choices.join(', ')}`);
}

function multipleOf(option: SizeOption, value: number, what: string): number {
  if (option.multipleOf === undefined || value % option.multipleOf === 0) return value;
  throw new UsageError(`${what}: ${value} is not a multiple of ${option.multipleOf} bytes`);
}

function inRange(
  option: SizeOption | DurationOption | IntegerOption | NumberOption,
  value: number,
  what: string,
) {
  const { min, max } = option;
  if ((min === undefined || value >= min) && (max === undefined || value <= max)) return value;
  throw new UsageError(
    `${what}: ${quantity(option, value)} is out of range; allowed is ${rangeText(option)}`,
  );
}

function rangeText(option: SizeOption | DurationOption | IntegerOption | NumberOption): string {
  const { min, max } = option;
  if (min !== undefined && max !== undefined) return `${quantity(option, min)} to ${quantity(option, max)}`;
  if (min !== undefined) return `at least ${quantity(option, min)}`;
  return max === undefined ? '' : `at most ${quantity(option, max)}`;
}

function multipleText(option: Option): string {
  return option.kind === 'size' && option.multipleOf !== undefined ? `multiple of ${option.multipleOf}` : '';
}

function quantity(option: Option, value: number): string {
  if (option.kind === 'size') return formatBytes(value);
  return option.kind === 'duration' ? formatDuration(value) : String(value);
}
