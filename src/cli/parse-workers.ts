// --workers, and which of them has which volumes. Pure.
import { UsageError } from '../base/errors.ts';
import type { SERVE_OPTIONS } from './commands/serve.ts';
import type { RawOptions } from './option-table.ts';
import type { ExportSettings } from './parse-export.ts';
import { parseCount } from './parse-values.ts';

const MAX_WORKERS = 64;

/**
 * @param exports one for every image, in their order
 * @returns for each worker its volumes; all at one without --workers @throws UsageError
 */
export function parseWorkers(
  { workers: text, stdio = false }: Pick<RawOptions<typeof SERVE_OPTIONS>, 'workers' | 'stdio'>,
  exports: ReadonlyMap<string, ExportSettings>,
): string[][] {
  const names = [...exports.keys()];
  const workers = text === undefined ? 1 : parseCount(text, '--workers', MAX_WORKERS);
  if (stdio && workers > 1) {
    throw new UsageError('--stdio serves one client, which one process does; leave --workers out');
  }
  if (workers > names.length) {
    throw new UsageError(
      `--workers ${workers}: there are only ${names.length} images, and each has one worker`,
    );
  }
  const chosen = new Map<string, number>();
  for (const [name, { worker }] of exports) {
    if (worker === undefined) continue;
    if (worker > workers) {
      throw new UsageError(`--export ${name}: there is no worker ${worker}; --workers is ${workers}`);
    }
    chosen.set(name, worker);
  }
  return placeVolumes(names, chosen, workers);
}

/**
 * Spreads volumes: those with a worker of their own choice first, each other one to the worker that has the fewest.
 * @param names in the order of the images
 * @param chosen workers by volume, from 1 on
 * @returns for each worker its volumes, in the order of the images; none is empty
 * @throws UsageError when the choices leave a worker without volumes
 */
export function placeVolumes(
  names: readonly string[],
  chosen: ReadonlyMap<string, number>,
  workers: number,
): string[][] {
  const owners = new Map<string, number>(
    names.flatMap((name) => {
      const worker = chosen.get(name);
      return worker === undefined ? [] : [[name, worker - 1]];
    }),
  );
  const counts = Array.from(
    { length: workers },
    (_, at) => [...owners.values()].filter((one) => one === at).length,
  );
  for (const name of names) {
    if (owners.has(name)) continue;
    const at = counts.indexOf(Math.min(...counts));
    owners.set(name, at);
    counts[at]! += 1;
  }
  const empty = counts.indexOf(0);
  if (empty !== -1) {
    throw new UsageError(
      `--workers ${workers}: worker ${empty + 1} has no volume; have fewer workers, or place fewer volumes by hand`,
    );
  }
  return counts.map((_, at) => names.filter((name) => owners.get(name) === at));
}
