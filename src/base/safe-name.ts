// Names from agents as names of files: any name becomes one path component, two names never the same one, and none of
// them leads anywhere else.
import { createHash } from 'node:crypto';

/** Longest component that is made, bytes; file systems allow 255. */
const MAX_COMPONENT_BYTES = 200;
const HASH_CHARS = 32;

/**
 * Letters, digits, `-`, `_` and inner dots stay; other bytes become `%XX`. A long name is cut and told apart by a
 * digest after `%~`, which no other name can contain; the empty name is `%`.
 */
export function safeName(name: string): string {
  if (name === '') return '%';
  let safe = '';
  for (const byte of Buffer.from(name, 'utf8')) {
    const char = String.fromCharCode(byte);
    const plain = /[A-Za-z0-9_-]/.test(char) || (char === '.' && safe !== '');
    safe += plain ? char : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  if (safe.length <= MAX_COMPONENT_BYTES) return safe;
  const digest = createHash('sha256').update(name).digest('hex').slice(0, HASH_CHARS);
  const kept = safe.slice(0, MAX_COMPONENT_BYTES - HASH_CHARS - 2).replace(/%.?$/, '');
  return `${kept}%~${digest}`;
}
