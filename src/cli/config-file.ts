// Reads a YAML config file. What its keys may be is the option table's business.
import { readFileSync, statSync } from 'node:fs';
import { parseDocument } from 'yaml';
import { errorMessage, UsageError } from '../base/errors.ts';
import { MiB } from '../base/limits.ts';

const MAX_CONFIG_BYTES = MiB;

/**
 * The content of a config file.
 * @throws UsageError when it can't be read, is larger than 1 MiB, or is not YAML; names file and line
 */
export function readConfigFile(path: string): unknown {
  return parseConfig(readText(path), path);
}

/** @throws UsageError naming the line that is not YAML */
export function parseConfig(text: string, source: string): unknown {
  const document = parseDocument(text, { uniqueKeys: true, prettyErrors: true });
  const [problem] = document.errors;
  if (problem) {
    throw new UsageError(`${source}: ${problem.message.split('\n')[0]!.replace(/:$/, '')}`);
  }
  try {
    return document.toJS({ maxAliasCount: 100 }) as unknown;
  } catch (error) {
    throw new UsageError(`${source}: ${errorMessage(error)}`);
  }
}

function readText(path: string): string {
  try {
    const { size } = statSync(path);
    if (size > MAX_CONFIG_BYTES) throw new UsageError(`--config: ${path} is larger than 1 MiB`);
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`--config: can't read ${path}: ${errorMessage(error)}`);
  }
}
