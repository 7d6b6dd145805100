// Signals, socket activation, the listening line, and the life of a service.
import { describe, expect, it, vi } from 'vitest';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { deferred } from '../../../src/base/lifecycle.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { exportList, listenError, nbdUrl } from '../../../src/cli/run/listening.ts';
import { type Running, runService, type Startup } from '../../../src/cli/run/service.ts';
import { watchSignals } from '../../../src/cli/run/signals.ts';
import { takeActivatedFds } from '../../../src/cli/run/socket-activation.ts';

const logger = silentLogger;

describe('takeActivatedFds', () => {
  it('takes descriptors meant for this process, once', () => {
    const env = { LISTEN_FDS: '2', LISTEN_PID: '77', LISTEN_FDNAMES: 'a:b', OTHER: 'x' };
    expect(takeActivatedFds(env, 77)).toEqual([3, 4]);
    expect(env).toEqual({ OTHER: 'x' });
    expect(takeActivatedFds(env, 77)).toEqual([]);
  });

  it('leaves those of another process', () => {
    expect(takeActivatedFds({ LISTEN_FDS: '2', LISTEN_PID: '78' }, 77)).toEqual([]);
    expect(takeActivatedFds({ LISTEN_FDS: '2' }, 77)).toEqual([]);
  });

  it.each(['0', '65', '-1', 'x', '1e1', ''])('refuses a count of %j', (count) => {
    expect(() => takeActivatedFds({ LISTEN_FDS: count, LISTEN_PID: '77' }, 77)).toThrow('LISTEN_FDS');
  });
});

describe('the listening line', () => {
  it('has URLs that clients take', () => {
    expect(nbdUrl({ kind: 'tcp', host: '::1', port: 5 })).toBe('nbd://[::1]:5');
    expect(nbdUrl({ kind: 'unix', path: '/run/a b&c.sock' })).toBe('nbd+unix:///?socket=/run/a%20b%26c.sock');
  });

  it('keeps names apart', () => {
    expect(exportList(['a', 'b c', 'd,e', '50%', 'ñ'])).toBe('a,b%20c,d%2Ce,50%25,ñ');
  });
});

describe('listenError', () => {
  const inUse = Object.assign(new Error('listen EADDRINUSE'), {
    code: 'EADDRINUSE',
    address: '::1',
    port: 7,
  });

  it.each([inUse, new OperationError('[::1]:7 is in use', { hint: 'stop it', cause: inUse })])(
    'says what to do when something listens there',
    (error) => {
      const told = listenError(error) as OperationError;
      expect(told).toBeInstanceOf(OperationError);
      expect([told.message, told.hint]).toEqual(['address in use: [::1]:7', 'choose another with --listen']);
    },
  );

  it('leaves every other error as it is', () => {
    for (const error of [new OperationError('x'), new UsageError('y'), new Error('z')]) {
      expect(listenError(error)).toBe(error);
    }
  });
});

describe('watchSignals', () => {
  it('only notes the first signal, and exits at the second', async () => {
    const onSecond = vi.fn();
    const watch = watchSignals(onSecond);
    try {
      expect(watch.received).toBeUndefined();
      process.emit('SIGINT', 'SIGINT');
      expect(watch.received).toBe('SIGINT');
      expect(watch.aborted.aborted).toBe(true);
      expect(await watch.requested).toBe('SIGINT');
      expect(onSecond).not.toHaveBeenCalled();
      process.emit('SIGTERM', 'SIGTERM');
      expect(onSecond).toHaveBeenCalledExactlyOnceWith(143);
    } finally {
      watch.dispose();
    }
  });
});

describe('runService', () => {
  const order: string[] = [];
  const service = (start: (startup: Startup) => Promise<Running>) => {
    order.length = 0;
    return runService({ logger, start });
  };
  const stops = (startup: Startup, name: string) =>
    startup.step(name, Promise.resolve(name), (value) => void order.push(value));

  it('stops in reverse order after a signal', async () => {
    const run = service(async (startup) => {
      await stops(startup, 'a');
      await stops(startup, 'b');
      setImmediate(() => process.emit('SIGTERM', 'SIGTERM'));
      return {};
    });
    expect(await run).toBe(0);
    expect(order).toEqual(['b', 'a']);
    expect(process.listenerCount('SIGTERM')).toBe(0);
  });

  it('stops what was started when a later step fails', async () => {
    const run = service(async (startup) => {
      await stops(startup, 'a');
      await startup.step('b', Promise.reject<void>(new OperationError('no')), () => void order.push('b'));
      return {};
    });
    await expect(run).rejects.toThrow('no');
    expect(order).toEqual(['a']);
    expect(process.listenerCount('SIGTERM')).toBe(0);
  });

  it('starts nothing more after a signal', async () => {
    const slow = deferred<void>();
    const atSlow = deferred<void>();
    const started = vi.fn();
    const run = service(async (startup) => {
      await stops(startup, 'a');
      atSlow.resolve();
      await startup.step('slow', slow.promise, () => void order.push('slow'));
      started();
      return {};
    });
    await atSlow.promise;
    process.emit('SIGINT', 'SIGINT');
    slow.resolve();
    expect(await run).toBe(0);
    expect(started).not.toHaveBeenCalled();
    expect(order).toEqual(['slow', 'a']);
  });

  it('ends by itself when its work is done, and fails with it', async () => {
    expect(await service(async () => ({ finished: Promise.resolve() }))).toBe(0);
    await expect(
      service(async (startup) => {
        await stops(startup, 'a');
        return { finished: Promise.reject(new Error('broken')) };
      }),
    ).rejects.toThrow('broken');
    expect(order).toEqual(['a']);
  });

  it('tells by its status that stopping failed, and stops the rest', async () => {
    const run = service(async (startup) => {
      await stops(startup, 'a');
      await startup.step('b', Promise.resolve(), () => Promise.reject(new Error('stuck')));
      return { finished: Promise.resolve() };
    });
    expect(await run).toBe(1);
    expect(order).toEqual(['a']);
  });
});
