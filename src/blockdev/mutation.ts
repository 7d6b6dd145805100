// Every way in which a disk can change, as one union. What must see all changes (the mirror, a store) switches over
// it exhaustively, so that a new kind doesn't compile until each of them handles it.
import { unreachable } from '../base/assert.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice } from './block-device.ts';

export type Mutation =
  | { readonly kind: 'write'; readonly offset: number; readonly data: Buffer; readonly fua: boolean }
  | {
      readonly kind: 'writeZeroes';
      readonly offset: number;
      readonly length: number;
      readonly fua: boolean;
      readonly mayTrim: boolean;
    }
  | { readonly kind: 'trim'; readonly offset: number; readonly length: number; readonly fua: boolean }
  /** A barrier: everything before it is durable before anything after it counts. */
  | { readonly kind: 'flush' };

export type MutationKind = Mutation['kind'];

/** A byte range of a disk. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** What a mutation changes; a flush changes nothing. */
export function mutationRange(mutation: Mutation): ByteRange {
  switch (mutation.kind) {
    case 'write':
      return { offset: mutation.offset, length: mutation.data.length };
    case 'writeZeroes':
    case 'trim':
      return { offset: mutation.offset, length: mutation.length };
    case 'flush':
      return { offset: 0, length: 0 };
    default:
      return unreachable(mutation, 'mutation');
  }
}

/** Carries a mutation out on `device`. */
export function applyMutation(device: BlockDevice, mutation: Mutation): MaybePromise<void> {
  switch (mutation.kind) {
    case 'write':
      return device.write(mutation.offset, mutation.data, mutation.fua);
    case 'writeZeroes':
      return device.writeZeroes(mutation.offset, mutation.length, mutation.fua, mutation.mayTrim);
    case 'trim':
      return device.trim(mutation.offset, mutation.length, mutation.fua);
    case 'flush':
      return device.flush();
    default:
      return unreachable(mutation, 'mutation');
  }
}
