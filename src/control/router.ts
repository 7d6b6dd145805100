// A router for a handful of fixed paths over node:http. It answers everything itself that is not a known request:
// unknown paths, wrong methods, bodies, foreign hosts. A handler only ever sees a request that it asked for.
import type { IncomingMessage, ServerResponse } from 'node:http';
import { errorMessage, OperationError, UsageError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';

export interface Route {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  handle(request: RouteRequest, response: ServerResponse): Promise<void> | void;
}

export interface RouteRequest {
  readonly query: URLSearchParams;
  /** Aborted when the client leaves. */
  readonly signal: AbortSignal;
}

/** What every error answer holds. */
export interface ErrorBody {
  readonly error: string;
  readonly hint?: string;
}

export interface RouterOptions {
  readonly routes: readonly Route[];
  /** Whether the request's Host and Origin may be answered. */
  readonly trusted: (request: IncomingMessage) => boolean;
  readonly logger: Logger;
}

/** A listener for node:http's 'request'. */
export function createRouter(options: RouterOptions): (req: IncomingMessage, res: ServerResponse) => void {
  const { routes, trusted, logger } = options;
  return (request, response) => {
    // Nobody reads the body; left unread it would be taken for the next request.
    request.resume();
    response.setHeader('cache-control', 'no-store');
    response.setHeader('x-content-type-options', 'nosniff');
    if (!trusted(request)) return sendError(response, 403, 'this host or origin is not allowed here');
    const length = request.headers['content-length'];
    if ((length !== undefined && length !== '0') || request.headers['transfer-encoding'] !== undefined) {
      response.setHeader('connection', 'close');
      return sendError(response, 413, 'a request has no body here');
    }
    const url = parseTarget(request.url);
    if (!url) return sendError(response, 400, 'the request target is not a path');
    const atPath = routes.filter((route) => route.path === url.pathname);
    if (atPath.length === 0) {
      const known = routes.map((route) => `${route.method} ${route.path}`).join(', ');
      return sendError(response, 404, `no such path; there are ${known}`);
    }
    const route = atPath.find((one) => one.method === request.method);
    if (!route) {
      const allowed = atPath.map((one) => one.method).join(', ');
      response.setHeader('allow', allowed);
      return sendError(response, 405, `use ${allowed}`);
    }
    void run(route, url.searchParams, response, logger);
  };
}

/** Answers `body` as JSON. */
export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  const text = `${JSON.stringify(body)}\n`;
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
}

export function sendError(response: ServerResponse, status: number, error: string, hint?: string): void {
  sendJson(response, status, errorBody(error, hint));
}

/** What is told of an error: message and next step, never a stack. */
export function toErrorBody(error: unknown): ErrorBody {
  return errorBody(errorMessage(error), error instanceof OperationError ? error.hint : undefined);
}

function errorBody(error: string, hint: string | undefined): ErrorBody {
  return hint === undefined ? { error } : { error, hint };
}

async function run(
  route: Route,
  query: URLSearchParams,
  response: ServerResponse,
  logger: Logger,
): Promise<void> {
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  try {
    await route.handle({ query, signal: gone.signal }, response);
  } catch (error) {
    if (gone.signal.aborted) return;
    const known = error instanceof OperationError || error instanceof UsageError;
    if (!known) logger.error({ err: error, path: route.path }, 'a control request failed');
    if (response.headersSent) response.destroy();
    else sendJson(response, statusOf(error), toErrorBody(error));
  }
}

function statusOf(error: unknown): number {
  if (error instanceof UsageError) return 400;
  return error instanceof OperationError ? 409 : 500;
}

function parseTarget(target: string | undefined): URL | undefined {
  if (!target?.startsWith('/')) return undefined;
  try {
    return new URL(`http://control${target.replace(/^\/+/, '/')}`);
  } catch {
    return undefined;
  }
}
