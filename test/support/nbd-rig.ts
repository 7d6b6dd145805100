// An NBD server for one test, on a socket of its own, and clients to it. `stop` checks that nothing is left behind.
import type { NetConnectOpts } from 'node:net';
import { expect } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import type { ExportSpec } from '../../src/nbd/exports.ts';
import { type NbdServer, type NbdServerOptions, startNbdServer } from '../../src/nbd/server.ts';
import { type CapturedLog, captureLog } from './capture-log.ts';
import { RawNbdClient } from './raw-nbd-client.ts';
import { type TempDir, tempDir } from './temp-dir.ts';
import { waitUntil } from './wait-until.ts';

export type NbdRigOptions = Partial<Omit<NbdServerOptions, 'exports' | 'logger' | 'listen'>> & {
  /** Listen on loopback instead of a unix socket. */
  readonly tcp?: boolean;
};

export class NbdRig {
  readonly server: NbdServer;
  readonly log: CapturedLog;
  readonly to: NetConnectOpts;
  readonly #directory: TempDir;
  readonly #clients: RawNbdClient[] = [];

  private constructor(server: NbdServer, log: CapturedLog, directory: TempDir) {
    this.server = server;
    this.log = log;
    this.#directory = directory;
    const address = server.addresses[0]!;
    this.to = address.kind === 'unix' ? { path: address.path } : { host: address.host, port: address.port };
  }

  /** Serves `device` as `disk`, or the exports given. */
  static async start(
    device: BlockDevice | readonly ExportSpec[],
    { tcp = false, ...options }: NbdRigOptions = {},
  ): Promise<NbdRig> {
    const directory = tempDir();
    const log = captureLog();
    const exports = 'sizeBytes' in device ? [{ name: 'disk', device }] : device;
    const listen = tcp
      ? ({ kind: 'tcp', host: '127.0.0.1', port: 0 } as const)
      : ({ kind: 'unix', path: directory.file('nbd.sock') } as const);
    const server = await startNbdServer({ exports, listen: [listen], logger: log.logger, ...options });
    return new NbdRig(server, log, directory);
  }

  /** Connects, without a word. */
  async connect(): Promise<RawNbdClient> {
    const client = await RawNbdClient.connect(this.to);
    this.#clients.push(client);
    return client;
  }

  /** Connects and goes into transmission. */
  async open(name = ''): Promise<RawNbdClient> {
    const client = await this.connect();
    await client.greet();
    await client.go(name);
    return client;
  }

  /** The warnings and errors in the log. */
  problems(): string[] {
    return this.log
      .lines()
      .filter((line) => line.level >= 40)
      .map((line) => `${line.msg} ${line.reason ?? line.err ?? ''}`.trim());
  }

  /** Waits until no connection is left, and with it no memory. */
  async idle(): Promise<void> {
    await waitUntil(() => this.server.connectionCount === 0, { what: 'the last connection to go' });
    expect(sharedPool.liveBytes, 'bytes of slabs that nobody gave back').toBe(0);
  }

  async stop(): Promise<void> {
    for (const client of this.#clients) await client.destroy();
    await this.server.close();
    this.#directory.remove();
    await this.idle();
  }
}
