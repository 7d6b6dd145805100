// Whether what came from outside is an object with names, before anything in it is looked at.

/** Not for lists. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
