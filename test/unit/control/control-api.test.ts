// The control API's server and client together, and the server against requests that no client of ours sends.
import { chmodSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { type Closeable, deferred } from '../../../src/base/lifecycle.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { ControlAddress } from '../../../src/control/address.ts';
import {
  fetchStats,
  fetchStatus,
  requestAdjust,
  requestPause,
  requestResume,
  runVerify,
} from '../../../src/control/client.ts';
import { type ControlHandlers, type ControlServer, startControlServer } from '../../../src/control/server.ts';
import type { ProcessStatus, VerifyProgress, VerifyResult } from '../../../src/control/status.ts';
import { sampleStatus, sampleVolume } from './samples.ts';

let dir: string;
const open: Closeable[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-ctl-'));
});
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
  rmSync(dir, { recursive: true, force: true });
});

const status: ProcessStatus = sampleStatus([
  sampleVolume({ name: 'disk' }),
  sampleVolume({ name: 'odd/ñ&=' }),
]);
const result: VerifyResult = { volume: 'disk', comparedBytes: 10, differing: [{ offset: 5, length: 1 }] };

async function start(
  handlers: Partial<ControlHandlers> = {},
  address?: ControlAddress,
): Promise<ControlServer> {
  const server = await startControlServer({
    address: address ?? { kind: 'unix', path: join(dir, 'c.sock') },
    handlers: {
      status: () => status,
      stats: () => ({ disk: { reads: 1 } }),
      verify: async () => result,
      ...handlers,
    },
    logger: silentLogger,
  });
  open.push(server);
  return server;
}

/** Sends raw bytes and returns everything that comes back until the server closes. */
function raw(address: ControlAddress, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = address.kind === 'unix' ? connect(address.path) : connect(address.port, address.host);
    let answer = '';
    socket.setEncoding('utf8').on('data', (chunk) => {
      answer += chunk;
    });
    socket.once('error', reject).once('close', () => resolve(answer));
    socket.end(text);
  });
}

describe('over a unix socket', () => {
  it('answers status and stats', async () => {
    const { address } = await start();
    expect(await fetchStatus(address)).toEqual(status);
    expect(await fetchStats(address)).toEqual({ disk: { reads: 1 } });
  });

  it('is for its owner alone, and leaves no file', async () => {
    const server = await start();
    const path = join(dir, 'c.sock');
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await server.close();
    expect(existsSync(path)).toBe(false);
  });

  it('takes the place of a killed process, not of a living one', async () => {
    const { spawnSync } = await import('node:child_process');
    const path = join(dir, 'c.sock');
    spawnSync(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`,
    ]);
    expect(existsSync(path)).toBe(true);
    const { address } = await start();
    expect((await fetchStatus(address)).pid).toBe(status.pid);
    await expect(start()).rejects.toThrow(/address in use/);
    expect((await fetchStatus(address)).pid).toBe(status.pid);
  });

  it('does not remove a file that is no socket', async () => {
    const path = join(dir, 'c.sock');
    writeFileSync(path, 'precious');
    chmodSync(path, 0o600);
    await expect(start()).rejects.toThrow(/c\.sock/);
    expect(existsSync(path)).toBe(true);
  });

  it('refuses a path that does not fit a socket address', async () => {
    await expect(start({}, { kind: 'unix', path: join(dir, 'x'.repeat(200)) })).rejects.toThrow(UsageError);
  });
});

describe('verify', () => {
  it('streams progress and then the result', async () => {
    const seen: VerifyProgress[] = [];
    const asked: string[] = [];
    const { address } = await start({
      verify: async (volume, onProgress) => {
        asked.push(volume);
        onProgress({ comparedBytes: 5, totalBytes: 10 });
        return result;
      },
    });
    expect(await runVerify(address, 'odd/ñ&=', (one) => seen.push(one))).toEqual(result);
    expect(asked).toEqual(['odd/ñ&=']);
    expect(seen).toEqual([{ comparedBytes: 5, totalBytes: 10 }]);
  });

  it('is of one hub when that is named', async () => {
    const asked: unknown[] = [];
    const { address } = await start({
      verify: async (volume, _onProgress, hub) => {
        asked.push([volume, hub]);
        return result;
      },
    });
    await runVerify(address, 'disk', () => {}, 'far=ñ&');
    await runVerify(address, 'disk', () => {});
    expect(asked).toEqual([
      ['disk', 'far=ñ&'],
      ['disk', undefined],
    ]);
  });

  it("passes on the process's own error and hint, before and after the stream began", async () => {
    const { address } = await start({
      verify: () => Promise.reject(new OperationError('the hub is away', { hint: 'start it' })),
    });
    const failed = runVerify(address, 'disk', () => {});
    await expect(failed).rejects.toMatchObject({ message: 'the hub is away', hint: 'start it' });
    await expect(runVerify(address, 'none', () => {})).rejects.toThrow('there is no volume "none"');
  });

  it('runs once a volume at a time', async () => {
    const gate = deferred<VerifyResult>();
    const started = vi.fn(() => gate.promise);
    const { address } = await start({ verify: started });
    const first = runVerify(address, 'disk', () => {});
    await vi.waitFor(() => expect(started).toHaveBeenCalledTimes(1));
    await expect(runVerify(address, 'disk', () => {})).rejects.toThrow(/being verified already/);
    gate.resolve(result);
    expect(await first).toEqual(result);
    expect(await runVerify(address, 'disk', () => {})).toEqual(result);
  });

  it('does not send every progress of a fast verification', async () => {
    let seen = 0;
    const { address } = await start({
      verify: async (_volume, onProgress) => {
        for (let done = 0; done < 100_000; done += 1)
          onProgress({ comparedBytes: done, totalBytes: 100_000 });
        return result;
      },
    });
    await runVerify(address, 'disk', () => {
      seen += 1;
    });
    expect(seen).toBeGreaterThan(0);
    expect(seen).toBeLessThan(50);
  });

  it('survives a client that leaves in the middle', async () => {
    const gate = deferred<VerifyResult>();
    let report: ((progress: VerifyProgress) => void) | undefined;
    const { address } = await start({
      verify: (_volume, onProgress) => {
        report = onProgress;
        return gate.promise;
      },
    });
    const socket = connect((address as { path: string }).path);
    socket.write('POST /verify?volume=disk HTTP/1.1\r\nHost: x\r\n\r\n');
    await vi.waitFor(() => expect(report).toBeDefined());
    socket.destroy();
    report?.({ comparedBytes: 1, totalBytes: 2 });
    gate.resolve(result);
    expect((await fetchStatus(address)).pid).toBe(status.pid);
  });
});

describe('chains', () => {
  type Chains = NonNullable<ControlHandlers['chains']>;
  const unused: Chains = {
    pause: () => Promise.reject(new Error('not expected')),
    resume: () => 0,
    adjust: () => Promise.reject(new Error('not expected')),
  };

  it('are paused and resumed, and the answer comes when that is so', async () => {
    const gate = deferred<void>();
    const pause = vi.fn<Chains['pause']>(() => gate.promise);
    const { address } = await start({ chains: { ...unused, pause, resume: () => 1234.5 } });
    let acknowledged = false;
    const asked = requestPause(address, 'odd/ñ&=', { timeoutMs: 1500, flush: true }).then(() => {
      acknowledged = true;
    });
    await vi.waitFor(() => expect(pause).toHaveBeenCalledTimes(1));
    expect(pause.mock.calls[0]!.slice(0, 2)).toEqual(['odd/ñ&=', { timeoutMs: 1500, flush: true }]);
    expect(acknowledged).toBe(false);
    gate.resolve();
    await asked;
    expect(await requestResume(address, 'disk')).toBe(1234.5);
  });

  it('learn that whoever asked for a pause has gone', async () => {
    let signal: AbortSignal | undefined;
    const pause: Chains['pause'] = (_volume, _order, gone) => {
      signal = gone;
      return new Promise(() => {});
    };
    const { address } = await start({ chains: { ...unused, pause } });
    const socket = connect((address as { path: string }).path);
    socket.write('POST /pause?volume=disk&timeoutMs=1000 HTTP/1.1\r\nHost: x\r\n\r\n');
    await vi.waitFor(() => expect(signal?.aborted).toBe(false));
    socket.destroy();
    await vi.waitFor(() => expect(signal?.aborted).toBe(true));
  });

  it('are adjusted, with the values as they were written', async () => {
    const adjust = vi.fn<Chains['adjust']>(() => Promise.resolve({ bytes: 5 }));
    const { address } = await start({ chains: { ...unused, adjust } });
    const settings = ['bytes=5', 'on=a=b&c+d', 'on=é', 'empty='];
    expect(await requestAdjust(address, 'disk', 'rate#2', settings)).toEqual({ bytes: 5 });
    const changes = new Map([
      ['bytes', ['5']],
      ['on', ['a=b&c+d', 'é']],
      ['empty', ['']],
    ]);
    expect(adjust.mock.calls).toEqual([['disk', 'rate#2', changes]]);
    await expect(requestAdjust(address, 'disk', 'rate', ['=5'])).rejects.toThrow('"=5" is not OPTION=VALUE');
  });

  it('say why not, in their own words', async () => {
    const fail = (): never => {
      throw new OperationError('not paused any more', { hint: 'do it again' });
    };
    const { address } = await start({ chains: { ...unused, resume: fail } });
    await expect(requestResume(address, 'disk')).rejects.toMatchObject({
      message: 'not paused any more',
      hint: 'do it again',
    });
    const none = await start({}, { kind: 'unix', path: join(dir, 'd.sock') });
    await expect(requestResume(none.address, 'disk')).rejects.toThrow('this process serves no volumes');
  });

  it.each([
    '/pause?timeoutMs=5',
    '/pause?volume=disk',
    '/pause?volume=disk&timeoutMs=0',
    '/pause?volume=disk&timeoutMs=3600001',
    '/pause?volume=disk&timeoutMs=1e3',
    '/pause?volume=disk&timeoutMs=5&flush=yes',
    '/resume',
    '/adjust?volume=disk',
    '/adjust?filter=rate',
  ])('are not asked for what is incomplete: %s', async (path) => {
    const { address } = await start({ chains: unused });
    const answer = await raw(address, `POST ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    expect(answer).toContain('HTTP/1.1 400');
    expect(answer).toContain('name the volume');
  });
});

describe('requests that are refused', () => {
  it.each([
    ['an unknown path', 'GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n', 404, 'GET /status'],
    ['a wrong method', 'DELETE /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n', 405, 'use GET'],
    ['a body', 'POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n', 413, 'no body'],
    [
      'a volume that is not named',
      'POST /verify HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
      400,
      'volume=NAME',
    ],
    ['a header too large', `GET /status HTTP/1.1\r\nHost: x\r\nA: ${'x'.repeat(20_000)}\r\n\r\n`, 400, ''],
    ['what is no HTTP', '\x00\x01NBDMAGIC\r\n\r\n', 400, ''],
  ])('%s', async (_what, text, code, words) => {
    const { address } = await start();
    const answer = await raw(address, text);
    expect(answer).toContain(`HTTP/1.1 ${code}`);
    expect(answer).toContain(words);
    expect((await fetchStatus(address)).pid).toBe(status.pid);
  });

  it('tells nothing of an unexpected error but its message', async () => {
    const { address } = await start({
      status: () => {
        throw new TypeError('oops');
      },
    });
    await expect(fetchStatus(address)).rejects.toThrow(/^oops$/);
  });
});

describe('over TCP', () => {
  const loopback: ControlAddress = { kind: 'tcp', host: '127.0.0.1', port: 0 };

  it('answers on loopback and only there', async () => {
    const { address } = await start({}, loopback);
    expect(await fetchStatus(address)).toEqual(status);
    await expect(start({}, { ...loopback, host: '0.0.0.0' })).rejects.toThrow(/is not loopback/);
  });

  it.each([
    [
      'a foreign host name',
      'GET /status HTTP/1.1\r\nHost: evil.example:80\r\nConnection: close\r\n\r\n',
      403,
    ],
    [
      'a foreign origin',
      'POST /verify?volume=disk HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n',
      403,
    ],
    ['localhost', 'GET /status HTTP/1.1\r\nHost: localhost:9\r\nConnection: close\r\n\r\n', 200],
    ['the IPv6 loopback', 'GET /status HTTP/1.1\r\nHost: [::1]:9\r\nConnection: close\r\n\r\n', 200],
  ])('looks at Host and Origin: %s', async (_what, text, code) => {
    const { address } = await start({}, loopback);
    expect(await raw(address, text)).toContain(`HTTP/1.1 ${code}`);
  });

  it('says which port is in use', async () => {
    const { address } = await start({}, loopback);
    await expect(start({}, address)).rejects.toMatchObject({
      message: expect.stringMatching(/127\.0\.0\.1:\d+: address in use/) as string,
      hint: 'choose another with --control',
    });
  });
});

describe('the client', () => {
  it('says that nobody answers', async () => {
    const gone = { kind: 'unix', path: join(dir, 'gone.sock') } as const;
    await expect(fetchStatus(gone)).rejects.toThrow(`no process answers at unix:${gone.path}`);
  });

  it.each([
    ['a page', '<html>'],
    ['other JSON', '{"volumes": []}'],
    ['volumes that are none', '{"pid": 1, "listening": [], "volumes": 1}'],
    ['a volume that is none', '{"pid": 1, "listening": [], "volumes": [{"name": 1}]}'],
    ['a list', '[]'],
  ])('does not believe %s', async (_what, body) => {
    const other = createHttpServer((_request, response) => response.end(body));
    open.push({ close: () => new Promise((resolve) => other.close(() => resolve())) });
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address() as AddressInfo;
    await expect(fetchStatus({ kind: 'tcp', host: '127.0.0.1', port })).rejects.toThrow(
      /is not a repagent process/,
    );
  });

  it('notices a verification that ends without a result', async () => {
    const other = createHttpServer((_request, response) => response.end('{"progress":{}}\n'));
    open.push({ close: () => new Promise((resolve) => other.close(() => resolve())) });
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address() as AddressInfo;
    await expect(runVerify({ kind: 'tcp', host: '127.0.0.1', port }, 'a', () => {})).rejects.toThrow(/early/);
  });
});
