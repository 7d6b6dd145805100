// Boots the small Linux of build-guest.sh in QEMU (emulated, no KVM needed) and runs a shell script in it.
// Must end QEMU by its own pid and show the guest's console whenever something went wrong.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Peer, type PeerResult, startPeer } from '../support/peers.ts';
import { waitUntil } from '../support/wait-until.ts';

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url));

/** Where the kernel is kept between runs. */
export const GUEST_FOLDER = process.env.XDG_CACHE_HOME
  ? resolve(process.env.XDG_CACHE_HOME, 'repagent-guest')
  : resolve(REPOSITORY, '.cache/guest');

/** The last console output shown in an error, characters. */
const SHOWN_CONSOLE = 6000;

export interface GuestJob {
  /** A script for busybox sh, by its file name in jobs/. */
  readonly job: string;
  /** Words given to the script. */
  readonly args?: readonly string[];
  /** More files, by the name they get in the script's folder. */
  readonly files?: Readonly<Record<string, string>>;
}

export interface GuestOptions extends GuestJob {
  /** Added to QEMU's command line, e.g. ['-drive', 'file=nbd:localhost:10809,format=raw,if=virtio']. */
  readonly qemu?: readonly string[];
  /** From start to power-off, milliseconds. */
  readonly timeoutMs?: number;
}

/** A machine that is switched on. */
export interface Guest {
  readonly pid: number;
  /** Everything the guest printed until now. */
  console(): string;
  /** Resolves when a line of the console matches. @throws Error when the guest ends, or the time is up, before that */
  waitFor(pattern: RegExp, timeoutMs?: number): Promise<RegExpMatchArray>;
  /** Waits for the power-off. @throws Error, with the console, unless the job exited with 0 */
  finished(): Promise<string>;
  /** kill -9: as if the machine lost its power. */
  kill(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** The options that make QEMU boot the small guest and run the job; to be followed by disks. */
export function qemuOptions(job: GuestJob, consoleFile: string): string[] {
  const files: Record<string, string> = {
    job: fileURLToPath(new URL(`jobs/${job.job}`, import.meta.url)),
    ...job.files,
  };
  const given = Object.entries(files).map(([name, path]) => `name=opt/repagent/${name},file=${quote(path)}`);
  if (job.args) given.push(`name=opt/repagent/args,string=${quote(job.args.join(' '))}`);
  return [
    ...['-accel', 'tcg', '-machine', 'q35', '-cpu', 'max', '-m', '256'],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    // A file, because QEMU drops characters when a pipe's reader is slow.
    ...['-serial', `file:${consoleFile}`],
    ...['-kernel', `${GUEST_FOLDER}/vmlinuz`, '-initrd', `${GUEST_FOLDER}/initramfs.cpio`],
    ...[
      '-append',
      'console=ttyS0 loglevel=3 panic=-1 mitigations=off tsc=reliable no_timer_check random.trust_cpu=on',
    ],
    ...given.flatMap((value) => ['-fw_cfg', value]),
  ];
}

/** A network card whose 10.0.2.2 is the host's loopback. */
export const USER_NETWORK = [
  '-netdev',
  'user,id=net0,ipv6=off',
  '-device',
  'virtio-net-pci,netdev=net0,romfile=',
];

/** Switches a guest on. */
export function startGuest(options: GuestOptions): Guest {
  const folder = mkdtempSync(join(tmpdir(), 'repagent-console-'));
  const consoleFile = join(folder, 'console');
  const args = [...qemuOptions(options, consoleFile), ...(options.qemu ?? [])];
  const peer = startPeer('qemu-system-x86_64', args);
  const guest = watchGuest(peer, consoleFile, options.timeoutMs ?? 120_000);
  return {
    ...guest,
    [Symbol.asyncDispose]: async () => {
      await peer.kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The guest that `peer` runs: QEMU itself, or a script around it. */
export function watchGuest(peer: Peer, consoleFile: string, timeoutMs: number): Guest {
  let ended: PeerResult | undefined;
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    void peer.stop(15_000);
  }, timeoutMs);
  const settled = (result?: PeerResult): void => {
    ended = result;
    clearTimeout(timer);
  };
  peer.exited.then(settled, () => settled());
  const text = (): string =>
    existsSync(consoleFile) ? readFileSync(consoleFile, 'utf8').replaceAll('\r', '') : '';
  const failure = (what: string): Error =>
    new Error(
      [
        late ? `the guest did not finish within ${timeoutMs} ms` : what,
        `console:\n${text().slice(-SHOWN_CONSOLE)}`,
        `QEMU:\n${peer.stdout().slice(-SHOWN_CONSOLE)}${peer.stderr().slice(-SHOWN_CONSOLE)}`,
      ].join('\n'),
    );

  return {
    pid: peer.pid,
    console: () => completeLines(text()),
    async waitFor(pattern, waitMs = 60_000) {
      try {
        return await waitUntil(
          () => {
            const match = completeLines(text()).match(pattern);
            if (!match && ended) throw new Error(`it ended (${ended.code ?? ended.signal})`);
            return match;
          },
          { timeoutMs: waitMs, what: `${pattern} on the guest's console`, intervalMs: 20 },
        );
      } catch (error) {
        throw failure(error instanceof Error ? error.message : String(error));
      }
    },
    async finished() {
      const result = await peer.exited;
      const exit = /^guest: exit (\d+)$/m.exec(text())?.[1];
      if (late || exit !== '0' || result.code !== 0) {
        throw failure(`guest's job: ${exit ?? 'no end'}, ended with ${result.code ?? result.signal}`);
      }
      return text();
    },
    async kill() {
      await peer.kill();
    },
    [Symbol.asyncDispose]: async () => {
      await peer.stop();
    },
  };
}

/** A line that is still being printed must not match. */
function completeLines(text: string): string {
  return text.slice(0, text.lastIndexOf('\n') + 1);
}

/** In a QEMU option a comma is written twice. */
function quote(value: string): string {
  return value.replaceAll(',', ',,');
}
