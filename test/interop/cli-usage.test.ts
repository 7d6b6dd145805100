// The program used wrongly: what it says, where it says it, and how it exits.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCli } from '../support/cli.ts';

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-usage-'));
  writeFileSync(join(dir, 'odd.img'), Buffer.alloc(1000));
  writeFileSync(join(dir, 'disk.img'), Buffer.alloc(4096));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('wrong use exits 2 with one line on standard error; all that is refused is in test/unit/cli/usage.test.ts', () => {
  test.each<[string[], RegExp]>([
    [
      [],
      /a command is missing; commands: serve, hub, status, wait, verify, resize, resolve, recover, pause, resume, readonly, adjust, filters, bench, demo/,
    ],
    [
      ['serve', 'disk.img', '--lisen', 'x'],
      /unknown option --lisen \(did you mean --listen\?\); serve takes --format/,
    ],
    [['serve', 'disk.img', '--listen', '0.0.0.0:0'], /can be reached from other machines.*--insecure/],
    [['serve', '--config', 'missing.yaml'], /can't read missing\.yaml/],
    [['hub', 'a=x', '--listen', '0.0.0.0:9010'], /agents' connections are neither encrypted.*--insecure/],
    [['status', 'extra'], /unexpected "extra"; see: repagent help status/],
  ])('%j', async (args, message) => {
    const { code, stdout, stderr } = await runCli(args, { cwd: dir });
    expect(stderr).toMatch(message);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    expect(stderr).toMatch(/^repagent: /);
    expect([code, stdout]).toEqual([2, '']);
  });
});

describe('failures at run time exit 1 with a line that says what to do', () => {
  test.each<[string[], RegExp]>([
    [['serve', 'none.img'], /none\.img.*--create SIZE/],
    [['serve', 'odd.img'], /truncate -s/],
    [['serve', 'nbd://127.0.0.1:1/x'], /127\.0\.0\.1:1/],
    [['status'], /no running repagent process.*--control/],
    [
      ['verify', '--control', 'unix:/nonexistent/a.sock'],
      /no process answers at unix:\/nonexistent\/a\.sock/,
    ],
    [['wait', '--control', 'unix:/nonexistent/a.sock'], /no process answers/],
    [['wait', '--timeout', '300ms'], /not protected after 0\.3 s: no running repagent process/],
    [['hub', 'a=none.img', '--listen', '127.0.0.1:0'], /none\.img/],
  ])('%j', async (args, message) => {
    const { code, stdout, stderr } = await runCli(
      [...args, ...(args[0] === 'serve' ? ['--log-level', 'silent'] : [])],
      {
        cwd: dir,
      },
    );
    const last = stderr.trimEnd().split('\n').at(-1);
    expect(last).toMatch(message);
    expect(last).toMatch(/^repagent: /);
    expect([code, stdout]).toEqual([1, '']);
  });

  test('what answers at --control is no process of ours', async () => {
    const server = createServer((_request, response) => response.end('<html>hello'));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = server.address() as AddressInfo;
      const { code, stderr } = await runCli(['status', '--control', `127.0.0.1:${port}`]);
      expect(stderr).toMatch(/what answers at 127\.0\.0\.1:\d+ is not a repagent process/);
      expect(code).toBe(1);
    } finally {
      server.close();
    }
  });
});

describe('help', () => {
  test.each([
    [['help'], /repagent demo/],
    [['serve', '--help'], /--listen.*Examples:.*repagent serve disk\.img/s],
    [['filters'], /align.*delay.*stats.*repagent/s],
    [['--version'], /^\d+\.\d+\.\d+\n$/],
  ])('%j goes to standard output', async (args, text) => {
    const { code, stdout, stderr } = await runCli(args);
    expect(stdout).toMatch(text);
    expect([code, stderr]).toEqual([0, '']);
  });
});
