// What the terminal can show, and text made safe for it: names come from other machines and may hold escape codes.

export interface Look {
  readonly columns: number;
  readonly color: boolean;
  readonly unicode: boolean;
}

export type Color = 'green' | 'yellow' | 'red' | 'dim' | 'bold';

const CODES: Readonly<Record<Color, string>> = { bold: '1', dim: '2', red: '31', green: '32', yellow: '33' };

/** Columns assumed where output is no terminal. */
const PLAIN_COLUMNS = 120;

/** How `stream` can be written to. */
export function lookOf(
  stream: { readonly isTTY?: boolean; readonly columns?: number },
  env: Readonly<Record<string, string | undefined>> = process.env,
): Look {
  const terminal = stream.isTTY === true;
  const locale = env.LC_ALL || env.LC_CTYPE || env.LANG || '';
  return {
    columns: terminal ? stream.columns || 80 : PLAIN_COLUMNS,
    color: terminal && !env.NO_COLOR && env.TERM !== 'dumb',
    unicode: /utf-?8/i.test(locale),
  };
}

export function paint(text: string, color: Color, look: Look): string {
  return look.color ? `\x1b[${CODES[color]}m${text}\x1b[0m` : text;
}

/** `text` without what a terminal would obey: control characters, and those that turn the writing direction. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\u{fffd}');
}

/** `text` in at most `columns` characters. */
export function shorten(text: string, columns: number, look: Look): string {
  const characters = [...text];
  if (characters.length <= columns) return text;
  const mark = look.unicode ? '…' : '~';
  return columns < 1 ? '' : characters.slice(0, columns - 1).join('') + mark;
}

/** `percent` (0..100) as a bar of `width` characters. Full only at 100. */
export function bar(percent: number, width: number, look: Look): string {
  const share = Math.min(100, Math.max(0, percent)) / 100;
  const filled = Math.floor(share * width);
  const [full, empty] = look.unicode ? ['█', '░'] : ['#', '-'];
  return full.repeat(filled) + empty.repeat(width - filled);
}
