// `repagent demo` as a new user runs it: it must tell the whole story, soon, and leave nothing behind.
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CLI_PATH, runCli } from '../support/cli.ts';
import { waitUntil } from '../support/wait-until.ts';

let dir: string;
let env: Record<string, string>;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-d-'));
  mkdirSync(join(dir, 'tmp'));
  env = {
    TMPDIR: join(dir, 'tmp'),
    HOME: dir,
    XDG_STATE_HOME: join(dir, 'state'),
    XDG_RUNTIME_DIR: join(dir, 'run'),
  };
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** Everything below `dir` but the temporary folder itself. */
const leftovers = (): string[] =>
  readdirSync(dir, { recursive: true })
    .map(String)
    .filter((name) => name !== 'tmp');

test('the demo tells the whole story and both disks are equal', async () => {
  const { code, stdout, stderr } = await runCli(['demo'], { env, timeoutMs: 90_000 });
  expect(stderr).toBe('');
  for (const part of [
    'repagent hub disk=replica.img',
    'repagent serve disk=disk.img --hub',
    'protected after',
    'kill -9',
    'protected again after',
    'equal',
    'EQUAL',
    'qemu-system-x86_64',
    'nbd-client',
  ]) {
    expect(stdout).toContain(part);
  }
  const digests = [...stdout.matchAll(/SHA-256 ([0-9a-f]{64})/g)].map((match) => match[1]);
  expect(digests).toHaveLength(2);
  expect(digests[0]).toBe(digests[1]);
  expect(code).toBe(0);
  expect(leftovers()).toEqual([]);
});

test('Ctrl-C in the middle leaves no file and no process', async () => {
  // A process group of its own gets the signal as from a terminal.
  const child = spawn(process.execPath, [CLI_PATH, 'demo'], {
    env: { ...process.env, ...env },
    detached: true,
  });
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk;
  });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  try {
    await waitUntil(() => stdout.includes('exports=disk') || stdout.includes('Initial sync'), {
      timeoutMs: 30_000,
      what: 'the agent',
    });
    process.kill(-child.pid!, 'SIGINT');
    expect(await exited).toBe(130);
    expect(leftovers()).toEqual([]);
    await waitUntil(() => !groupLives(child.pid!), { what: 'the end of its children' });
  } finally {
    if (groupLives(child.pid!)) process.kill(-child.pid!, 'SIGKILL');
  }
});

function groupLives(group: number): boolean {
  try {
    process.kill(-group, 0);
    return true;
  } catch {
    return false;
  }
}
