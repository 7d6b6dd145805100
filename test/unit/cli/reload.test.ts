// SIGHUP: what is read again, in which order, and what happens when it can't be read.
import { afterEach, expect, it } from 'vitest';
import { OperationError } from '../../../src/base/errors.ts';
import { type Deferred, deferred } from '../../../src/base/lifecycle.ts';
import { ReloadWatch } from '../../../src/cli/run/reload.ts';
import { captureLog } from '../../support/capture-log.ts';
import { waitUntil } from '../../support/wait-until.ts';

const watches: ReloadWatch[] = [];
afterEach(async () => {
  for (const watch of watches.splice(0)) await watch.close();
});

function start(): { watch: ReloadWatch; log: ReturnType<typeof captureLog>; seen: () => string[] } {
  const log = captureLog();
  const watch = new ReloadWatch(log.logger);
  watches.push(watch);
  return { watch, log, seen: () => log.lines().map((line) => `${line.what}: ${line.msg}`) };
}

// As the system would, but without a signal that could reach the test runner.
const hangUp = (): boolean => process.emit('SIGHUP', 'SIGHUP');

it('runs every part in order, and none inside the signal', async () => {
  const { watch, seen } = start();
  const order: string[] = [];
  watch.add('first', async () => {
    await null;
    order.push('first');
  });
  watch.add('second', () => void order.push('second'));
  hangUp();
  expect(order).toEqual([]);
  await waitUntil(() => seen().length === 2);
  expect(order).toEqual(['first', 'second']);
  expect(seen()).toEqual(['first: reloaded', 'second: reloaded']);
  hangUp();
  await waitUntil(() => order.length === 4);
});

it('logs what fails, with what to do, and runs the others', async () => {
  const { watch, log, seen } = start();
  watch.add('keys', () => {
    throw new OperationError('no key', { hint: 'make one' });
  });
  watch.add('rest', () => {});
  hangUp();
  await waitUntil(() => seen().length === 2);
  expect(seen()).toEqual(['keys: reload failed; what was in force stays so', 'rest: reloaded']);
  expect(log.lines()[0]).toMatchObject({ level: 50, err: 'no key', hint: 'make one' });
});

it('runs once more for any number of signals that come during a run', async () => {
  const { watch } = start();
  const gates: Deferred<void>[] = [];
  watch.add('slow', () => {
    gates.push(deferred<void>());
    return gates.at(-1)!.promise;
  });
  hangUp();
  await waitUntil(() => gates.length === 1);
  for (let i = 0; i < 5; i += 1) hangUp();
  gates[0]!.resolve();
  await waitUntil(() => gates.length === 2);
  gates[1]!.resolve();
  await watch.close();
  expect(gates.length).toBe(2);
});

it('waits for the run under way when it closes, and hears no signal then', async () => {
  const before = process.listenerCount('SIGHUP');
  const { watch } = start();
  expect(process.listenerCount('SIGHUP')).toBe(before + 1);
  const gate = deferred<void>();
  let runs = 0;
  watch.add('slow', () => {
    runs += 1;
    return gate.promise;
  });
  hangUp();
  await waitUntil(() => runs === 1);
  hangUp();
  let closed = false;
  const closing = watch.close().then(() => {
    closed = true;
  });
  await new Promise((resolve) => setImmediate(resolve));
  expect(closed).toBe(false);
  gate.resolve();
  await closing;
  expect(process.listenerCount('SIGHUP')).toBe(before);
  expect(runs).toBe(1);
});

it('does nothing at a signal when there is nothing to read', async () => {
  const { watch, log } = start();
  hangUp();
  await watch.close();
  watch.add('late', () => {});
  expect(log.lines()).toEqual([]);
});

it('can start again after a signal that found nothing to do', async () => {
  const { watch, seen } = start();
  hangUp();
  await new Promise((resolve) => setImmediate(resolve));
  watch.add('part', () => {});
  hangUp();
  await waitUntil(() => seen().length === 1);
});
