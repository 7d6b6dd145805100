// The control API of a running process: status, filter statistics, online verification, resizing, pausing, and changes of
// running filters, as HTTP and JSON on a unix socket or on loopback. It must never be reachable from another machine, nor from a web page.
import { unlinkSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { errorCode, errorMessage, OperationError, UsageError } from '../base/errors.ts';
import { within } from '../base/lifecycle.ts';
import { KiB } from '../base/limits.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import { type ControlAddress, formatControlAddress, isLoopbackHost, MAX_UNIX_PATH_BYTES } from './address.ts';
import { createRouter, type Route, type RouteRequest, sendJson, toErrorBody } from './router.ts';
import { probeSocket } from './runtime-dir.ts';
import {
  MAX_PAUSE_MS,
  type PauseOrder,
  type ProcessStatus,
  type VerifyProgress,
  type VerifyResult,
} from './status.ts';
import { isNamed } from './volume-name.ts';

/** What the process behind the API can be asked. Errors meant for the user are OperationError or UsageError. */
export interface ControlHandlers {
  status(): MaybePromise<ProcessStatus>;
  /** Published statistics of filters, by export and filter; may be a promise of them. */
  stats(): unknown;
  /** @param hub whose replica, where there are several; hubs have only their own */
  verify(volume: string, onProgress: (progress: VerifyProgress) => void, hub?: string): Promise<VerifyResult>;
  /**
   * Hub only: says who is right where the stories of agent and replica don't fit together.
   * @returns what follows, in words
   */
  resolve?(volume: string, use: 'agent' | 'replica', agentId: string | undefined): Promise<string>;
  /** Makes a volume larger, bytes. Left out where sizes are not this process's to decide. */
  resize?(volume: string, sizeBytes: number): Promise<void>;
  /** What is done to the chains of volumes. Left out where there are none. */
  readonly chains?: ChainHandlers;
}

export interface ChainHandlers {
  /** Resolves when the volume is at rest. `signal` is aborted when whoever asked has gone. */
  pause(volume: string, request: PauseOrder, signal: AbortSignal): Promise<void>;
  /** Lets the volume go on. @returns how long it was paused, milliseconds */
  resume(volume: string): MaybePromise<number>;
  /** Changes options of a running filter. @returns what the filter says of itself then */
  adjust(volume: string, filter: string, changes: ReadonlyMap<string, readonly string[]>): Promise<unknown>;
}

export interface ControlServerOptions {
  readonly address: ControlAddress;
  readonly handlers: ControlHandlers;
  readonly logger: Logger;
}

export interface ControlServer {
  /** With the port that was taken when 0 was asked for. */
  readonly address: ControlAddress;
  /** Ends running requests and removes the socket's file. Idempotent. */
  close(): Promise<void>;
}

const MAX_CONNECTIONS = 64;
const MAX_HEADER_BYTES = 8 * KiB;
const HEADERS_TIMEOUT_MS = 5000;
const IDLE_TIMEOUT_MS = 10_000;
/** Progress lines of one verification are at least this far apart. */
const PROGRESS_INTERVAL_MS = 100;
const CLOSE_GRACE_MS = 500;

/**
 * Starts the API.
 * @throws UsageError when the address is not loopback; OperationError when it can't be listened on
 */
export async function startControlServer(options: ControlServerOptions): Promise<ControlServer> {
  const { address, handlers, logger } = options;
  checkAddress(address);
  const server = createServer({
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: HEADERS_TIMEOUT_MS,
    requestTimeout: IDLE_TIMEOUT_MS,
    keepAliveTimeout: IDLE_TIMEOUT_MS,
    connectionsCheckingInterval: 1000,
  });
  server.maxConnections = MAX_CONNECTIONS;
  const trusted = address.kind === 'unix' ? () => true : (request: IncomingMessage) => isLocal(request);
  server.on('request', createRouter({ routes: routesOf(handlers), trusted, logger }));
  server.on('clientError', (_error, socket) => {
    if (socket.writable) socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n');
    else socket.destroy();
  });
  if (address.kind === 'unix') await removeStale(address.path);
  await listen(server, address);
  server.on('error', (error) => logger.error({ err: error }, 'the control API failed'));
  const actual = actualAddress(server, address);
  let closing: Promise<void> | undefined;
  return {
    address: actual,
    close: () => {
      closing ??= closeServer(server);
      return closing;
    },
  };
}

function routesOf(handlers: ControlHandlers): Route[] {
  const verifying = new Set<string>();
  return [
    {
      method: 'GET',
      path: '/status',
      handle: async (_request, response) => sendJson(response, 200, await handlers.status()),
    },
    {
      method: 'GET',
      path: '/stats',
      handle: async (_request, response) => sendJson(response, 200, (await handlers.stats()) ?? {}),
    },
    {
      method: 'POST',
      path: '/verify',
      handle: (request, response) => verifyOne(request, response, handlers, verifying),
    },
    {
      method: 'POST',
      path: '/resize',
      handle: (request, response) => resizeOne(request, response, handlers),
    },
    {
      method: 'POST',
      path: '/resolve',
      handle: (request, response) => resolveOne(request, response, handlers),
    },
    {
      method: 'POST',
      path: '/pause',
      handle: (request, response) => pauseOne(request, response, chainsOf(handlers)),
    },
    {
      method: 'POST',
      path: '/resume',
      handle: async ({ query }, response) => {
        const volume = query.get('volume');
        if (!volume) throw new UsageError('name the volume: /resume?volume=NAME');
        sendJson(response, 200, { volume, pausedMs: await chainsOf(handlers).resume(volume) });
      },
    },
    {
      method: 'POST',
      path: '/adjust',
      handle: (request, response) => adjustOne(request, response, chainsOf(handlers)),
    },
  ];
}

/** Streams one JSON value a line: `{progress}` while it runs, then `{result}` or `{error, hint}`. */
async function verifyOne(
  request: RouteRequest,
  response: ServerResponse,
  handlers: ControlHandlers,
  verifying: Set<string>,
): Promise<void> {
  const volume = request.query.get('volume');
  const hub = request.query.get('hub') ?? undefined;
  if (!volume) throw new UsageError('name the volume: /verify?volume=NAME[&hub=NAME]');
  const { volumes } = await handlers.status();
  if (!volumes.some((one) => isNamed(one, volume))) {
    throw new UsageError(`there is no volume ${JSON.stringify(volume)}`);
  }
  const what = JSON.stringify([volume, hub]);
  if (verifying.has(what)) {
    throw new OperationError(`volume ${JSON.stringify(volume)} is being verified already`, {
      hint: 'wait for the running verification to end',
    });
  }
  verifying.add(what);
  try {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.flushHeaders();
    let lastSent = Number.NEGATIVE_INFINITY;
    const onProgress = (progress: VerifyProgress): void => {
      const now = performance.now();
      // A reader that doesn't keep up misses progress; it never makes the process buffer it.
      if (request.signal.aborted || response.writableNeedDrain || now - lastSent < PROGRESS_INTERVAL_MS)
        return;
      lastSent = now;
      response.write(`${JSON.stringify({ progress })}\n`);
    };
    const last = await handlers.verify(volume, onProgress, hub).then(
      (result) => ({ result }),
      (error: unknown) => toErrorBody(error),
    );
    response.end(`${JSON.stringify(last)}\n`);
  } finally {
    verifying.delete(what);
  }
}

async function resizeOne(
  request: RouteRequest,
  response: ServerResponse,
  handlers: ControlHandlers,
): Promise<void> {
  const volume = request.query.get('volume');
  const size = request.query.get('size') ?? '';
  const sizeBytes = /^\d{1,16}$/.test(size) ? Number(size) : Number.NaN;
  if (!volume || !Number.isSafeInteger(sizeBytes)) {
    throw new UsageError('name the volume and its new size in bytes: /resize?volume=NAME&size=BYTES');
  }
  if (!handlers.resize) {
    throw new OperationError('this process cannot resize volumes', {
      hint: 'ask the agent that serves the volume: repagent resize --control ADDR',
    });
  }
  await handlers.resize(volume, sizeBytes);
  sendJson(response, 200, { volume, sizeBytes });
}

function chainsOf({ chains }: ControlHandlers): ChainHandlers {
  if (chains) return chains;
  throw new OperationError('this process serves no volumes', {
    hint: 'ask the agent that serves the volume: name it with --control ADDR',
  });
}

async function resolveOne(
  request: RouteRequest,
  response: ServerResponse,
  handlers: ControlHandlers,
): Promise<void> {
  const volume = request.query.get('volume');
  const use = request.query.get('use');
  const agentId = request.query.get('agent') ?? undefined;
  if (!volume || (use !== 'agent' && use !== 'replica')) {
    throw new UsageError(
      'name the volume and who is right: /resolve?volume=NAME&use=agent|replica[&agent=ID]',
    );
  }
  if (!handlers.resolve) {
    throw new OperationError('this process keeps no replicas', {
      hint: 'ask the hub: repagent resolve --control ADDR',
    });
  }
  sendJson(response, 200, { volume, done: await handlers.resolve(volume, use, agentId) });
}

/** Answers when the volume is at rest. A client that leaves before that gives the pause up. */
async function pauseOne(
  { query, signal }: RouteRequest,
  response: ServerResponse,
  chains: ChainHandlers,
): Promise<void> {
  const volume = query.get('volume');
  const timeout = query.get('timeoutMs') ?? '';
  const timeoutMs = /^\d{1,9}$/.test(timeout) ? Number(timeout) : Number.NaN;
  const flush = query.get('flush') ?? 'off';
  const isRight = timeoutMs > 0 && timeoutMs <= MAX_PAUSE_MS && (flush === 'on' || flush === 'off');
  if (!volume || !isRight) {
    throw new UsageError(
      `name the volume and when it goes on by itself: /pause?volume=NAME&timeoutMs=1..${MAX_PAUSE_MS}[&flush=on]`,
    );
  }
  await chains.pause(volume, { timeoutMs, flush: flush === 'on' }, signal);
  sendJson(response, 200, { volume, timeoutMs });
}

async function adjustOne(
  { query }: RouteRequest,
  response: ServerResponse,
  chains: ChainHandlers,
): Promise<void> {
  const volume = query.get('volume');
  const filter = query.get('filter');
  if (!volume || !filter) {
    throw new UsageError(
      'name the volume, the filter and what changes: /adjust?volume=NAME&filter=NAME&set=OPTION=VALUE',
    );
  }
  const changes = new Map<string, string[]>();
  for (const setting of query.getAll('set')) {
    const equals = setting.indexOf('=');
    if (equals < 1) throw new UsageError(`${JSON.stringify(setting)} is not OPTION=VALUE`);
    const key = setting.slice(0, equals);
    changes.set(key, [...(changes.get(key) ?? []), setting.slice(equals + 1)]);
  }
  sendJson(response, 200, { volume, filter, status: (await chains.adjust(volume, filter, changes)) ?? null });
}

/** A web page may name this API by a host name of its own (DNS rebinding), or post to it from another origin. */
function isLocal(request: IncomingMessage): boolean {
  const host = hostName(`http://${request.headers.host ?? ''}`);
  if (host === undefined || !isLoopbackHost(host)) return false;
  const origin = request.headers.origin;
  return origin === undefined || origin === `http://${request.headers.host}`;
}

function hostName(url: string): string | undefined {
  try {
    return new URL(url).hostname.replace(/^\[|\]$/g, '');
  } catch {
    return undefined;
  }
}

function checkAddress(address: ControlAddress): void {
  if (address.kind === 'tcp') {
    if (isLoopbackHost(address.host)) return;
    throw new UsageError(
      `--control: ${formatControlAddress(address)} is not loopback; use unix:PATH or 127.0.0.1:PORT`,
    );
  }
  const length = Buffer.byteLength(address.path);
  if (length > MAX_UNIX_PATH_BYTES) {
    throw new UsageError(
      `--control: a socket path has at most ${MAX_UNIX_PATH_BYTES} bytes, this one has ${length}: ${address.path}`,
    );
  }
}

/** Removes the socket of a process that was killed, and only that. */
async function removeStale(path: string): Promise<void> {
  if ((await probeSocket(path)) !== 'stale') return;
  try {
    unlinkSync(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw inUse({ kind: 'unix', path }, error);
  }
}

function listen(server: Server, address: ControlAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: unknown): void => reject(inUse(address, error));
    server.once('error', failed);
    const done = (): void => {
      server.off('error', failed);
      resolve();
    };
    if (address.kind === 'tcp') {
      server.listen({ host: address.host, port: address.port }, done);
      return;
    }
    // bind() happens inside listen(): the file is never there with wider permissions.
    const before = process.umask(0o177);
    try {
      server.listen(address.path, done);
    } finally {
      process.umask(before);
    }
  });
}

function inUse(address: ControlAddress, error: unknown): OperationError {
  const where = formatControlAddress(address);
  const why =
    errorCode(error) === 'EADDRINUSE' ? 'address in use' : `can't listen there: ${errorMessage(error)}`;
  return new OperationError(`control API ${where}: ${why}`, {
    hint: 'choose another with --control',
    cause: error,
  });
}

function actualAddress(server: Server, asked: ControlAddress): ControlAddress {
  if (asked.kind === 'unix') return asked;
  return { ...asked, port: (server.address() as AddressInfo).port };
}

async function closeServer(server: Server): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve());
  });
  server.closeIdleConnections();
  await within(closed, CLOSE_GRACE_MS);
  server.closeAllConnections();
  await closed;
}
