// A value as one line of text with its own checksum: whoever reads it back knows that these are our own words, whole.
import { createHash } from 'node:crypto';

/** @param value what JSON keeps of it is kept @returns a line, with its end */
export function sealText(value: object): string {
  const body = JSON.stringify(value);
  return `${JSON.stringify({ sha256: digest(body), body })}\n`;
}

/** @returns undefined when it is damaged */
export function openSealed(text: string): object | undefined {
  try {
    const outer = JSON.parse(text) as { readonly sha256?: unknown; readonly body?: unknown };
    if (typeof outer.body !== 'string' || outer.sha256 !== digest(outer.body)) return undefined;
    return JSON.parse(outer.body) as object;
  } catch {
    return undefined;
  }
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
