// What is decided about workers before one is started, and how their answers become one.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { OperationError, UsageError } from '../../../../src/base/errors.ts';
import { MiB } from '../../../../src/base/limits.ts';
import { resolveServe } from '../../../../src/cli/commands/serve.ts';
import { placeVolumes } from '../../../../src/cli/parse-workers.ts';
import { unprotectedVolume } from '../../../../src/cli/run/replication.ts';
import { addFigures, mergeStatus } from '../../../../src/cli/run/workers/merge-status.ts';
import { type RawServe, tellError, toldError } from '../../../../src/cli/run/workers/messages.ts';
import { PendingCalls } from '../../../../src/cli/run/workers/pending-calls.ts';
import { workerConfig } from '../../../../src/cli/run/workers/worker-config.ts';
import type { LinkStatus } from '../../../../src/control/status.ts';

const NAMES = ['a', 'b', 'c', 'd'];
const resolve = (more: Partial<RawServe> = {}) =>
  resolveServe({ image: NAMES.map((name) => `${name}=/tmp/${name}.img`), ...more });

describe('volumes', () => {
  it('go to the workers in turn, unless one is chosen', () => {
    expect(resolve({ workers: '2' }).placement).toEqual([
      ['a', 'c'],
      ['b', 'd'],
    ]);
    expect(resolve({ workers: '2', export: ['a,worker=2', 'b,worker=2'] }).placement).toEqual([
      ['c', 'd'],
      ['a', 'b'],
    ]);
    expect(resolve().placement).toEqual([NAMES]);
  });

  it.each<[Partial<RawServe>, RegExp]>([
    [{ workers: '5' }, /there are only 4 images/],
    [{ workers: '0' }, /--workers/],
    [{ workers: '65' }, /--workers/],
    [{ workers: '2', export: ['a,worker=3'] }, /there is no worker 3; --workers is 2/],
    [{ export: ['a,worker=2'] }, /there is no worker 2; --workers is 1/],
    [{ workers: '2', export: NAMES.map((name) => `${name},worker=1`) }, /worker 2 has no volume/],
    [{ workers: '2', stdio: true }, /--stdio/],
  ])('are refused with %j', (more, message) => {
    expect(() => resolve(more)).toThrow(UsageError);
    expect(() => resolve(more)).toThrow(message);
  });

  it('are each at one worker, evenly', () => {
    const names = fc.uniqueArray(fc.string(), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(names, fc.nat(), (all, n) => {
        const workers = 1 + (n % all.length);
        const placed = placeVolumes(all, new Map(), workers);
        expect(placed.flat().sort()).toEqual([...all].sort());
        const sizes = placed.map((some) => some.length);
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
      }),
    );
  });
});

describe('a worker', () => {
  const hub = { hub: ['127.0.0.1'], workers: '2', export: ['a,worker=1', 'b,worker=1', 'c,worker=1'] };

  it('has its part of every limit of the whole, by its volumes', () => {
    const config = resolve({
      ...hub,
      'queue-bytes': '64M',
      'hub-bandwidth': 'mon 8M, else unlimited',
      'resync-rate': '4M',
    });
    const [big, small] = config.placement.map((volumes) => workerConfig(config, volumes));
    expect(big!.images.map(({ name }) => name)).toEqual(['a', 'b', 'c']);
    expect([big!.queueBytes, small!.queueBytes]).toEqual([48 * MiB, 16 * MiB]);
    expect([big!.resyncRate, small!.resyncRate]).toEqual([3 * MiB, MiB]);
    expect(small!.bandwidth!.rules[0]!.limit).toBe(2 * MiB);
    expect(small!.bandwidth!.otherwise).toBeNull();
    expect(small!.stateDir).toBe(config.stateDir);
    expect(workerConfig(resolve(hub), ['d']).resyncRate).toBe('auto');
  });

  it.each([
    ['--hub-bandwidth', { 'hub-bandwidth': '128K' }],
    ['--resync-rate', { 'resync-rate': '512K' }],
    ['--queue-bytes', { 'queue-bytes': '1024' }],
  ])('is refused a part of %s that is too small', (option, more) => {
    const config = resolve({ ...hub, ...more });
    expect(() => workerConfig(config, ['d'])).toThrow(`${option}: a worker's part of it`);
    expect(() => workerConfig(config, ['d'])).toThrow(UsageError);
  });
});

describe('one status', () => {
  const link = (over: Partial<LinkStatus>): LinkStatus => ({
    name: 'near',
    hub: '127.0.0.1:9010',
    state: 'live',
    lastError: null,
    firstError: null,
    traffic: { sentBytes: 10, plainBytes: 20, bytesPerSecond: 1, limitBytesPerSecond: null },
    compression: null,
    ...over,
  });
  const volume = (name: string) => unprotectedVolume(name, 'vm', MiB);
  const reads = { rate: 'auto', readBytes: 5, bytesPerSecond: null, yielding: false } as const;

  it('has volumes in order, and each hub once, as well as its worst link', () => {
    const error = { text: 'late', at: '2030-01-01T00:00:02Z' };
    const first = { text: 'early', at: '2030-01-01T00:00:01Z' };
    const parts = [
      { link: null, links: [link({ firstError: error })], resyncReads: reads, volumes: [volume('b')] },
      {
        link: null,
        links: [link({ state: 'degraded', lastError: 'gone', firstError: first })],
        resyncReads: { ...reads, yielding: true },
        volumes: [volume('c')],
      },
    ];
    const lost = { ...volume('a'), state: 'failed' as const, lastError: 'its worker ended' };
    const merged = mergeStatus(parts, [lost], ['a', 'b', 'c']);
    expect(merged.volumes.map(({ name, state }) => [name, state])).toEqual([
      ['a', 'failed'],
      ['b', 'unprotected'],
      ['c', 'unprotected'],
    ]);
    expect(merged.links).toEqual([
      link({
        state: 'degraded',
        lastError: 'gone',
        firstError: first,
        traffic: { sentBytes: 20, plainBytes: 40, bytesPerSecond: 2, limitBytesPerSecond: null },
      }),
    ]);
    expect(merged.link).toEqual(merged.links![0]);
    expect(merged.resyncReads).toEqual({ rate: 'auto', readBytes: 10, bytesPerSecond: null, yielding: true });
  });

  it('is one without links where nothing is replicated', () => {
    expect(mergeStatus([{ link: null, volumes: [volume('a')] }], [], ['a'])).toEqual({
      link: null,
      volumes: [volume('a')],
    });
  });

  it('adds counters up, at any depth', () => {
    const sum = addFigures(
      { filters: { a: { n: 1 } }, agent: { n: 1, s: 'x' } },
      { filters: { b: {} }, agent: { n: 2, s: 'y' } },
    );
    expect(sum).toEqual({ filters: { a: { n: 1 }, b: {} }, agent: { n: 3, s: 'x' } });
  });
});

describe('calls', () => {
  it('cross with their errors, as what they are', () => {
    const usage = toldError(structuredClone(tellError(new UsageError('bad'))));
    expect(usage).toBeInstanceOf(UsageError);
    const operation = toldError(structuredClone(tellError(new OperationError('no', { hint: 'do' }))));
    expect([operation instanceof OperationError, (operation as OperationError).hint]).toEqual([true, 'do']);
    expect(toldError(tellError('text')).message).toBe('text');
  });

  it('are answered once each, and none is left when nobody answers any more', async () => {
    const calls = new PendingCalls();
    const ids: number[] = [];
    const seen: number[] = [];
    const ask = () =>
      calls.ask(
        (id) => ids.push(id),
        ({ comparedBytes }) => seen.push(comparedBytes),
      );
    const [one, two, three] = [ask(), ask(), ask()];
    calls.take({ kind: 'progress', id: ids[0]!, progress: { comparedBytes: 4, totalBytes: 8 } });
    calls.take({ kind: 'answer', id: ids[1]!, value: 'two' });
    calls.take({ kind: 'error', id: ids[0]!, error: tellError(new OperationError('broken')) });
    await expect(one).rejects.toThrow('broken');
    await expect(two).resolves.toBe('two');
    calls.failAll(new Error('it ended'));
    await expect(three).rejects.toThrow('it ended');
    calls.take({ kind: 'answer', id: ids[2]!, value: 'late' });
    expect(seen).toEqual([4]);
  });
});
