// A program whose heap a test watches: started with a young generation so large that nothing is collected unless asked,
// and asked on its standard input what its heap holds.
import { type ChildProcess, spawn } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { MiB } from '../../src/base/limits.ts';
import { RawNbdClient } from './raw-nbd-client.ts';
import { tempDir } from './temp-dir.ts';
import { waitUntil } from './wait-until.ts';

const FLAGS = ['--expose-gc', '--max-semi-space-size=512', '--min-semi-space-size=512'];

export interface HeapLook {
  readonly usedBytes: number;
  readonly collections: number;
  /** A mirrored server's: of its volume, and how often the queue was full. */
  readonly state?: string;
  readonly dirtyBytes?: number;
  readonly overflows?: number;
}

/** The built NBD server over a new disk of 1 MiB, and a client of it: all of it is gone when `use` has ended. */
export async function withDiskServer<T>(
  use: (server: HeapProgram, client: RawNbdClient) => Promise<T>,
): Promise<T> {
  const folder = tempDir();
  const image = folder.file('disk.img');
  writeFileSync(image, '');
  truncateSync(image, MiB);
  const server = await HeapProgram.start('heap-server.mjs', [image]);
  try {
    const client = await RawNbdClient.open({ host: '127.0.0.1', port: server.port }, 'disk');
    const result = await use(server, client);
    await client.destroy();
    return result;
  } finally {
    server.kill();
    folder.remove();
  }
}

/** The same server with a hub that keeps a replica, and has everything when `use` begins. */
export async function withMirroredServer<T>(
  use: (agent: HeapProgram, hub: HeapProgram, client: RawNbdClient) => Promise<T>,
): Promise<T> {
  const folder = tempDir();
  for (const name of ['disk.img', 'replica.img']) {
    writeFileSync(folder.file(name), '');
    truncateSync(folder.file(name), MiB);
  }
  const hub = await HeapProgram.start('heap-hub.mjs', [folder.file('replica.img')]);
  const agent = await HeapProgram.start('heap-server.mjs', [folder.file('disk.img'), String(hub.port)]);
  try {
    const client = await RawNbdClient.open({ host: '127.0.0.1', port: agent.port }, 'disk');
    await untilAcknowledged(agent);
    const result = await use(agent, hub, client);
    await client.destroy();
    return result;
  } finally {
    agent.kill();
    hub.kill();
    folder.remove();
  }
}

/** Waits until the hub has everything of the agent's volume. */
export async function untilAcknowledged(agent: HeapProgram): Promise<void> {
  await waitUntil(
    async () => {
      const { state, dirtyBytes } = await agent.ask('look');
      return state === 'protected' && dirtyBytes === 0;
    },
    { what: 'everything to be acknowledged', timeoutMs: 60_000 },
  );
}

export class HeapProgram {
  /** Where it listens. */
  readonly port: number;
  readonly #child: ChildProcess;
  readonly #next: () => Promise<string>;

  private constructor(child: ChildProcess, next: () => Promise<string>, port: number) {
    this.#child = child;
    this.#next = next;
    this.port = port;
  }

  /** @param file of test/support */
  static async start(file: string, args: readonly string[]): Promise<HeapProgram> {
    const path = fileURLToPath(new URL(file, import.meta.url));
    const child = spawn(process.execPath, [...FLAGS, path, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async (): Promise<string> => String((await lines.next()).value);
    return new HeapProgram(child, next, Number(await next()));
  }

  /** @param what `gc` collects everything first */
  async ask(what: 'gc' | 'look'): Promise<HeapLook> {
    this.#child.stdin!.write(`${what}\n`);
    return JSON.parse(await this.#next()) as HeapLook;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }
}
