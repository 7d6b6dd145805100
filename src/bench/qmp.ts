// QEMU's monitor protocol over a unix socket: one command at a time, a line of JSON each way, events between them.
import { createConnection, type Socket } from 'node:net';
import { errorMessage, OperationError } from '../base/errors.ts';
import { type Deferred, deferred, within } from '../base/lifecycle.ts';
import { MiB } from '../base/limits.ts';

const ANSWER_TIMEOUT_MS = 15_000;
/** Longest line that is waited for, characters. */
const MAX_LINE_CHARACTERS = 4 * MiB;

/** What one line is: an answer, or something else (greeting, event). @throws OperationError for QEMU's errors */
export function parseQmpLine(line: string): { readonly answer: unknown } | undefined {
  const message = JSON.parse(line) as { return?: unknown; error?: { desc?: unknown } };
  if (message.error !== undefined) throw new OperationError(`QEMU: ${String(message.error.desc)}`);
  return 'return' in message ? { answer: message.return } : undefined;
}

export class QmpClient {
  readonly #socket: Socket;
  #text = '';
  #waiting: Deferred<unknown> | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (text: unknown) => this.#take(String(text)));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new OperationError('QEMU closed its monitor')));
  }

  /** Connects to a monitor that listens. @throws OperationError */
  static async connect(path: string): Promise<QmpClient> {
    const client = new QmpClient(createConnection(path));
    await client.run('qmp_capabilities');
    return client;
  }

  /** Runs a command. @throws OperationError when QEMU refuses or doesn't answer */
  async run(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    if (this.#waiting) throw new OperationError(`${command}: another command of QEMU's monitor is running`);
    const waiting = deferred<unknown>();
    this.#waiting = waiting;
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
    const answer = await within(
      waiting.promise.then((value) => ({ value })),
      ANSWER_TIMEOUT_MS,
    );
    this.#waiting = undefined;
    if (answer === undefined) throw new OperationError(`QEMU does not answer ${command}`);
    return answer.value;
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(text: string): void {
    this.#text += text;
    if (this.#text.length > MAX_LINE_CHARACTERS) this.#socket.destroy();
    for (let end = this.#text.indexOf('\n'); end !== -1; end = this.#text.indexOf('\n')) {
      const line = this.#text.slice(0, end);
      this.#text = this.#text.slice(end + 1);
      if (line.trim() !== '') this.#takeLine(line);
    }
  }

  #takeLine(line: string): void {
    try {
      const message = parseQmpLine(line);
      if (message) this.#waiting?.resolve(message.answer);
    } catch (error) {
      this.#fail(error instanceof OperationError ? error : new OperationError(errorMessage(error)));
    }
  }

  #fail(error: Error): void {
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }
}
