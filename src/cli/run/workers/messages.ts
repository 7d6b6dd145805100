// What the process that clients talk to and its workers say to each other, over the channel that Node gives a child. Plain
// values; a client's socket travels beside its message.
import { OperationError, UsageError } from '../../../base/errors.ts';
import type { DeviceLimits } from '../../../blockdev/block-device.ts';
import type { PauseOrder, VerifyProgress } from '../../../control/status.ts';
import type { NegotiatedClient } from '../../../nbd/hand-over.ts';
import type { AgentPlaces } from '../../../repagent/state-dir.ts';
import type { SERVE_OPTIONS } from '../../commands/serve.ts';
import type { RawOptions } from '../../option-table.ts';

export type RawServe = RawOptions<typeof SERVE_OPTIONS>;

/** The first message: what to serve. */
export interface WorkerOrder {
  /** From 1 on, for the log. */
  readonly number: number;
  /** As the process was given them: they are understood anew. */
  readonly options: RawServe;
  readonly volumes: readonly string[];
  /** Undefined: nothing is replicated. The lock is inherited. */
  readonly places: AgentPlaces | undefined;
}

/** What the handshake tells of an export. */
export interface ExportFacts {
  readonly name: string;
  readonly sizeBytes: number;
  readonly limits: DeviceLimits;
  /** Meta contexts besides base:allocation. */
  readonly contexts: readonly string[];
}

/** What a worker can be asked. Every call is answered once. */
export type WorkerCall =
  | { readonly what: 'status' | 'stats' | 'reload' }
  | { readonly what: 'verify'; readonly volume: string; readonly hub: string | undefined }
  | { readonly what: 'resize'; readonly volume: string; readonly sizeBytes: number }
  | { readonly what: 'pause'; readonly volume: string; readonly order: PauseOrder }
  | { readonly what: 'resume'; readonly volume: string }
  | {
      readonly what: 'adjust';
      readonly volume: string;
      readonly filter: string;
      readonly changes: ReadonlyMap<string, readonly string[]>;
    };

export type ToWorker =
  | { readonly kind: 'start'; readonly order: WorkerOrder }
  | { readonly kind: 'client'; readonly id: number; readonly client: NegotiatedClient }
  | { readonly kind: 'call'; readonly id: number; readonly call: WorkerCall }
  /** Whoever asked has gone. */
  | { readonly kind: 'abandoned'; readonly id: number }
  /** End in order: clients, hubs, images. The worker's exit is the answer. */
  | { readonly kind: 'close' };

export type FromWorker =
  | { readonly kind: 'ready'; readonly exports: readonly ExportFacts[] }
  /** The last message of one that couldn't begin, or go on. */
  | { readonly kind: 'failed'; readonly error: ToldError }
  /** A client has arrived. They arrive in order: one that was sent before and has not is lost. */
  | { readonly kind: 'taken'; readonly id: number }
  /** Nothing is left of a client. */
  | { readonly kind: 'gone'; readonly id: number }
  | { readonly kind: 'resized'; readonly name: string; readonly sizeBytes: number }
  | { readonly kind: 'progress'; readonly id: number; readonly progress: VerifyProgress }
  | { readonly kind: 'answer'; readonly id: number; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: number; readonly error: ToldError };

/** An error as it crosses processes: its kind decides the exit status, and what users are told to do. */
export interface ToldError {
  readonly kind: 'usage' | 'operation' | 'other';
  readonly message: string;
  readonly hint: string | undefined;
  readonly stack: string | undefined;
}

export function tellError(error: unknown): ToldError {
  const known = error instanceof Error ? error : new Error(String(error));
  const { message, stack } = known;
  if (known instanceof UsageError) return { kind: 'usage', message, hint: undefined, stack };
  if (known instanceof OperationError) return { kind: 'operation', message, hint: known.hint, stack };
  return { kind: 'other', message, hint: undefined, stack };
}

export function toldError({ kind, message, hint, stack }: ToldError): Error {
  switch (kind) {
    case 'usage':
      return new UsageError(message);
    case 'operation':
      return new OperationError(message, hint === undefined ? {} : { hint });
    case 'other': {
      const error = new Error(message);
      if (stack !== undefined) error.stack = stack;
      return error;
    }
  }
}
