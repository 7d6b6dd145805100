// Gives clients that only know sockets a server on two pipes: whoever connects to a unix socket gets a process of its own,
// whose standard input and output are what it says and hears. It must add nothing and lose nothing.
import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';

export interface PipeRelay {
  /** Of the processes that ended, in that order; null for one that a signal ended. */
  readonly exitCodes: readonly (number | null)[];
  /** Everything on their standard errors until now. */
  stderr(): string;
  /** Ends what still runs. */
  [Symbol.asyncDispose](): Promise<void>;
}

/** Listens at `path`, and runs `words` for each client. */
export async function startPipeRelay(
  path: string,
  words: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<PipeRelay> {
  const [program = '', ...args] = words;
  const living = new Set<ChildProcess>();
  const exitCodes: Array<number | null> = [];
  const said: Buffer[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: 'pipe' });
    living.add(child);
    child.stderr.on('data', (chunk: Buffer) => said.push(chunk));
    child.once('close', (code) => {
      living.delete(child);
      exitCodes.push(code);
    });
    // Either may go first.
    for (const stream of [socket, child.stdin, child.stdout]) stream.on('error', () => {});
    socket.pipe(child.stdin);
    child.stdout.pipe(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    exitCodes,
    stderr: () => Buffer.concat(said).toString(),
    [Symbol.asyncDispose]: async () => {
      for (const child of living) child.kill('SIGKILL');
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
