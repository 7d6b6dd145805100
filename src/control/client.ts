// Asks a running process through its control API. What comes back is bounded and checked before it is believed.
import { type IncomingMessage, request } from 'node:http';
import { errorCode, errorMessage, OperationError } from '../base/errors.ts';
import { isRecord } from '../base/is-record.ts';
import { MiB } from '../base/limits.ts';
import { type ControlAddress, formatControlAddress } from './address.ts';
import type { PauseOrder, ProcessStatus, VerifyProgress, VerifyResult } from './status.ts';

/** Largest answer, and largest line of a stream, bytes: a thousand volumes fit many times. */
const MAX_ANSWER_BYTES = 16 * MiB;
const ANSWER_TIMEOUT_MS = 10_000;
/** Silence within a verification; the process tells its progress several times a second. */
const STREAM_TIMEOUT_MS = 120_000;

/** @throws OperationError when nobody answers there, or not with a status */
export async function fetchStatus(address: ControlAddress): Promise<ProcessStatus> {
  const body = await getJson(address, '/status');
  if (!isRecord(body) || typeof body.pid !== 'number') throw notOurs(address);
  if (!Array.isArray(body.volumes) || !Array.isArray(body.listening)) throw notOurs(address);
  if (!body.volumes.every(isVolume)) throw notOurs(address);
  return body as unknown as ProcessStatus;
}

/** The published statistics of filters. @throws OperationError when nobody answers there */
export function fetchStats(address: ControlAddress): Promise<unknown> {
  return getJson(address, '/stats');
}

/**
 * Runs a verification in the process and waits for its result.
 * @param hub whose replica; may be left out where there is only one
 * @throws OperationError with the process's own message when it can't
 */
export async function runVerify(
  address: ControlAddress,
  volume: string,
  onProgress: (progress: VerifyProgress) => void,
  hub?: string,
): Promise<VerifyResult> {
  const query = new URLSearchParams({ volume, ...(hub !== undefined && { hub }) });
  const path = `/verify?${query.toString()}`;
  const response = await send(address, 'POST', path, STREAM_TIMEOUT_MS);
  if (response.statusCode !== 200) throw failure(address, await readJson(address, response));
  for await (const line of lines(address, response)) {
    const message = parse(address, line);
    if (!isRecord(message)) throw notOurs(address);
    if (isRecord(message.progress)) {
      onProgress(message.progress as unknown as VerifyProgress);
    } else if (isRecord(message.result)) {
      if (!Array.isArray(message.result.differing)) throw notOurs(address);
      return message.result as unknown as VerifyResult;
    } else {
      throw failure(address, message);
    }
  }
  throw new OperationError(`the process at ${formatControlAddress(address)} ended the verification early`, {
    hint: 'see its log, then run verify again',
  });
}

/**
 * Makes a volume larger.
 * @param sizeBytes its new size
 * @throws OperationError with the process's own message when it can't
 */
export async function requestResize(
  address: ControlAddress,
  volume: string,
  sizeBytes: number,
): Promise<void> {
  await post(address, 'resize', { volume, size: sizeBytes }, STREAM_TIMEOUT_MS);
}

/**
 * Says who is right about a volume: its agent's disk or its replica.
 * @param agentId hexadecimal; the agent that was refused last unless given
 * @returns what follows, in words
 * @throws OperationError with the process's own message when it can't
 */
export async function requestResolve(
  address: ControlAddress,
  volume: string,
  use: 'agent' | 'replica',
  agentId: string | undefined,
): Promise<string> {
  const query = { volume, use, ...(agentId === undefined ? {} : { agent: agentId }) };
  const body = await post(address, 'resolve', query, STREAM_TIMEOUT_MS);
  if (!isRecord(body) || typeof body.done !== 'string') throw notOurs(address);
  return body.done;
}

/**
 * Pauses a volume. When this resolves nothing of it is in flight, and nothing new begins before the order's deadline.
 * @throws OperationError with the process's own message when it can't
 */
export async function requestPause(
  address: ControlAddress,
  volume: string,
  order: PauseOrder,
): Promise<void> {
  const { timeoutMs, flush } = order;
  const query = { volume, timeoutMs, flush: flush ? 'on' : 'off' };
  await post(address, 'pause', query, timeoutMs + ANSWER_TIMEOUT_MS);
}

/**
 * Lets a paused volume go on.
 * @returns how long it was paused, milliseconds
 * @throws OperationError with the process's own message when it wasn't paused any more
 */
export async function requestResume(address: ControlAddress, volume: string): Promise<number> {
  const body = await post(address, 'resume', { volume }, ANSWER_TIMEOUT_MS);
  if (!isRecord(body) || typeof body.pausedMs !== 'number') throw notOurs(address);
  return body.pausedMs;
}

/**
 * Changes options of a running filter.
 * @param settings each OPTION=VALUE
 * @returns what the filter says of itself then
 * @throws OperationError with the process's own message when it can't
 */
export async function requestAdjust(
  address: ControlAddress,
  volume: string,
  filter: string,
  settings: readonly string[],
): Promise<unknown> {
  const body = await post(address, 'adjust', { volume, filter, set: settings }, STREAM_TIMEOUT_MS);
  if (!isRecord(body)) throw notOurs(address);
  return body.status;
}

type Query = Readonly<Record<string, string | number | readonly string[]>>;

async function post(
  address: ControlAddress,
  path: string,
  query: Query,
  timeoutMs: number,
): Promise<unknown> {
  const pairs = Object.entries(query).flatMap(([key, value]) =>
    (Array.isArray(value) ? (value as readonly string[]) : [String(value)]).map((one): [string, string] => [
      key,
      one,
    ]),
  );
  const target = `/${path}?${new URLSearchParams(pairs).toString()}`;
  const response = await send(address, 'POST', target, timeoutMs);
  const body = await readJson(address, response);
  if (response.statusCode !== 200) throw failure(address, body);
  return body;
}

async function getJson(address: ControlAddress, path: string): Promise<unknown> {
  const response = await send(address, 'GET', path, ANSWER_TIMEOUT_MS);
  const body = await readJson(address, response);
  if (response.statusCode !== 200) throw failure(address, body);
  return body;
}

function send(
  address: ControlAddress,
  method: string,
  path: string,
  timeoutMs: number,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const target =
      address.kind === 'unix' ? { socketPath: address.path } : { host: address.host, port: address.port };
    const outgoing = request({ ...target, method, path, agent: false, timeout: timeoutMs });
    outgoing.once('response', (response) => resolve(response));
    outgoing.once('timeout', () => outgoing.destroy(new Error(`no answer for ${timeoutMs / 1000} s`)));
    outgoing.once('error', (error) => reject(unreachable(address, error)));
    outgoing.end();
  });
}

async function readJson(address: ControlAddress, response: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length > MAX_ANSWER_BYTES) throw notOurs(address);
      chunks.push(chunk);
    }
  } catch (error) {
    throw error instanceof OperationError ? error : unreachable(address, error);
  }
  return parse(address, Buffer.concat(chunks).toString('utf8'));
}

async function* lines(address: ControlAddress, response: IncomingMessage): AsyncGenerator<string> {
  response.setEncoding('utf8');
  let rest = '';
  try {
    for await (const chunk of response as AsyncIterable<string>) {
      const parts = (rest + chunk).split('\n');
      rest = parts.pop() ?? '';
      if (rest.length > MAX_ANSWER_BYTES) throw notOurs(address);
      yield* parts;
    }
  } catch (error) {
    throw error instanceof OperationError ? error : unreachable(address, error);
  }
}

function parse(address: ControlAddress, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw notOurs(address);
  }
}

/** The process's own error, in its own words. */
function failure(address: ControlAddress, body: unknown): OperationError {
  if (!isRecord(body) || typeof body.error !== 'string') return notOurs(address);
  return new OperationError(body.error, typeof body.hint === 'string' ? { hint: body.hint } : {});
}

function unreachable(address: ControlAddress, error: unknown): OperationError {
  const where = formatControlAddress(address);
  const absent = errorCode(error) === 'ENOENT' || errorCode(error) === 'ECONNREFUSED';
  return new OperationError(
    absent
      ? `no process answers at ${where}`
      : `asking the process at ${where} failed: ${errorMessage(error)}`,
    { hint: 'check that it runs, and what its --control says', cause: error },
  );
}

function notOurs(address: ControlAddress): OperationError {
  return new OperationError(`what answers at ${formatControlAddress(address)} is not a repagent process`, {
    hint: 'check --control; it is another address than the one NBD clients or agents use',
  });
}

function isVolume(value: unknown): boolean {
  if (!isRecord(value)) return false;
  const { name, vmName, state, hubs = [] } = value;
  return areTexts(name, vmName, state) && Array.isArray(hubs) && hubs.every(isAtHub);
}

function isAtHub(value: unknown): boolean {
  return isRecord(value) && areTexts(value.hub, value.address, value.link, value.state);
}

function areTexts(...values: readonly unknown[]): boolean {
  return values.every((one) => typeof one === 'string');
}
