// The house rules that no compiler checks: who may import whom, and which package lives in which room.
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';

const ROOT = resolve(import.meta.dirname, '../../src');

/** Rows from top to bottom: a room imports only from rows below its own; rooms of one row never meet. */
const ROWS: readonly (readonly string[])[] = [
  ['cli'],
  ['bench'],
  ['nbd', 'rephub', 'repagent'],
  ['filter', 'repwire', 'control'],
  ['blockdev'],
  ['nbdwire', 'transport'],
  ['wire'],
  ['base'],
];

/** A package may be imported only under these paths (relative to src). */
const PACKAGE_HOMES: Readonly<Record<string, readonly string[]>> = {
  'buffer-layout': ['wire/struct.ts'],
  koffi: ['base/native-calls.ts'],
  pino: ['base/log.ts'],
  'pino-pretty': ['base/log.ts'],
  yargs: ['cli/'],
  yaml: ['cli/'],
};

/** Rooms that take bytes and give values: no sockets, no files, no clock. */
const PURE_ROOMS = ['wire', 'nbdwire', 'repwire'];
const IMPURE = /^node:(net|fs|http|https|tls|dgram|child_process|worker_threads|timers|process|os)(\/|$)/;

function sources(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return sources(path);
    return entry.name.endsWith('.ts') && !entry.name.endsWith('.d.ts') ? [path] : [];
  });
}

function importsOf(path: string): string[] {
  const text = readFileSync(path, 'utf8');
  const pattern = /(?:\bfrom\s+|\bimport\s+|\bimport\(\s*)'([^']+)'/g;
  return [...text.matchAll(pattern)].map((match) => match[1]!);
}

const files = sources(ROOT);
const room = (path: string): string => relative(ROOT, path).split('/')[0]!;
const rowOf = (name: string): number => ROWS.findIndex((row) => row.includes(name));

/** What is wrong with one import, or undefined. */
function violation(importer: string, specifier: string): string | undefined {
  const from = relative(ROOT, importer);
  if (!specifier.startsWith('.')) {
    const homes = PACKAGE_HOMES[specifier.startsWith('@') ? specifier : specifier.split('/')[0]!];
    if (homes && !homes.some((home) => from.startsWith(home))) return `${from} imports ${specifier}`;
    if (PURE_ROOMS.includes(room(importer)) && IMPURE.test(specifier))
      return `${from} is pure, imports ${specifier}`;
    if (!homes && !specifier.startsWith('node:')) return `${from} imports unlisted package ${specifier}`;
    return undefined;
  }
  if (!from.includes('/')) return undefined; // src/index.ts, the public face, sees every room
  const target = resolve(dirname(importer), specifier);
  const [here, there] = [room(importer), room(target)];
  if (here === there) return undefined;
  return rowOf(here) < rowOf(there) ? undefined : `${from} (${here}) may not import from ${there}`;
}

describe('structure', () => {
  test('every room has its row', () => {
    const rooms = new Set(files.filter((f) => relative(ROOT, f).includes('/')).map(room));
    expect([...rooms].filter((name) => rowOf(name) === -1)).toEqual([]);
    expect(files.length).toBeGreaterThan(20);
  });

  test('imports go downwards, packages stay in their rooms', () => {
    const found = files.flatMap((file) => importsOf(file).map((specifier) => violation(file, specifier)));
    expect(found.filter((text) => text !== undefined)).toEqual([]);
  });

  test('the check itself finds what it forbids', () => {
    expect(violation(join(ROOT, 'nbd/server.ts'), '../filter/log.ts')).toBeUndefined();
    expect(violation(join(ROOT, 'nbd/server.ts'), '../rephub/hub.ts')).toContain('may not import');
    expect(violation(join(ROOT, 'filter/log.ts'), '../nbd/server.ts')).toContain('may not import');
    expect(violation(join(ROOT, 'nbd/server.ts'), 'yargs')).toContain('yargs');
    expect(violation(join(ROOT, 'repwire/decode.ts'), 'node:net')).toContain('pure');
    expect(violation(join(ROOT, 'base/size.ts'), 'left-pad')).toContain('unlisted');
  });

  test('each file opens with what it is', () => {
    const bare = files.filter((file) => !/^(#!.*\n)?\/\/ \S/.test(readFileSync(file, 'utf8')));
    expect(bare.map((file) => relative(ROOT, file))).toEqual([]);
  });

  test('no file has grown beyond what one can hold in mind', () => {
    const long = files
      .map((file) => ({ file: relative(ROOT, file), lines: readFileSync(file, 'utf8').split('\n').length }))
      .filter(({ lines }) => lines > 450);
    expect(long).toEqual([]);
  });
});
