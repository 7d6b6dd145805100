import fc from 'fast-check';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { TokenBucket } from '../../../src/base/token-bucket.ts';
import { filterChain, filtered } from '../../support/filter-chain.ts';
import { RecorderDevice, SparseDevice } from '../../support/test-devices.ts';

let spy: RecorderDevice;
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  spy = new RecorderDevice(new SparseDevice(2 ** 30));
});
afterEach(() => {
  vi.useRealTimers();
});

const K = 1024;

it('lets bursts pass at once, and what lasts at the rate', async () => {
  const disk = await filtered(spy, 'rate,bytes=10K,burst=2s');
  const answers = Array.from({ length: 51 }, (_, i) => disk.write(i * K, Buffer.alloc(K), false));
  // 20 saved up, and one that goes into debt.
  expect(spy.calls).toHaveLength(21);
  await vi.advanceTimersByTimeAsync(1000);
  expect(spy.calls.length).toBeGreaterThanOrEqual(30);
  expect(spy.calls.length).toBeLessThanOrEqual(31);
  await vi.advanceTimersByTimeAsync(2100);
  await Promise.all(answers);
  expect(spy.calls.map(({ offset }) => offset)).toEqual(answers.map((_, i) => i * K));
});

it('lets a request through that is larger than the bucket, and makes those after it wait', async () => {
  const disk = await filtered(spy, 'rate,write-bytes=1M,burst=10ms');
  expect(disk.write(0, Buffer.alloc(4 * K * K), false)).toBeUndefined();
  const next = disk.write(0, Buffer.alloc(1), false);
  await vi.advanceTimersByTimeAsync(3980);
  expect(spy.calls).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(20);
  await next;
});

it('holds reads and changes apart, or together', async () => {
  const apart = await filtered(spy, 'rate,write-requests=1,burst=0ms');
  expect(apart.write(0, Buffer.alloc(512), false)).toBeUndefined();
  const trim = apart.trim(0, 512, false);
  const zero = apart.writeZeroes(512, 512, false, true);
  for (let i = 0; i < 100; i += 1) expect(apart.read(0, Buffer.alloc(512))).toBeUndefined();
  expect([apart.flush(), apart.cache(0, 512)]).toEqual([undefined, undefined]);
  await vi.advanceTimersByTimeAsync(2000);
  await Promise.all([trim, zero]);
  spy.take();
  const together = await filtered(spy, 'rate,requests=1,burst=0ms');
  const answers = [
    together.read(0, Buffer.alloc(512)),
    together.write(0, Buffer.alloc(512), false),
    together.read(512, Buffer.alloc(512)),
    together.write(512, Buffer.alloc(512), false),
  ];
  expect(spy.calls).toHaveLength(1);
  await vi.advanceTimersByTimeAsync(3000);
  await Promise.all(answers);
  expect(spy.lines()).toEqual(['read 0+512', 'write 0+512', 'read 512+512', 'write 512+512']);
});

it('is adjusted while calls wait', async () => {
  const { chain, context } = await filterChain(spy, ['rate,read-bytes=1,burst=0ms']);
  const answers = [0, 1, 2].map(() => chain.read(0, Buffer.alloc(K)));
  expect(context.status().rate).toMatchObject({ 'read-bytes': 1, waitingReads: 2, delayed: 2 });
  await context.adjust('rate', new Map([['read-bytes', ['1K']]]));
  await vi.advanceTimersByTimeAsync(1000);
  expect(spy.calls).toHaveLength(2);
  await context.adjust('rate', new Map([['read-bytes', ['0']]]));
  await Promise.all(answers);
  expect(chain.read(0, Buffer.alloc(K))).toBeUndefined();
  await expect(context.adjust('rate', new Map([['read-byte', ['0']]]))).rejects.toThrow(
    'did you mean read-bytes?',
  );
});

it('never lets more through than the rate and the burst allow, for any arrivals', () => {
  const step = fc.record({ afterMs: fc.nat(500), amount: fc.integer({ min: 1, max: 5000 }) });
  const property = fc.property(
    fc.integer({ min: 1, max: 10_000 }),
    fc.nat(3000),
    fc.array(step, { minLength: 1, maxLength: 100 }),
    (perSecond, burstMs, steps) => {
      const bucket = new TokenBucket(perSecond, burstMs, 0);
      let nowMs = 0;
      let taken = 0;
      for (const { afterMs, amount } of steps) {
        nowMs += afterMs;
        const waitMs = bucket.waitMs(nowMs);
        expect(waitMs).toBeGreaterThanOrEqual(0);
        nowMs += waitMs;
        expect(bucket.waitMs(nowMs)).toBeLessThan(0.001);
        // Before this one: never more than was allowed in the time.
        expect(taken).toBeLessThanOrEqual((perSecond * (nowMs + burstMs)) / 1000 + 0.001);
        bucket.take(amount);
        taken += amount;
      }
    },
  );
  fc.assert(property);
});
