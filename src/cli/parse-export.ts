// What `--export` says of single images: how each is shown to clients, and to which. Nothing is opened here.
import { UsageError } from '../base/errors.ts';
import { checkOptions, splitSpec } from '../filter/filter-spec.ts';
import { type OptionSchema, parseOption } from '../filter/option-schema.ts';
import { type AccessRules, parsePlaces } from '../nbd/access.ts';
import type { ExportVisibility } from '../nbd/exports.ts';

/** How one image is served. */
export interface ExportSettings {
  readonly readOnly: boolean;
  readonly rotational: boolean;
  /** undefined: one that says what the image is. */
  readonly description: string | undefined;
  /** May change while it is served; the rest may not. */
  readonly visibility: ExportVisibility;
  /** Which worker has it, from 1 on; undefined: the one that has the fewest. */
  readonly worker: number | undefined;
}

export interface ExportDefaults {
  /** `--allow`, for exports that have no `allow` of their own. */
  readonly allow: readonly string[] | undefined;
  /** `--read-only`; an export can't take it back. */
  readonly readOnly: boolean;
}

const KIND = 'export';

const EXPORT_OPTIONS = {
  'read-only': { kind: 'boolean', default: false, description: 'refuse changes' },
  hidden: { kind: 'boolean', default: false, description: 'not listed; who knows the name may open it' },
  rotational: { kind: 'boolean', default: false, description: 'tell clients that seeks cost time' },
  description: { kind: 'string', description: 'text for people, in lists' },
  worker: {
    kind: 'integer',
    min: 1,
    description: 'with --workers: which one has it, from 1 on; default: in turn',
  },
  allow: {
    kind: 'list',
    description: 'addresses and networks that may use it, and `unix` for local sockets',
  },
  'allow-cert': { kind: 'list', description: 'names of client certificates that may use it' },
  'allow-psk': { kind: 'list', description: 'users of pre-shared keys that may use it' },
} as const satisfies OptionSchema;

/**
 * Reads the `--export` options.
 * @param names of all images
 * @returns settings for every image, those without an option of their own too
 * @throws UsageError for an option that is wrong, or for a name that is no image's or comes twice
 */
export function parseExports(
  texts: readonly string[],
  names: readonly string[],
  defaults: ExportDefaults,
): ReadonlyMap<string, ExportSettings> {
  const allow =
    defaults.allow && (parseOption(EXPORT_OPTIONS.allow, defaults.allow, '--allow') as readonly string[]);
  const read = (name: string, values: ReadonlyMap<string, readonly string[]>): ExportSettings => {
    const options = checkOptions({ name, options: EXPORT_OPTIONS }, values, KIND);
    const certificates = options['allow-cert'];
    const keys = options['allow-psk'];
    const from = options.allow ?? allow;
    const access: AccessRules = {
      from: from && parsePlaces(from, options.allow ? `${KIND} ${name}: option allow` : '--allow'),
      certificates: certificates && new Set(certificates),
      keys: keys && new Set(keys),
    };
    return {
      readOnly: defaults.readOnly || options['read-only'],
      rotational: options.rotational,
      description: options.description,
      visibility: { access, hidden: options.hidden },
      worker: options.worker,
    };
  };
  const settings = new Map(names.map((name) => [name, read(name, new Map())]));
  const given = new Set<string>();
  for (const text of texts) {
    const { name, values } = splitSpec(text, KIND);
    if (!settings.has(name)) {
      throw new UsageError(
        `--export: no image is called ${JSON.stringify(name)}; the images are ${names.join(', ')}`,
      );
    }
    if (given.has(name))
      throw new UsageError(`--export: ${name} was given twice; write all its options in one`);
    given.add(name);
    settings.set(name, read(name, values));
  }
  return settings;
}
