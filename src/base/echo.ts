// Text from outside on its way to people: into logs, and back to who sent it.

/** Longest piece of a client's own text that is sent or logged back, characters. */
const MAX_ECHO_CHARS = 64;

/** A client's text as it may be shown: short, and nothing that a terminal would act on. */
export function echo(text: string): string {
  const shown = text.length > MAX_ECHO_CHARS ? `${text.slice(0, MAX_ECHO_CHARS)}...` : text;
  return JSON.stringify(shown.replace(/[^\x20-\x7e]/g, '?'));
}
