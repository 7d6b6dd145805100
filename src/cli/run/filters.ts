// `repagent filters`: prints what the registry says of each filter.
import { describeFilters, type FilterDescription, type OptionDescription } from '../../filter/registry.ts';
import { lookOf } from '../view/terminal.ts';

export function runFilters(request: { readonly json: boolean }): number {
  const filters = describeFilters();
  const { columns } = lookOf(process.stdout);
  process.stdout.write(request.json ? `${JSON.stringify(filters)}\n` : filterList(filters, columns));
  return 0;
}

/** The mirroring filter is no entry of the registry: it needs the hub that `--hub` names. */
const REPAGENT: FilterDescription = {
  name: 'repagent',
  summary: 'Copies every change to the hub; added by --hub as the innermost filter unless it is placed',
  options: [],
  examples: [
    {
      spec: 'repagent',
      text: 'Place it among the others: filters given after it change what is not mirrored',
    },
  ],
};

/** The list as people read it, in lines of at most `columns`. */
export function filterList(filters: readonly FilterDescription[], columns: number): string {
  const lines = [...filters, REPAGENT].flatMap((filter) => [...filterLines(filter, columns), '']);
  lines.push('Given to `repagent serve` as --filter NAME,OPTION=VALUE,... outermost first.');
  return `${lines.join('\n')}\n`;
}

function filterLines(filter: FilterDescription, columns: number): string[] {
  const nameWidth = Math.max(0, ...filter.options.map((option) => option.name.length));
  const lines = [filter.name, ...wrapped(filter.summary, '  ', '  ', columns)];
  for (const option of filter.options) {
    const text = `${option.description} [${option.type}${defaultText(option)}]`;
    const head = `    ${option.name.padEnd(nameWidth)}  `;
    lines.push(...wrapped(text, head, ' '.repeat(head.length), columns));
  }
  for (const example of filter.examples) {
    lines.push(
      ...wrapped(`--filter ${example.spec}`, '  ', '  ', columns),
      ...wrapped(example.text, INDENT, INDENT, columns),
    );
  }
  return lines;
}

const INDENT = '      ';

function defaultText(option: OptionDescription): string {
  if (option.default === '') return '';
  return option.default === 'required' ? '; required' : `; default ${option.default}`;
}

/** Breaks `text` at spaces into lines of at most `columns`, behind `first` and then behind `rest`. */
function wrapped(text: string, first: string, rest: string, columns: number): string[] {
  const lines: string[] = [];
  let line = first;
  let empty = true;
  for (const word of text.split(' ')) {
    if (!empty && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = rest;
      empty = true;
    }
    line += empty ? word : ` ${word}`;
    empty = false;
  }
  return [...lines, line];
}
