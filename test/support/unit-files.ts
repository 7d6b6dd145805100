// Reads the unit files in packaging/systemd as systemd.syntax(7) has them, as far as ours use it: sections, keys that may
// come several times, comments. No continued lines, which ours don't have.
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const UNIT_DIR: string = fileURLToPath(new URL('../../packaging/systemd/', import.meta.url));

/** The names of all units. */
export const UNIT_NAMES: readonly string[] = readdirSync(UNIT_DIR).filter((name) =>
  /\.(service|socket)$/.test(name),
);

export interface UnitFile {
  readonly text: string;
  /** All values of a key, in order. */
  all(section: string, key: string): string[];
  /** The value of a key that stands there once. @throws Error otherwise */
  one(section: string, key: string): string;
}

export function readUnit(name: string): UnitFile {
  const text = readFileSync(`${UNIT_DIR}${name}`, 'utf8');
  const values = new Map<string, string[]>();
  let section = '';
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const [, header] = /^\[(\w+)\]$/.exec(line) ?? [];
    if (header !== undefined) {
      section = header;
      continue;
    }
    const [, key, value] = /^(\w+)=(.*)$/.exec(line) ?? [];
    if (key === undefined || value === undefined)
      throw new Error(`${name}: what is ${JSON.stringify(line)}?`);
    const place = `${section}.${key}`;
    values.set(place, [...(values.get(place) ?? []), value]);
  }
  const all = (where: string, key: string): string[] => values.get(`${where}.${key}`) ?? [];
  const one = (where: string, key: string): string => {
    const found = all(where, key);
    if (found.length !== 1) throw new Error(`${name}: ${where}.${key} stands there ${found.length} times`);
    return found[0]!;
  };
  return { text, all, one };
}
