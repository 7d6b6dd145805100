import { describe, expect, it } from 'vitest';
import { BlockError } from '../../../src/base/errors.ts';
import { type Deferred, deferred } from '../../../src/base/lifecycle.ts';
import { GroupFlush } from '../../../src/blockdev/group-flush.ts';
import { isPending, settled } from '../../support/held-device.ts';

function flusher() {
  const syncs: Array<Deferred<void>> = [];
  const failures: unknown[] = [];
  const group = new GroupFlush(
    () => {
      const sync = deferred<void>();
      syncs.push(sync);
      return sync.promise;
    },
    (error) => failures.push(error),
  );
  return { syncs, failures, group };
}

describe('GroupFlush', () => {
  it('syncs once at first, and then only when something changed', async () => {
    const { syncs, group } = flusher();
    const first = group.flush();
    syncs[0]!.resolve();
    await first;
    expect(group.flush()).toBeUndefined();
    group.markChanged();
    expect(group.flush()).toBeInstanceOf(Promise);
    expect(syncs).toHaveLength(2);
  });

  it('shares a running sync with those who have nothing newer to cover', async () => {
    const { syncs, group } = flusher();
    const first = group.flush();
    const second = group.flush();
    expect(syncs).toHaveLength(1);
    syncs[0]!.resolve();
    await Promise.all([first, second]);
  });

  it('never takes a sync that began before a change for one that covers it', async () => {
    const { syncs, group } = flusher();
    const first = group.flush();
    group.markChanged();
    const second = group.flush();
    const third = group.flush();
    syncs[0]!.resolve();
    await first;
    await settled();
    expect(await isPending(second)).toBe(true);
    expect(await isPending(third)).toBe(true);
    expect(syncs).toHaveLength(2);
    // A change during the second sync is not covered by it either.
    group.markChanged();
    syncs[1]!.resolve();
    await Promise.all([second, third]);
    expect(group.flush()).toBeInstanceOf(Promise);
    expect(syncs).toHaveLength(3);
  });

  it('takes many flushes that arrive during a sync together, with the changes up to its start', async () => {
    const { syncs, group } = flusher();
    const pending = [group.flush()];
    for (let i = 0; i < 20; i += 1) {
      group.markChanged();
      pending.push(group.flush());
    }
    syncs[0]!.resolve();
    await settled();
    syncs[1]!.resolve();
    await Promise.all(pending.map(async (flush) => flush));
    expect(syncs).toHaveLength(2);
    expect(group.flush()).toBeUndefined();
  });

  it('fails for ever after the first failure, and says so once', async () => {
    const { syncs, failures, group } = flusher();
    const first = group.flush();
    group.markChanged();
    const second = group.flush();
    const outcomes = Promise.allSettled([first, second]);
    syncs[0]!.reject(new Error('EIO: i/o error, fdatasync'));
    for (const outcome of await outcomes) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: expect.any(BlockError) });
    }
    expect(() => group.flush()).toThrow('what was written is lost');
    group.markChanged();
    expect(() => group.flush()).toThrow(BlockError);
    expect(syncs).toHaveLength(1);
    expect(failures).toHaveLength(1);
  });
});
