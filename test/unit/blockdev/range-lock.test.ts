import { describe, expect, it } from 'vitest';
import { type Deferred, deferred } from '../../../src/base/lifecycle.ts';
import { RangeLock } from '../../../src/blockdev/range-lock.ts';

/** Operations that note when they begin and end when told. */
class Script {
  readonly lock = new RangeLock();
  readonly begun: string[] = [];
  readonly #ends = new Map<string, Deferred<string>>();

  run(name: string, offset: number, length: number): Promise<string> | string {
    return this.lock.run(offset, length, () => {
      this.begun.push(name);
      const end = deferred<string>();
      this.#ends.set(name, end);
      return end.promise;
    });
  }

  async end(name: string, error?: Error): Promise<void> {
    const end = this.#ends.get(name)!;
    if (error) end.reject(error);
    else end.resolve(name);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe('RangeLock', () => {
  it('runs a synchronous operation at once and keeps nothing of it', () => {
    const lock = new RangeLock();
    expect(lock.run(0, 10, () => 'answer')).toBe('answer');
    expect(lock.size).toBe(0);
    expect(() =>
      lock.run(0, 10, () => {
        throw new Error('refused');
      }),
    ).toThrow('refused');
    expect(lock.size).toBe(0);
  });

  it('lets operations that only touch run together', () => {
    const script = new Script();
    void script.run('a', 0, 10);
    void script.run('b', 10, 10);
    void script.run('c', 30, 5);
    expect(script.begun).toEqual(['a', 'b', 'c']);
    expect(script.lock.overlaps(20, 10)).toBe(false);
    expect(script.lock.overlaps(19, 1)).toBe(true);
    expect(script.lock.overlaps(29, 2)).toBe(true);
  });

  it('makes overlapping operations wait for each other in order of arrival', async () => {
    const script = new Script();
    void script.run('a', 0, 10);
    void script.run('b', 5, 10);
    void script.run('c', 14, 10);
    void script.run('d', 0, 3);
    expect(script.begun).toEqual(['a']);
    await script.end('a');
    expect(script.begun).toEqual(['a', 'b', 'd']);
    await script.end('b');
    expect(script.begun).toEqual(['a', 'b', 'd', 'c']);
    await script.end('c');
    await script.end('d');
    expect(script.lock.size).toBe(0);
  });

  it('goes on after an operation that failed, and gives each its own outcome', async () => {
    const script = new Script();
    const a = script.run('a', 0, 10) as Promise<string>;
    const b = script.run('b', 0, 10) as Promise<string>;
    a.catch(() => {});
    await script.end('a', new Error('disk on fire'));
    await expect(a).rejects.toThrow('disk on fire');
    expect(script.begun).toEqual(['a', 'b']);
    await script.end('b');
    await expect(b).resolves.toBe('b');
  });

  it('drains what is in flight and what waits', async () => {
    const script = new Script();
    void script.run('a', 0, 10);
    void script.run('b', 0, 10);
    let drained = false;
    const drain = script.lock.drain().then(() => {
      drained = true;
    });
    await script.end('a');
    expect(drained).toBe(false);
    await script.end('b');
    await drain;
    expect(drained).toBe(true);
  });

  it('tracks an operation that the caller began itself', async () => {
    const lock = new RangeLock();
    const end = deferred<void>();
    expect(lock.track(0, 4, 'now')).toBe('now');
    expect(lock.size).toBe(0);
    expect(lock.track(0, 4, end.promise)).toBe(end.promise);
    expect(lock.overlaps(3, 1)).toBe(true);
    end.resolve();
    await lock.drain();
    expect(lock.size).toBe(0);
  });
});
