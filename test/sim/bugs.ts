// How deliberate bugs are put into agent, hub and machines from outside, for the length of a run.
import type { WrapStore } from './sim-images.ts';

export interface Bug {
  readonly name: string;
  /** Puts it in. @returns how to take it out */
  readonly enter?: () => () => void;
  readonly wrapStore?: WrapStore;
  /** The machine doesn't know that it was started again. */
  readonly sameBoot?: boolean;
}

type Method = (...args: never[]) => unknown;

/** Puts something around one method of a class. */
export function around<T extends object, K extends keyof T>(
  prototype: T,
  name: K,
  step: T[K] extends Method
    ? (self: T, original: T[K], ...args: Parameters<T[K]>) => ReturnType<T[K]>
    : never,
): () => void {
  const before = Object.getOwnPropertyDescriptor(prototype, name)!;
  const original = before.value as Method;
  const run = step as unknown as (self: T, original: Method, ...args: never[]) => unknown;
  Object.defineProperty(prototype, name, {
    ...before,
    value(this: T, ...args: never[]): unknown {
      return run(this, original.bind(this), ...args);
    },
  });
  return () => {
    Object.defineProperty(prototype, name, before);
  };
}

export function both(first: () => void, second: () => void): () => void {
  return () => {
    second();
    first();
  };
}

/** Replaces one getter of a class. */
export function gets<T extends object>(prototype: T, name: keyof T, get: (this: T) => unknown): () => void {
  const before = Object.getOwnPropertyDescriptor(prototype, name)!;
  Object.defineProperty(prototype, name, { get, configurable: true });
  return () => {
    Object.defineProperty(prototype, name, before);
  };
}

/** Runs with one method of a class doing nothing. */
export function without<T extends object, R>(prototype: T, name: keyof T, run: () => R): R {
  const undo = around(prototype, name, (() => undefined) as never);
  try {
    return run();
  } finally {
    undo();
  }
}
