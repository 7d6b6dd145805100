// Words from the other side, made harmless before they are shown: escaped, cut, and nothing in them that a terminal
// would act on or that would turn the direction of what follows.

/** Characters of the other side's own words that are repeated. */
const MAX_QUOTED_CHARS = 200;

/** Controls, marks without width, and what changes the direction of text. */
const UNSEEN = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

/** In quotation marks, at most some 200 characters of it. */
export function quoteForeign(text: string): string {
  const cut = text.length > MAX_QUOTED_CHARS ? `${text.slice(0, MAX_QUOTED_CHARS)}...` : text;
  return JSON.stringify(cut).replace(UNSEEN, '?');
}
