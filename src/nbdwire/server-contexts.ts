// The data of LIST_META_CONTEXT and SET_META_CONTEXT: what a client asks for, and which contexts of an export that
// means. A context's id is its place in the export's list.
import { isUtf8 } from 'node:buffer';
import { NBD_MAX_STRING_BYTES, NBD_REP } from './constants.ts';
import { encodeOptionReply, invalid, type OptionError, parseLeadingName } from './server-options.ts';
import { metaContextStruct } from './structured-layouts.ts';

export interface ContextRequest {
  /** The export. */
  readonly name: string;
  readonly queries: readonly string[];
}

/** Decodes the option data: a name with its length, a count, and that many queries with theirs, and nothing more. */
export function parseContextRequest(data: Buffer): ContextRequest | OptionError {
  const leading = parseLeadingName(data, 4);
  if ('error' in leading) return leading;
  const { name } = leading;
  let at = leading.end;
  const count = data.readUInt32BE(at);
  at += 4;
  if (count > (data.length - at) / 4) return invalid(`${count} queries do not fit in the option data`);
  const queries: string[] = [];
  for (let i = 0; i < count; i += 1) {
    const bytes = at + 4 <= data.length ? data.readUInt32BE(at) : -1;
    at += 4;
    if (bytes < 0 || bytes > data.length - at)
      return invalid(`query ${i + 1} does not fit in the option data`);
    const text = data.subarray(at, at + bytes);
    at += bytes;
    if (bytes > NBD_MAX_STRING_BYTES || !isUtf8(text) || text.includes(0)) {
      return invalid(`query ${i + 1} is not UTF-8 text of at most ${NBD_MAX_STRING_BYTES} bytes without NUL`);
    }
    queries.push(text.toString('utf8'));
  }
  if (at !== data.length) return invalid(`${data.length - at} bytes follow the last query`);
  return { name, queries };
}

/**
 * The ids of the contexts that `queries` list: all of them when there are none; a name alone with its colon means the
 * whole namespace. What isn't known, is ignored.
 */
export function listContexts(available: readonly string[], queries: readonly string[]): number[] {
  if (queries.length === 0) return available.map((_name, id) => id);
  return matching(available, (name) =>
    queries.some((query) => query === name || (query.endsWith(':') && name.startsWith(query))),
  );
}

/** The ids of the contexts that `queries` select: those that are named in full. */
export function selectContexts(available: readonly string[], queries: readonly string[]): number[] {
  return matching(available, (name) => queries.includes(name));
}

function matching(available: readonly string[], wanted: (name: string) => boolean): number[] {
  const ids: number[] = [];
  for (const [id, name] of available.entries()) if (wanted(name)) ids.push(id);
  return ids;
}

/** One NBD_REP_META_CONTEXT. */
export function encodeMetaContext(option: number, contextId: number, name: string): Buffer {
  return encodeOptionReply(
    option,
    NBD_REP.META_CONTEXT,
    metaContextStruct.encode({ contextId }),
    Buffer.from(name),
  );
}
