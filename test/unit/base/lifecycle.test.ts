import { describe, expect, test } from 'vitest';
import { deferred, Stopper, within } from '../../../src/base/lifecycle.ts';

describe('Stopper', () => {
  test('stops in reverse order, one after the other, once', async () => {
    const stopper = new Stopper();
    const seen: string[] = [];
    const gate = deferred<void>();
    stopper.add('first', () => void seen.push('first'));
    stopper.add('second', async () => {
      await gate.promise;
      seen.push('second');
    });
    const closing = stopper.close();
    expect(stopper.close()).toBe(closing);
    expect(seen).toEqual([]);
    gate.resolve();
    await closing;
    expect(seen).toEqual(['second', 'first']);
    await stopper.close();
    expect(seen).toHaveLength(2);
  });

  test('a failing stop keeps no other from stopping, and is named', async () => {
    const stopper = new Stopper();
    const seen: string[] = [];
    stopper.add('a', () => void seen.push('a'));
    stopper.add('b', () => {
      throw new Error('no');
    });
    await expect(stopper.close()).rejects.toThrow('stopping b failed');
    expect(seen).toEqual(['a']);
  });
});

describe('within', () => {
  test('gives the value, passes the error on, or gives up', async () => {
    expect(await within(Promise.resolve(1), 1000)).toBe(1);
    await expect(within(Promise.reject(new Error('x')), 1000)).rejects.toThrow('x');
    expect(await within(new Promise(() => {}), 5)).toBeUndefined();
  });
});
