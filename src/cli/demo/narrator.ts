// How the demo speaks: numbered headings, indented notes, commands as one would type them. No facts of its own.
import { type Look, lookOf, paint } from '../view/terminal.ts';

export class Narrator {
  readonly #out: NodeJS.WriteStream;
  readonly #look: Look;
  #headings = 0;

  constructor(out: NodeJS.WriteStream = process.stdout) {
    this.#out = out;
    this.#look = lookOf(out);
  }

  heading(text: string): void {
    this.#headings += 1;
    this.line('');
    this.line(paint(`${this.#headings}. ${text}`, 'bold', this.#look));
  }

  note(text: string): void {
    this.line(`   ${text}`);
  }

  good(text: string): void {
    this.line(`   ${paint(text, 'green', this.#look)}`);
  }

  bad(text: string): void {
    this.line(`   ${paint(text, 'red', this.#look)}`);
  }

  command(text: string): void {
    this.line(`   ${paint(`$ ${text}`, 'dim', this.#look)}`);
  }

  line(text: string): void {
    this.#out.write(`${text}\n`);
  }
}
