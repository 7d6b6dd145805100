// What a server is to the bench: something that serves an image over NBD, whose processes can be watched.
import { createConnection, createServer } from 'node:net';
import { OperationError } from '../base/errors.ts';
import { sleep } from '../base/sleep.ts';
import type { Child, Children } from './children.ts';
import type { FioClient } from './fio-client.ts';
import type { Cell, Circumstances } from './matrix.ts';
import type { Workspace } from './workspace.ts';

/** The circumstances under which all servers of a group of cells are started. */
export interface Bed {
  readonly cell: Circumstances;
  /** Of each image. */
  readonly sizeBytes: number;
  /** The images that are served; with `mirror` each server has one of its own, since each copies what is written to it, and with `workers`. */
  images(server: string): readonly string[];
  /** Where a mirror puts its copy. */
  replica(server: string): string;
  /** A path for sockets, logs and settings. */
  scratch(name: string): string;
  readonly children: Children;
  readonly workspace: Workspace;
  /** What loads the servers. */
  readonly client: FioClient;
  /** Folder with ca-cert.pem, server-cert.pem and so on; undefined without TLS. */
  readonly tlsDir: string | undefined;
  /** The command line program of this package. */
  readonly program: string;
}

export type Role =
  /** What the bench is about. */
  | 'subject'
  /** Another server that does the same. */
  | 'peer'
  /** A bound: something that does less than a server has to. */
  | 'floor';

export interface ServerKind {
  readonly name: string;
  readonly role: Role;
  /** What it is, in one line. */
  readonly describe: string;
  /** The programs that it needs, with the Debian packages that have them. */
  readonly programs: Readonly<Record<string, string>>;
  /** The arguments with which the first program tells its version. */
  readonly versionArgs: readonly string[];
  /** Whether it can be measured in such a bed. */
  suits(cell: Cell): boolean;
  start(bed: Bed): Promise<RunningServer>;
}

export interface RunningServer {
  /** Processes whose CPU time and memory are the server's; their children count too. */
  readonly pids: readonly number[];
  /** What fio opens, one for each image; none for a floor with a load of its own. */
  readonly uris: readonly string[];
  /** fio's arguments for floors that are no NBD server. */
  readonly load?: (cell: Cell, seconds: number) => readonly string[];
  /** Of a floor with a load of its own: the jobs whose transfers count. */
  readonly countJob?: (name: string) => boolean;
  /** Waits until nothing is left to do in the background, such as copying. */
  readonly settle?: () => Promise<void>;
  /** Called before stop, when all figures are there. @throws OperationError when the work was not done well */
  readonly check?: () => Promise<void>;
  stop(): Promise<void>;
}

const START_TIMEOUT_MS = 15_000;
const POLL_MS = 20;

/** A TCP port of loopback that nobody listens on at present. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** Waits until someone accepts. @throws OperationError with the last words of `child` when it doesn't come to that */
export async function untilAccepts(
  what: string,
  target: { readonly port: number; readonly host: string } | { readonly path: string },
  child: Child,
): Promise<void> {
  const endsAt = performance.now() + START_TIMEOUT_MS;
  while (!(await accepts(target))) {
    if (child.hasExited) throw new OperationError(`${what} did not start: ${child.tail()}`);
    if (performance.now() > endsAt)
      throw new OperationError(`${what} does not accept connections: ${child.tail()}`);
    await sleep(POLL_MS);
  }
}

/** Polls until `done` says so. @throws OperationError when it takes longer than `timeoutMs` */
export async function until(
  what: string,
  done: () => Promise<boolean>,
  timeoutMs: number,
  everyMs: number = POLL_MS,
): Promise<void> {
  const endsAt = performance.now() + timeoutMs;
  while (!(await done())) {
    if (performance.now() > endsAt) throw new OperationError(`${what}: not within ${timeoutMs / 1000} s`);
    await sleep(everyMs);
  }
}

/** The only image of a group of cells that has one. */
export function onlyImage(bed: Bed, server: string): string {
  return bed.images(server)[0]!;
}

/** What the image of that number, from 0, is exported as. */
export function exportName(index: number): string {
  return index === 0 ? 'disk' : `disk${index}`;
}

/** Where a server listens: a port of loopback, or the path of a unix socket. */
export type ListensAt = number | string;

export function socketTarget(
  at: ListensAt,
): { readonly port: number; readonly host: string } | { path: string } {
  return typeof at === 'number' ? { port: at, host: '127.0.0.1' } : { path: at };
}

/** The URI of an export. Certificates are for the name of loopback, not for its number. */
export function nbdUri(at: ListensAt, name: string, tls = false): string {
  if (typeof at === 'string') return `nbd+unix:///${name}?socket=${encodeURI(at)}`;
  const port = String(at);
  return tls ? `nbds://localhost:${port}/${name}` : `nbd://127.0.0.1:${port}/${name}`;
}

function accepts(
  target: { readonly port: number; readonly host: string } | { readonly path: string },
): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(target);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
