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
  writeFileSync(join(dir, 'bad-key.yaml'), 'image: disk.img\nlisen: 127.0.0.1:0\n');
  writeFileSync(join(dir, 'bad-value.yaml'), 'image: disk.img\nlog-level: loud\n');
  writeFileSync(join(dir, 'no-yaml.yaml'), 'image: [disk.img\n');
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('wrong use exits 2 with one line that says what is wrong and what is allowed', () => {
  test.each<[string[], RegExp]>([
    [
      [],
      /a command is missing; commands: serve, hub, status, wait, verify, resize, resolve, pause, resume, readonly, adjust, filters, bench, demo/,
    ],
    [['serv'], /unknown command "serv" \(did you mean serve\?\)/],
    [['help', 'sevre'], /unknown command "sevre" \(did you mean serve\?\)/],
    [
      ['serve', 'disk.img', '--lisen', 'x'],
      /unknown option --lisen \(did you mean --listen\?\); serve takes --format/,
    ],
    [['serve', 'disk.img', '--listen'], /--listen needs a value/],
    [
      ['serve', 'disk.img', '--listen', '10809'],
      /"10809" is not an address.*did you mean 127\.0\.0\.1:10809/,
    ],
    [['serve', 'disk.img', '--listen', '0.0.0.0:0'], /can be reached from other machines.*--insecure/],
    [['serve', 'disk.img', '--listen', '[::]:0'], /can be reached from other machines/],
    [
      ['serve', 'disk.img', '--control', '0.0.0.0:0'],
      /--control: 0\.0\.0\.0:0 can be reached from other machines/,
    ],
    [['serve', 'disk.img', '--format', 'raw', '--format', 'raw'], /--format was given twice/],
    [
      ['serve', 'disk.img', '--log-level', 'wran'],
      /did you mean warn\?\); allowed: trace, debug, info, warn/,
    ],
    [['serve', 'disk.img', '--create', '1000'], /no multiple of 512/],
    [['serve', 'disk.img', '--max-connections', 'many'], /whole number from 1/],
    [['serve', 'disk.img', '--filter', 'dely'], /unknown filter "dely".*did you mean delay\?/],
    [['serve', 'disk.img', '--filter', 'delay,raed=1ms'], /unknown option "raed".*did you mean read\?/],
    [['serve', 'disk.img', '--filter', 'repagent'], /needs a hub; add --hub/],
    [['serve', 'disk.img', '--filter', 'repagent,x=1', '--hub', 'h'], /takes no options/],
    [['serve', 'disk.img', '--filter', 'repagent', '--filter', 'repagent', '--hub', 'h'], /given twice/],
    [['serve', 'disk.img', '--hub', 'http://x'], /is not a hub's address/],
    [['serve', 'disk.img', '--hub', 'h', '--hub', 'x=h:9010'], /h:9010 is there twice; each hub makes one/],
    [['serve', 'disk.img', 'other/disk.img'], /two images are called "disk"/],
    [['serve', 'disk.img', '--on-hub-lag', 'throttle'], /--on-hub-lag is about replication: add --hub/],
    [['serve', 'disk.img', '--hub', 'h', '--on-hub-lag', 'wait'], /allowed: degrade, throttle/],
    [['serve', 'disk.img', '--hub', 'h', '--max-delay', '5ms'], /add --on-hub-lag throttle/],
    [
      ['serve', 'disk.img', '--hub', 'h', '--on-hub-lag', 'throttle', '--max-delay', '2s'],
      /--max-delay: 2s is out of range; allowed is 1ms to 1s/,
    ],
    [['serve'], /name at least one image/],
    [['serve', '--config', 'missing.yaml'], /can't read missing\.yaml/],
    [
      ['serve', '--config', 'bad-key.yaml'],
      /bad-key\.yaml: unknown key "lisen" \(did you mean listen\?\); allowed: image/,
    ],
    [['serve', '--config', 'bad-value.yaml'], /bad-value\.yaml: log-level: "loud" is unknown/],
    [['serve', '--config', 'no-yaml.yaml'], /no-yaml\.yaml: .*line/],
    [['hub'], /say where replicas are kept/],
    [['serve', 'disk.img', '--hub', 'h', '--resync-rate', '1K'], /less than the least, 256K a second/],
    [['serve', 'disk.img', '--resync-rate', '1M'], /--resync-rate is about replication/],
    [['serve', 'disk.img', '--hub', 'h', '--resync-rate', 'slow'], /use auto, or bytes a second as 20M/],
    [['hub', 'a=x', '--verify-rate', '1M'], /add --verify-every DURATION/],
    [['hub', 'a=x', '--verify-every', '0'], /--verify-every: must be longer than 0/],
    [['hub', 'a=x', '--verify-every', '1h', '--verify-rate', '1K'], /less than the least, 64K a second/],
    [['hub', 'a=x', '--verify-every', '1h', '--on-difference', 'ignore'], /allowed: resync, report/],
    [['hub', 'disk.img'], /pairs no volume with an image; use NAME=PATH/],
    [['hub', 'a=x', '--listen', '0.0.0.0:9010'], /agents' connections are neither encrypted.*--insecure/],
    [['wait', '--state', 'protectd'], /did you mean protected\?/],
    [['wait', '--timeout', 'soon'], /is not a duration/],
    [['pause'], /name the volume: repagent pause disk/],
    [['pause', 'a', '--timeout', '2h'], /--timeout: 2h is out of range; allowed is 1ms to 1h00m/],
    [['pause', 'a', '--timeout', '0'], /--timeout: 0 is out of range/],
    [['pause', 'a', '--flsh'], /did you mean --flush\?/],
    [['pase', 'a'], /did you mean pause\?/],
    [['resume'], /name the volume: repagent resume disk/],
    [['readonly', 'a'], /name the volume and say on or off/],
    [['readonly', 'a', 'of'], /"of" is neither on nor off$/m],
    [['adjust', 'a', 'rate'], /name the volume, the filter and what changes/],
    [['adjust', 'a', 'rate', 'fast'], /"fast" is not OPTION=VALUE/],
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
    [['--help'], /repagent serve/],
    [['help'], /repagent demo/],
    [['help', 'serve'], /--listen.*Examples:.*repagent serve disk\.img/s],
    [['serve', '--help'], /--listen.*Examples:.*repagent serve disk\.img/s],
    [['hub', 'a=b', '--help'], /NAME=PATH.*--once/s],
    [['help', 'wait'], /initial-sync.*--timeout 60/s],
    [['filters'], /align.*delay.*stats.*repagent/s],
  ])('%j goes to standard output', async (args, text) => {
    const { code, stdout, stderr } = await runCli(args);
    expect(stdout).toMatch(text);
    expect([code, stderr]).toEqual([0, '']);
  });

  test('every command has help with an example', async () => {
    const { stdout } = await runCli(['--help']);
    const commands = [...stdout.matchAll(/^ {2}repagent (\w+)/gm)].map((match) => match[1]!);
    expect(commands).toEqual([
      'serve',
      'hub',
      'status',
      'wait',
      'verify',
      'resize',
      'resolve',
      'pause',
      'resume',
      'readonly',
      'adjust',
      'filters',
      'bench',
      'demo',
    ]);
    for (const command of commands) {
      expect((await runCli(['help', command])).stdout).toContain(`Examples:\n  repagent ${command}`);
    }
  });

  test("the version is the package's", async () => {
    const { stdout } = await runCli(['--version']);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test('filters as JSON', async () => {
    const { stdout } = await runCli(['filters', '--json']);
    const filters = JSON.parse(stdout) as { name: string; options: unknown[] }[];
    expect(filters.map((filter) => filter.name)).toContain('delay');
  });
});
