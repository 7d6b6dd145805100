// A computer of its own for one of our programs: a guest whose disk is in this process and forgets what was not flushed
// when the power is cut. It must never let a disk that is without power become durable by an orderly end of anything.
import { createRequire } from 'node:module';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { silentLogger } from '../../src/base/log.ts';
import { type NbdServer, startNbdServer } from '../../src/nbd/server.ts';
import { CLI_PATH } from '../support/cli.ts';
import { runPeerOk } from '../support/peers.ts';
import { VolatileDisk } from '../support/volatile-disk.ts';
import { waitUntil } from '../support/wait-until.ts';
import { type Guest, startGuest } from './guest-vm.ts';

/** Where the guest listens; the host reaches it at a port of its own. */
const GUEST_ADDRESS = '10.0.2.15';
const GUEST_PORT = 9000;
/** The host's loopback, as the guest calls it. */
export const HOST_ADDRESS = '10.0.2.2';
export const LISTEN = ['--listen', `${GUEST_ADDRESS}:${GUEST_PORT}`, '--insecure'];

/** Which pages the computer's kernel writes to its disk: only those that somebody syncs, or all, soon. */
export type Writeback = 'lazy' | 'eager';

/**
 * Makes the disk with the built program on it, in one file: an emulated processor would take a minute for hundreds.
 * @param folder for it
 */
export async function buildComputer(folder: string): Promise<string> {
  const bundle = join(folder, 'program');
  // Vite is what vitest is made of.
  const fromVitest = createRequire(createRequire(import.meta.url).resolve('vitest/package.json'));
  const { build } = (await import(pathToFileURL(fromVitest.resolve('vite')).href)) as {
    build: (config: object) => Promise<unknown>;
  };
  await build({
    configFile: false,
    logLevel: 'error',
    ssr: { noExternal: true, external: ['koffi'] },
    build: {
      ssr: CLI_PATH,
      outDir: bundle,
      minify: true,
      target: 'node20',
      copyPublicDir: false,
      rollupOptions: { output: { entryFileNames: 'main.js', codeSplitting: false } },
    },
  });
  const disk = join(folder, 'computer.img');
  const script = fileURLToPath(new URL('build-computer.sh', import.meta.url));
  await runPeerOk(script, [disk, process.execPath, join(bundle, 'main.js')], { timeoutMs: 60_000 });
  return disk;
}

export class PoweredHost {
  readonly disk: VolatileDisk;
  readonly #folder: string;
  readonly #programs: string;
  readonly #server: NbdServer;
  #guest: Guest | undefined;
  #starts = 0;

  private constructor(disk: VolatileDisk, folder: string, programs: string, server: NbdServer) {
    this.disk = disk;
    this.#folder = folder;
    this.#programs = programs;
    this.#server = server;
  }

  /** @param folder for sockets @param programs what buildComputer made */
  static async make(folder: string, programs: string, sizeBytes: number): Promise<PoweredHost> {
    const disk = new VolatileDisk(sizeBytes);
    const server = await startNbdServer({
      exports: [{ name: 'disk', device: disk }],
      listen: [{ kind: 'unix', path: join(folder, 'disk.sock') }],
      logger: silentLogger,
    });
    return new PoweredHost(disk, folder, programs, server);
  }

  get console(): string {
    return this.#guest?.console() ?? '';
  }

  /** Boots, and runs `repagent ARGS`. @returns the port at which this machine reaches it once it listens */
  async powerOn(writeback: Writeback, args: readonly string[]): Promise<number> {
    this.#starts += 1;
    this.disk.powerOn();
    const monitor = join(this.#folder, `monitor-${this.#starts}.sock`);
    this.#guest = startGuest({
      job: 'host.sh',
      args: [writeback, ...args],
      qemu: [
        ...['-m', '384', '-monitor', `unix:${monitor},server=on,wait=off`],
        ...['-drive', `file=nbd:unix:${join(this.#folder, 'disk.sock')},format=raw,if=virtio`],
        ...['-drive', `file=${this.#programs},format=raw,if=virtio,readonly=on`],
        ...['-netdev', `user,id=net0,ipv6=off,hostfwd=tcp:127.0.0.1:0-:${GUEST_PORT}`],
        ...['-device', 'virtio-net-pci,netdev=net0,romfile='],
      ],
      timeoutMs: 600_000, // longer than a test may take
    });
    const before = performance.now();
    await this.#guest.waitFor(/^listening /m, 180_000);
    process.stdout.write(`  ${args[0]} listened after ${Math.round(performance.now() - before)} ms\n`);
    return forwardedPort(monitor);
  }

  /** Now. What the disk keeps of what was not flushed is by chance. */
  async powerCut(random: () => number): Promise<void> {
    const killed = this.#guest?.kill();
    this.disk.onRequest = undefined;
    this.disk.powerCut(random);
    await killed;
    await this.#guest?.[Symbol.asyncDispose]();
    this.#guest = undefined;
  }

  /** At the so-manieth request to the disk from now on, before it takes effect. */
  powerCutAfter(requests: number, random: () => number): Promise<void> {
    let left = requests;
    const onRequest = this.disk.onRequest;
    return new Promise((resolve, reject) => {
      this.disk.onRequest = () => {
        left -= 1;
        if (left > 0) {
          onRequest?.();
          return;
        }
        this.powerCut(random).then(resolve, reject);
      };
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.powerCut(() => 0);
    await this.#server.close();
  }
}

/** Which port QEMU's user network has taken, as its monitor tells. */
async function forwardedPort(monitor: string): Promise<number> {
  const socket = connect(monitor);
  let text = '';
  socket.setEncoding('latin1');
  socket.on('data', (more: string) => {
    text += more;
  });
  let failure: Error | undefined;
  socket.on('error', (error) => {
    failure = error;
  });
  socket.write('info usernet\n');
  try {
    return await waitUntil(
      () => {
        if (failure) throw failure;
        return Number(/TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)/.exec(text)?.[1]);
      },
      { what: 'the monitor to tell the forwarded port' },
    );
  } finally {
    socket.destroy();
  }
}
