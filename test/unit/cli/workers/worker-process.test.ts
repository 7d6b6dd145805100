// One worker's life as the process that clients talk to sees it, with a child that does what the test says.
import { EventEmitter } from 'node:events';
import { afterEach, expect, it, vi } from 'vitest';
import { OperationError } from '../../../../src/base/errors.ts';
import type { ExportFacts, FromWorker, ToWorker } from '../../../../src/cli/run/workers/messages.ts';
import { tellError } from '../../../../src/cli/run/workers/messages.ts';
import { type WorkerChild, WorkerProcess } from '../../../../src/cli/run/workers/worker-process.ts';
import type { NegotiatedClient } from '../../../../src/nbd/hand-over.ts';
import { captureLog } from '../../../support/capture-log.ts';

class FakeChild extends EventEmitter {
  readonly sent: ToWorker[] = [];
  readonly pid: number;
  /** Calls back for what was sent, when the test lets it. */
  readonly onSent: Array<() => void> = [];

  constructor(pid: number) {
    super();
    this.pid = pid;
  }

  send(message: ToWorker, _handle: unknown, _options: unknown, done: () => void): boolean {
    this.sent.push(message);
    this.onSent.push(done);
    return true;
  }

  says(message: FromWorker): void {
    this.emit('message', message);
  }

  exits(code: number | null, signal: NodeJS.Signals | null = null): void {
    this.emit('exit', code, signal);
  }

  last(): ToWorker | undefined {
    return this.sent.at(-1);
  }
}

class FakeHandle {
  closes = 0;
  readStop(): number {
    return 0;
  }
  close(): void {
    this.closes += 1;
  }
}

const FACTS: ExportFacts[] = [
  { name: 'a', sizeBytes: 512, limits: {} as ExportFacts['limits'], contexts: [] },
];
const CLIENT = { exportName: 'a' } as NegotiatedClient;
const RESTART = { firstMs: 100, longestMs: 300, steadyMs: 1000 };

afterEach(() => void vi.useRealTimers());

function build() {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  const children: FakeChild[] = [];
  const log = captureLog();
  const worker = new WorkerProcess({
    order: { number: 1, options: {}, volumes: ['a', 'b'], places: undefined },
    launch: () => {
      children.push(new FakeChild(100 + children.length));
      return children.at(-1)! as unknown as WorkerChild;
    },
    onFacts: () => {},
    onResized: () => {},
    logger: log.logger,
    restart: RESTART,
  });
  return { worker, children, child: () => children.at(-1)!, log };
}

async function started() {
  const made = build();
  const start = made.worker.start();
  made.child().says({ kind: 'ready', exports: FACTS });
  await start;
  return made;
}

it('is absent until it is ready', async () => {
  const { worker, child } = build();
  const start = worker.start();
  expect(worker.absence).toContain('being started');
  await expect(worker.ask({ what: 'status' })).rejects.toThrow(OperationError);
  expect(child().sent).toHaveLength(1);
  child().says({ kind: 'ready', exports: FACTS });
  await start;
  expect(worker.absence).toBeUndefined();
  expect(worker.status).toEqual({
    pid: 100,
    state: 'running',
    volumes: ['a', 'b'],
    restarts: 0,
    lastError: null,
  });
});

it('fails its start with its own error, or with what became of it, and is not tried again', async () => {
  for (const told of [true, false]) {
    const { worker, child, children } = build();
    const start = worker.start();
    const error = new OperationError('no image', { hint: 'make one' });
    if (told) child().says({ kind: 'failed', error: tellError(error) });
    child().exits(1);
    await expect(start).rejects.toThrow(told ? 'no image' : 'ended with status 1');
    vi.advanceTimersByTime(10_000);
    expect(children).toHaveLength(1);
    await worker.close();
  }
});

it('closes our copy of a handle once it is on its way, and tells when a client is gone', async () => {
  const { worker, child } = await started();
  const [handle, gone] = [new FakeHandle(), vi.fn()];
  worker.take(CLIENT, handle, gone);
  expect(child().last()).toMatchObject({ kind: 'client', id: 1, client: CLIENT });
  expect(handle.closes).toBe(0);
  child().onSent.at(-1)!();
  expect([handle.closes, gone.mock.calls.length]).toEqual([1, 0]);
  child().says({ kind: 'gone', id: 1 });
  child().says({ kind: 'gone', id: 1 });
  expect(gone).toHaveBeenCalledTimes(1);
});

it('ends all that it had when it dies: clients, handles on their way, calls', async () => {
  const { worker, child, log } = await started();
  const [sent, unsent] = [new FakeHandle(), new FakeHandle()];
  const gone = [vi.fn(), vi.fn(), vi.fn()];
  worker.take(CLIENT, sent, gone[0]!);
  child().onSent.at(-1)!();
  worker.take(CLIENT, unsent, gone[1]!);
  const call = worker.ask({ what: 'stats' });
  child().exits(null, 'SIGKILL');
  await expect(call).rejects.toThrow('the worker of a, b is not there: it was ended by SIGKILL');
  expect([sent.closes, unsent.closes]).toEqual([1, 1]);
  // What Node calls back later closes nothing twice.
  for (const done of child().onSent) done();
  expect([sent.closes, unsent.closes]).toEqual([1, 1]);
  expect(worker.status).toMatchObject({
    pid: null,
    state: 'restarting',
    lastError: 'the worker was ended by SIGKILL',
  });
  expect(worker.absence).toContain('was ended by SIGKILL; it is being started again');
  const late = new FakeHandle();
  worker.take(CLIENT, late, gone[2]!);
  expect(late.closes).toBe(1);
  for (const one of gone) expect(one).toHaveBeenCalledTimes(1);
  expect(log.lines().filter(({ level }) => level >= 50)).toHaveLength(1);
});

it('is started again later and later, and soon again after it was steady', async () => {
  const { worker, children, child } = await started();
  child().exits(1);
  for (const delayMs of [100, 200, 300, 300]) {
    const before = children.length;
    vi.advanceTimersByTime(delayMs - 1);
    expect(children).toHaveLength(before);
    vi.advanceTimersByTime(1);
    expect(children).toHaveLength(before + 1);
    child().says({ kind: 'failed', error: tellError(new Error('the image is locked')) });
    child().exits(1);
    expect(worker.absence).toContain('the image is locked');
  }
  vi.advanceTimersByTime(300);
  child().says({ kind: 'ready', exports: FACTS });
  expect(worker.absence).toBeUndefined();
  expect(worker.status.restarts).toBe(5);
  vi.advanceTimersByTime(RESTART.steadyMs);
  child().exits(null, 'SIGSEGV');
  const before = children.length;
  vi.advanceTimersByTime(100);
  expect(children).toHaveLength(before + 1);
});

it('closes in order, and says so when that went wrong', async () => {
  for (const code of [0, 1]) {
    const { worker, child } = await started();
    const close = worker.close();
    expect(child().last()).toEqual({ kind: 'close' });
    expect(worker.absence).toContain('shutting down');
    const look = worker.look('status');
    child().says({ kind: 'answer', id: 1, value: 'closing' });
    expect(await look).toBe('closing');
    child().exits(code);
    if (code === 0) await close;
    else await expect(close).rejects.toThrow('status 1');
  }
});

it('waits for the end of the one that was started last', async () => {
  const { worker, child } = await started();
  child().exits(null, 'SIGKILL');
  vi.advanceTimersByTime(100);
  child().says({ kind: 'ready', exports: FACTS });
  let isClosed = false;
  const close = worker.close().then(() => {
    isClosed = true;
  });
  await Promise.resolve();
  await Promise.resolve();
  expect(isClosed).toBe(false);
  child().exits(0);
  await close;
});

it('gives clients up that got lost on their way, once one that was sent later has arrived', async () => {
  const { worker, child, log } = await started();
  const gone = [vi.fn(), vi.fn(), vi.fn()];
  for (const one of gone) worker.take(CLIENT, new FakeHandle(), one);
  child().says({ kind: 'taken', id: 1 });
  expect(gone.map((one) => one.mock.calls.length)).toEqual([0, 0, 0]);
  child().says({ kind: 'taken', id: 3 });
  expect(gone.map((one) => one.mock.calls.length)).toEqual([0, 1, 0]);
  child().says({ kind: 'gone', id: 1 });
  child().exits(0);
  expect(gone.map((one) => one.mock.calls.length)).toEqual([1, 1, 1]);
  expect(log.lines().filter(({ msg }) => msg.includes('got lost'))).toHaveLength(1);
});

it('says of what it ended, where it could', async () => {
  const { worker, child } = await started();
  child().says({ kind: 'failed', error: tellError(new Error('a bug')) });
  child().exits(1);
  expect(worker.status.lastError).toBe('a bug');
});

it('has one look at it under way, however many want one, since it may hang', async () => {
  const { worker, child } = await started();
  const looks = [worker.look('status'), worker.look('status'), worker.look('status')];
  expect(child().sent.filter(({ kind }) => kind === 'call')).toHaveLength(1);
  child().says({ kind: 'answer', id: 1, value: 'well' });
  expect(await Promise.all(looks)).toEqual(['well', 'well', 'well']);
  const last = worker.look('status');
  child().exits(1);
  await expect(last).rejects.toThrow('ended with status 1');
});

it('is not started again once it was told to close', async () => {
  const { worker, child, children } = await started();
  child().exits(1);
  await worker.close();
  vi.advanceTimersByTime(10_000);
  expect(children).toHaveLength(1);
});
