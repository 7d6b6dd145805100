// The program used wrongly, and its help, in the process of the test: which words are understood, and what is said of
// those that aren't. How that leaves the process is test/interop/cli-usage.test.ts.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { runProgram } from '../../../src/cli/program.ts';

let dir: string;
const before = process.cwd();
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-usage-'));
  writeFileSync(join(dir, 'disk.img'), Buffer.alloc(4096));
  writeFileSync(join(dir, 'bad-key.yaml'), 'image: disk.img\nlisen: 127.0.0.1:0\n');
  writeFileSync(join(dir, 'bad-value.yaml'), 'image: disk.img\nlog-level: loud\n');
  writeFileSync(join(dir, 'no-yaml.yaml'), 'image: [disk.img\n');
  process.chdir(dir);
});
afterEach(() => {
  vi.restoreAllMocks();
});
afterAll(() => {
  process.chdir(before);
  rmSync(dir, { recursive: true, force: true });
});

/** What a run prints, by stream; yargs prints help by the console. */
async function run(args: readonly string[]): Promise<{ stdout: string; stderr: string; outcome: unknown }> {
  const said = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) {
    vi.spyOn(process[stream], 'write').mockImplementation((text) => {
      said[stream] += String(text);
      return true;
    });
  }
  vi.spyOn(console, 'log').mockImplementation((text) => {
    said.stdout += `${String(text)}\n`;
  });
  vi.spyOn(console, 'error').mockImplementation((text) => {
    said.stderr += `${String(text)}\n`;
  });
  const outcome = await runProgram(args).catch((error: unknown) => error);
  vi.restoreAllMocks();
  return { ...said, outcome };
}

describe('wrong use is refused in one line that says what is wrong and what is allowed', () => {
  test.each<[string[], RegExp]>([
    [
      [],
      /a command is missing; commands: serve, hub, status, wait, verify, resize, resolve, recover, pause, resume, readonly, adjust, filters, bench, demo/,
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
    const { stdout, stderr, outcome } = await run(args);
    expect(outcome).toBeInstanceOf(UsageError);
    const text = (outcome as UsageError).message;
    expect(text).toMatch(message);
    expect(text.trimEnd().split('\n')).toHaveLength(1);
    expect([stdout, stderr]).toEqual(['', '']);
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
    const { outcome, stdout, stderr } = await run(args);
    expect(stdout).toMatch(text);
    expect([outcome, stderr]).toEqual([0, '']);
  });

  test('every command has help with an example', async () => {
    const { stdout } = await run(['--help']);
    const commands = [...stdout.matchAll(/^ {2}repagent (\w+)/gm)].map((match) => match[1]!);
    expect(commands).toEqual([
      'serve',
      'hub',
      'status',
      'wait',
      'verify',
      'resize',
      'resolve',
      'recover',
      'pause',
      'resume',
      'readonly',
      'adjust',
      'filters',
      'bench',
      'demo',
    ]);
    for (const command of commands) {
      expect((await run(['help', command])).stdout).toContain(`Examples:\n  repagent ${command}`);
    }
  });

  test("the version is the package's", async () => {
    const { stdout } = await run(['--version']);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test('filters as JSON', async () => {
    const { stdout } = await run(['filters', '--json']);
    const filters = JSON.parse(stdout) as { name: string; options: unknown[] }[];
    expect(filters.map((filter) => filter.name)).toContain('delay');
  });
});
