// What a configuration that was read anew changes for exports that are being served, and what has to wait.
import { isDeepStrictEqual } from 'node:util';
import type { ExportVisibility } from '../../nbd/exports.ts';
import type { ServeConfig } from '../commands/serve.ts';
import type { ExportSettings } from '../parse-export.ts';

type Settings = ReadonlyMap<string, ExportSettings>;

/** Who may see each export that is served. One that the new configuration doesn't know keeps what it had. */
export function reloadedVisibility(served: Settings, next: Settings): ReadonlyMap<string, ExportVisibility> {
  return new Map(
    [...served].map(([name, settings]) => [name, (next.get(name) ?? settings).visibility] as const),
  );
}

/** The options whose change takes effect at the next start only, by name. */
export function changedAtStartOnly(now: ServeConfig, next: ServeConfig): string[] {
  const keys = Object.keys(now) as Array<keyof ServeConfig>;
  return keys.filter((key) => {
    if (key === 'exports') return !isDeepStrictEqual(fixedPart(now.exports), fixedPart(next.exports));
    return !isDeepStrictEqual(now[key], next[key]);
  });
}

/** What of each export stays as it was at the start. */
function fixedPart(exports: Settings): unknown {
  return [...exports].map(([name, { readOnly, rotational, description }]) => {
    return [name, readOnly, rotational, description];
  });
}
