// `repagent serve` as a process: its one line, its sockets, its signals, what it leaves behind.
import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import { CLI_PATH, type CliProcess, runCli, runtimeDir, startServe } from '../support/cli.ts';
import { waitUntil } from '../support/wait-until.ts';

let dir: string;
let image: string;
const running: CliProcess[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-serve-'));
  image = join(dir, 'disk.img');
  writeFileSync(image, Buffer.alloc(2 ** 20));
});
afterEach(async () => {
  for (const one of running.splice(0)) await one.kill();
  rmSync(dir, { recursive: true, force: true });
});

async function serve(args: string[], options = {}): Promise<CliProcess> {
  const started = await startServe(args, { cwd: dir, ...options });
  running.push(started);
  return started;
}

/** Writes a pattern through the server and returns it. */
async function writePattern(url: string): Promise<Buffer> {
  const device = await openNbdDevice(url, { logger: silentLogger });
  const pattern = Buffer.alloc(4096, 'repagent');
  await device.write(8192, pattern, false);
  await device.flush();
  await device.close();
  return pattern;
}

describe('a serving process', () => {
  test('prints one line, serves, stops at SIGTERM, and leaves nothing', async () => {
    const server = await serve([image]);
    expect(server.stdout()).toMatch(/^listening nbd:\/\/127\.0\.0\.1:\d+ exports=disk\n$/);
    const pattern = await writePattern(server.urls[0]!);
    expect(await server.stop()).toEqual({ code: 0, signal: null });
    expect(readFileSync(image).subarray(8192, 8192 + 4096)).toEqual(pattern);
    expect(server.stdout().split('\n')).toHaveLength(2);
    expect(existsSync(server.control.slice('unix:'.length))).toBe(false);
  });

  test('logs JSON lines to standard error, and nothing when told so', async () => {
    const server = await serve([image]);
    await server.stop();
    const lines = server.logs().trimEnd().split('\n');
    expect(lines.length).toBeGreaterThan(0);
    for (const line of lines) expect(JSON.parse(line)).toHaveProperty('level');
    const silent = await serve([image, '--log-level', 'silent']);
    await silent.stop();
    expect(silent.logs()).toBe('');
  });

  test('SIGINT ends it as well', async () => {
    const server = await serve([image]);
    server.signal('SIGINT');
    expect(await server.exited).toEqual({ code: 0, signal: null });
  });

  test.each([
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const)('a second signal ends it at once: %s', async (signal, status) => {
    const server = await serve([image, '--filter', 'delay,flush=60s']);
    const device = await openNbdDevice(server.urls[0]!, { logger: silentLogger, closeTimeoutMs: 100 });
    await device.write(0, Buffer.alloc(512, 1), false);
    server.signal('SIGTERM');
    await waitUntil(() => server.logs().includes('a second signal exits at once'), {
      what: 'the first signal',
    });
    server.signal(signal);
    expect(await server.exited).toEqual({ code: status, signal: null });
    await device.close().catch(() => {});
  });

  test('requests in flight are answered before it ends', async () => {
    const server = await serve([image, '--filter', 'log,start', '--filter', 'delay,write=500ms']);
    const device = await openNbdDevice(server.urls[0]!, {
      logger: silentLogger,
      reconnectTimeoutMs: 1000,
      closeTimeoutMs: 100,
    });
    let answered = false;
    const write = Promise.resolve(device.write(0, Buffer.alloc(512, 7), false)).then(() => {
      answered = true;
    });
    await waitUntil(() => server.logs().includes('length=512 ...'), { what: 'the write to begin' });
    server.signal('SIGTERM');
    await write;
    expect(answered).toBe(true);
    await device.close().catch(() => {});
    expect(await server.exited).toEqual({ code: 0, signal: null });
    expect(readFileSync(image)[0]).toBe(7);
  });
});

describe('where it listens', () => {
  test('several exports on several addresses', async () => {
    writeFileSync(join(dir, 'b.img'), Buffer.alloc(1024));
    const path = join(dir, 'nbd.sock');
    const server = await serve([
      'disk.img',
      'second=b.img',
      '--listen',
      '127.0.0.1:0',
      '--listen',
      `unix:${path}`,
    ]);
    expect(server.stdout()).toMatch(
      /^listening nbd:\/\/127\.0\.0\.1:\d+ nbd\+unix:\/\/\/\?socket=\S+ exports=disk,second\n$/,
    );
    expect(server.exports).toEqual(['disk', 'second']);
    expect(server.unixPath).toBe(path);
    const device = await openNbdDevice(`nbd+unix:///second?socket=${path}`, { logger: silentLogger });
    expect(device.sizeBytes).toBe(1024);
    await device.close();
    await server.stop();
    expect(existsSync(path)).toBe(false);
  });

  test('a port in use is named, with what to do', async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = other.address() as AddressInfo;
      const { code, stdout, stderr } = await runCli([
        'serve',
        image,
        '--listen',
        `127.0.0.1:${port}`,
        '--log-level',
        'error',
      ]);
      expect(stderr.trimEnd().split('\n').at(-1)).toBe(
        `repagent: address in use: 127.0.0.1:${port}; choose another with --listen`,
      );
      expect([code, stdout]).toEqual([1, '']);
      expect(readdirSync(runtimeDir).filter((name) => name.startsWith('serve-'))).toEqual([]);
    } finally {
      other.close();
    }
  });

  test('a second process on one socket path is refused, the first goes on', async () => {
    const path = join(dir, 'nbd.sock');
    const first = await serve(['disk.img', '--listen', `unix:${path}`]);
    writeFileSync(join(dir, 'b.img'), Buffer.alloc(1024));
    const { code, stderr } = await runCli([
      'serve',
      join(dir, 'b.img'),
      '--listen',
      `unix:${path}`,
      '--log-level',
      'error',
    ]);
    expect(stderr).toContain(path);
    expect(code).toBe(1);
    await writePattern(first.urls[0]!);
  });

  test('the socket of a killed process is taken over', async () => {
    const path = join(dir, 'nbd.sock');
    const first = await serve(['disk.img', '--listen', `unix:${path}`]);
    await first.kill();
    expect(existsSync(path)).toBe(true);
    const second = await serve(['disk.img', '--listen', `unix:${path}`]);
    await writePattern(second.urls[0]!);
  });

  test('other machines may connect once that was accepted', async () => {
    const server = await serve([image, '--listen', '0.0.0.0:0', '--insecure']);
    expect(server.stdout()).toMatch(/^listening nbd:\/\/0\.0\.0\.0:\d+ /);
  });

  test.each(['unix', 'tcp'])('a socket that systemd passes: %s', async (kind) => {
    const path = join(dir, 'passed.sock');
    const listener = createServer();
    await new Promise<void>((resolve) => {
      if (kind === 'unix') listener.listen(path, resolve);
      else listener.listen(0, '127.0.0.1', resolve);
    });
    const { fd } = (listener as unknown as { _handle: { fd: number } })._handle;
    const url =
      kind === 'unix'
        ? `nbd+unix:///?socket=${path}`
        : `nbd://127.0.0.1:${(listener.address() as AddressInfo).port}`;
    const command = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"';
    const child = spawn('/bin/sh', ['-c', command, 'sh', process.execPath, CLI_PATH, 'serve', image], {
      env: { ...process.env, REPAGENT_RUNTIME_DIR: runtimeDir },
      stdio: ['ignore', 'pipe', 'pipe', fd],
    });
    try {
      // Closing our own copy would take the socket's file away as well.
      if (kind === 'unix') renameSync(path, `${path}.kept`);
      await new Promise((resolve) => listener.close(resolve));
      if (kind === 'unix') renameSync(`${path}.kept`, path);
      await logged(child, 'NBD server listens');
      await writePattern(url);
      const exited = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGTERM');
      expect(await exited).toBe(0);
      // Standard output may be somebody else's.
      expect(child.stdout?.read()).toBeNull();
      // It belongs to systemd, which goes on listening.
      expect(existsSync(path)).toBe(kind === 'unix');
    } finally {
      child.kill('SIGKILL');
    }
  });
});

/** Waits until the log says it. @throws Error when the process ends first */
function logged(child: ChildProcess, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let log = '';
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
      log += chunk;
      if (log.includes(text)) resolve();
    });
    child.once('exit', (code) => reject(new Error(`ended with ${code}: ${log}`)));
  });
}

describe('images', () => {
  test('a missing one is created, sparse', async () => {
    const path = join(dir, 'new.img');
    const server = await serve([path, '--create', '64M']);
    expect(server.exports).toEqual(['new']);
    expect(statSync(path).size).toBe(64 * 2 ** 20);
    expect(statSync(path).blocks).toBe(0);
  });

  test('an upstream NBD server is an image', async () => {
    const upstream = await serve([image]);
    const server = await serve([`up=${upstream.urls[0]}/disk`]);
    const pattern = await writePattern(`${server.urls[0]}/up`);
    await server.stop();
    await upstream.stop();
    expect(readFileSync(image).subarray(8192, 8192 + 4096)).toEqual(pattern);
  });

  test('read-only refuses writes', async () => {
    const server = await serve([image, '--read-only']);
    const device = await openNbdDevice(server.urls[0]!, { logger: silentLogger });
    expect(device.limits.readOnly).toBe(true);
    await device.close();
  });

  test('everything may stand in a config file, and the command line wins', async () => {
    writeFileSync(
      join(dir, 'vm.yaml'),
      'image: [one=disk.img]\nlisten: 127.0.0.1:1\nlog-level: silent\nfilter:\n  - stats,quiet\nread-only: true\n',
    );
    const server = await serve(['--config', 'vm.yaml', '--read-only=false']);
    expect(server.exports).toEqual(['one']);
    await writePattern(server.urls[0]!);
    await server.stop();
    expect(server.logs()).toBe('');
  });

  test('an image stays as it was when starting fails later', async () => {
    const busy = openSync(image, 'r');
    const { code } = await runCli([
      'serve',
      image,
      join(dir, 'none.img'),
      '--log-level',
      'silent',
      '--listen',
      '127.0.0.1:0',
    ]);
    closeSync(busy);
    expect(code).toBe(1);
    expect(readFileSync(image).equals(Buffer.alloc(2 ** 20))).toBe(true);
    expect(existsSync(join(dir, 'none.img'))).toBe(false);
  });
});

describe('asking it', () => {
  test('status finds the one that runs, in words and as JSON', async () => {
    const server = await serve([image, '--vm-name', 'box']);
    const table = await runCli(['status']);
    expect(table.stdout).toMatch(new RegExp(`agent ${server.pid} .*nbd://127`));
    expect(table.stdout).toContain('no hub: nothing is replicated');
    expect(table.stdout).toMatch(/disk +unprotected .* unknown/);
    const json = JSON.parse((await runCli(['status', '--json'])).stdout) as Record<string, unknown>;
    expect(json).toMatchObject({ role: 'agent', pid: server.pid, listening: server.urls, link: null });
    expect(json.volumes).toMatchObject([
      { name: 'disk', vmName: 'box', state: 'unprotected', sizeBytes: 2 ** 20, lagMs: null },
    ]);
  });

  test('several processes are listed to choose from', async () => {
    const first = await serve([image]);
    writeFileSync(join(dir, 'b.img'), Buffer.alloc(1024));
    const second = await serve([join(dir, 'b.img')]);
    const { code, stderr } = await runCli(['status']);
    expect(code).toBe(1);
    expect(stderr).toContain(`serve ${first.pid}: --control ${first.control}`);
    expect(stderr).toContain(`serve ${second.pid}: --control ${second.control}`);
    const named = await runCli(['status', '--control', second.control]);
    expect(named.stdout).toContain(`agent ${second.pid}`);
  });

  test('a killed process is not found, and its socket is removed', async () => {
    const server = await serve([image]);
    const path = server.control.slice('unix:'.length);
    await server.kill();
    expect(existsSync(path)).toBe(true);
    expect((await runCli(['status'])).code).toBe(1);
    expect(existsSync(path)).toBe(false);
  });

  test('the control socket is for its owner alone', async () => {
    const server = await serve([image]);
    expect(statSync(server.control.slice('unix:'.length)).mode & 0o777).toBe(0o600);
    expect(statSync(runtimeDir).mode & 0o777).toBe(0o700);
  });

  test('control over loopback TCP, and the figures of filters', async () => {
    const probe = createServer();
    await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
    const { port } = probe.address() as AddressInfo;
    await new Promise((resolve) => probe.close(resolve));
    const server = await serve([image, '--control', `127.0.0.1:${port}`, '--filter', 'stats,quiet']);
    await writePattern(server.urls[0]!);
    expect((await runCli(['status', '--control', `127.0.0.1:${port}`])).code).toBe(0);
    const stats = (await (await fetch(`http://127.0.0.1:${port}/stats`)).json()) as Record<string, unknown>;
    expect(JSON.stringify(stats)).toMatch(/"filters":\{"disk":\{"stats".*"write"/);
  });

  test('verify and wait say that there is no hub', async () => {
    await serve([image]);
    const verify = await runCli(['verify']);
    expect(verify.stderr).toMatch(/has no replica.*--hub/);
    expect(verify.code).toBe(1);
    const wait = await runCli(['wait', '--timeout', '0.2']);
    expect(wait.stderr).toMatch(/not protected after 0\.2 s: .*disk state=unprotected/);
    expect(wait.code).toBe(1);
    expect((await runCli(['wait', '--state', 'unprotected'])).code).toBe(0);
  });

  test('watch appends lines where output is no terminal', async () => {
    const server = await serve([image]);
    const child = spawn(process.execPath, [CLI_PATH, 'status', '--watch', '--control', server.control]);
    let stdout = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      stdout += chunk;
    });
    await waitUntil(() => stdout.split('\n').length > 2, { what: 'two lines' });
    const exited = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGINT');
    expect(await exited).toBe(0);
    for (const line of stdout.trimEnd().split('\n')) {
      expect(line).toMatch(/^\d{4}-\d\d-\d\dT\S+Z \S+\/disk state=unprotected .* lag=unknown$/);
    }
  });

  test('a reader that leaves is no failure', async () => {
    await serve([image]);
    const child = spawn(
      '/bin/sh',
      ['-c', `"${process.execPath}" "${CLI_PATH}" filters | head -1; echo "$?"`],
      {
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    );
    let text = '';
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    await new Promise((resolve) => child.once('close', resolve));
    expect(text).toBe('');
  });
});
