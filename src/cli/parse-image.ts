// Images and volume pairs as the command line names them: a name, and where the bytes are. Nothing is opened here.
import { parse, resolve } from 'node:path';
import { UsageError } from '../base/errors.ts';
import { MAX_NAME_BYTES } from '../base/limits.ts';
import { parseNbdUri } from '../blockdev/nbd-uri.ts';

export interface NamedSource {
  readonly name: string;
  /** A path, or an `nbd://` or `nbd+unix://` URI. */
  readonly source: string;
}

/** Whether it names an NBD server rather than a file; QEMU's older `nbd:HOST:PORT` too, so that it gets good advice. */
export function isNbdUri(source: string): boolean {
  return /^nbds?(\+[a-z]+)?:/i.test(source);
}

/**
 * `PATH`, `NAME=PATH`, `NAME=nbd://...` or `nbd://...`. What comes before the first `=` is a name only when it holds
 * no slash, so `./a=b.img` is a path. Without a name: the file's without its extension, the export's, or the host's.
 * @throws UsageError
 */
export function parseImage(text: string): NamedSource {
  const pair = splitPair(text);
  const source = pair?.source ?? text;
  if (isNbdUri(source)) parseNbdUri(source);
  const name = pair?.name ?? defaultName(source);
  checkName(name, `image ${JSON.stringify(text)}`);
  return { name, source };
}

/**
 * All images of one process.
 * @throws UsageError when none is given, or two have one name or one source
 */
export function parseImages(texts: readonly string[]): NamedSource[] {
  if (texts.length === 0) {
    throw new UsageError('name at least one image: repagent serve disk.img');
  }
  return unique(texts.map(parseImage), (image) => {
    return `two images are called ${JSON.stringify(image.name)}; tell them apart with NAME=${image.source}`;
  });
}

/**
 * The hub's `NAME=PATH` pairs.
 * @throws UsageError when one is not such a pair, or two have one name or one path
 */
export function parsePairs(texts: readonly string[]): NamedSource[] {
  const pairs = texts.map((text) => {
    const pair = splitPair(text);
    if (!pair || isNbdUri(pair.source)) {
      throw new UsageError(`${JSON.stringify(text)} pairs no volume with an image; use NAME=PATH`);
    }
    checkName(pair.name, `volume ${JSON.stringify(text)}`);
    return pair;
  });
  return unique(
    pairs,
    (pair) => `volume ${JSON.stringify(pair.name)} is paired twice; a volume has one image`,
  );
}

function splitPair(text: string): NamedSource | undefined {
  const at = text.indexOf('=');
  if (at === -1 || text.slice(0, at).includes('/') || isNbdUri(text)) return undefined;
  const source = text.slice(at + 1);
  if (at === 0 || source === '') throw new UsageError(`${JSON.stringify(text)} is incomplete; use NAME=PATH`);
  return { name: text.slice(0, at), source };
}

function defaultName(source: string): string {
  if (!isNbdUri(source)) return parse(source).name;
  const address = parseNbdUri(source);
  if (address.exportName !== '') return address.exportName;
  return address.kind === 'tcp' ? address.host : parse(address.path.replace('\0', '')).name;
}

function checkName(name: string, what: string): void {
  const length = Buffer.byteLength(name);
  if (length === 0) throw new UsageError(`${what} has no name; give it one with NAME=...`);
  if (length > MAX_NAME_BYTES) {
    throw new UsageError(`${what}: a name has at most ${MAX_NAME_BYTES} bytes, this one has ${length}`);
  }
  if (/\p{Cc}/u.test(name)) throw new UsageError(`${what}: a name holds no control characters`);
}

/** Two writers on one file would destroy each other's data. */
function unique(all: NamedSource[], sameName: (one: NamedSource) => string): NamedSource[] {
  const names = new Set<string>();
  const sources = new Map<string, string>();
  for (const one of all) {
    if (names.has(one.name)) throw new UsageError(sameName(one));
    names.add(one.name);
    const place = isNbdUri(one.source) ? one.source : resolve(one.source);
    const other = sources.get(place);
    if (other !== undefined) {
      throw new UsageError(
        `${one.source} is given as ${JSON.stringify(other)} and as ${JSON.stringify(one.name)}; open it once`,
      );
    }
    sources.set(place, one.name);
  }
  return all;
}
