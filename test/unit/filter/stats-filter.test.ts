import { expect, it } from 'vitest';
import { captureLog } from '../../support/capture-log.ts';
import { filterChain } from '../../support/filter-chain.ts';
import { FaultDevice, HeldDevice, PatternDevice, patternBytes } from '../../support/test-devices.ts';

const SIZE = 65_536;

it('counts calls, bytes and errors by operation, as the chain’s status', async () => {
  const fault = new FaultDevice(new PatternDevice(SIZE));
  const { chain, context } = await filterChain(fault, ['stats']);
  expect(context.status()).toEqual({ stats: {} });
  const target = Buffer.alloc(512);
  await chain.read(1024, target);
  expect(target).toEqual(patternBytes(1024, 512));
  await chain.read(0, Buffer.alloc(100));
  await chain.write(0, Buffer.alloc(4096), true);
  await chain.flush();
  fault.fail({ times: 1 });
  expect(() => chain.trim(0, 4096, false)).toThrow('injected');
  fault.fail({ times: 1, rejects: true });
  await expect(chain.trim(0, 512, false)).rejects.toThrow('injected');
  await chain.trim(0, 1024, false);
  expect(context.status().stats).toMatchObject({
    read: { calls: 2, bytes: 612, errors: 0 },
    write: { calls: 1, bytes: 4096, errors: 0 },
    flush: { calls: 1, bytes: 0, errors: 0 },
    trim: { calls: 3, bytes: 1024, errors: 2 },
  });
  expect(Object.keys(context.status().stats!)).toEqual(['read', 'write', 'flush', 'trim']);
});

it('measures until the answer, not until the call returns', async () => {
  const held = new HeldDevice(new PatternDevice(SIZE));
  const { chain, context } = await filterChain(held, ['stats']);
  const answer = chain.flush();
  expect(context.status()).toEqual({ stats: {} });
  await new Promise((resolve) => setTimeout(resolve, 20));
  await held.releaseAll();
  await answer;
  const { flush } = context.status().stats as { flush: Record<string, number> };
  expect(flush).toMatchObject({ calls: 1 });
  for (const figure of ['meanUs', 'p50Us', 'p99Us', 'maxUs']) expect(flush[figure]).toBeGreaterThan(15_000);
  expect(flush.latencyUs).toEqual([{ lessThanUs: expect.any(Number), count: 1 }]);
});

it('does not count what the guard refused: it never came in', async () => {
  const { chain, context } = await filterChain(new PatternDevice(SIZE), ['stats']);
  expect(() => chain.read(SIZE, Buffer.alloc(1))).toThrow();
  await chain.read(0, Buffer.alloc(0));
  expect(context.status()).toEqual({ stats: {} });
});

it('logs its figures when it is closed, once', async () => {
  const log = captureLog();
  const { chain } = await filterChain(new PatternDevice(SIZE), ['stats'], log.logger);
  await chain.read(0, Buffer.alloc(4096));
  await chain.read(0, Buffer.alloc(4096));
  await chain.flush();
  await chain.close();
  await chain.close();
  expect(log.lines().map(({ msg }) => msg)).toEqual([
    expect.stringMatching(/^read: 2 calls, 8 KiB, 0 errors, mean [\d.]+us, p99 [\d.]+us, max [\d.]+us$/),
    expect.stringMatching(/^flush: 1 calls, 0 B, 0 errors, /),
  ]);
  expect(log.lines()[0]).toMatchObject({ filter: 'stats', operation: 'read', calls: 2, bytes: 8192 });
});

it('logs them even when the disk can’t be closed, and nothing when quiet', async () => {
  const log = captureLog();
  const disk = new PatternDevice(SIZE);
  disk.close = () => Promise.reject(new Error('stuck'));
  const loud = await filterChain(disk, ['stats'], log.logger);
  await loud.chain.flush();
  await expect(loud.chain.close()).rejects.toThrow('stuck');
  expect(log.lines().some(({ msg }) => msg.startsWith('flush: 1 calls'))).toBe(true);
  const silent = captureLog();
  const quiet = await filterChain(new PatternDevice(SIZE), ['stats,quiet'], silent.logger);
  await quiet.chain.flush();
  await quiet.chain.close();
  expect(silent.lines()).toEqual([]);
  expect(quiet.context.status().stats).toMatchObject({ flush: { calls: 1 } });
});
