import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  findProcesses,
  ownSocketPath,
  prepareRuntimeDir,
  runtimeDirs,
} from '../../../src/control/runtime-dir.ts';

let dir: string;
const servers: Server[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-rt-'));
});
afterEach(async () => {
  for (const server of servers.splice(0)) await new Promise((resolve) => server.close(resolve));
  rmSync(dir, { recursive: true, force: true });
});

async function serveAt(path: string): Promise<void> {
  const server = createServer((socket) => socket.destroy());
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(path, resolve));
}

describe('runtimeDirs', () => {
  it('prefers the session directory, then root or per-user places', () => {
    expect(runtimeDirs({ XDG_RUNTIME_DIR: '/run/user/7' }, 7)).toEqual([
      '/run/user/7/repagent',
      join(tmpdir(), 'repagent-7'),
    ]);
    expect(runtimeDirs({}, 0)).toEqual(['/run/repagent']);
  });

  it('uses nothing but the directory that was named', () => {
    expect(runtimeDirs({ REPAGENT_RUNTIME_DIR: '/x', XDG_RUNTIME_DIR: '/y' }, 0)).toEqual(['/x']);
  });
});

describe('prepareRuntimeDir', () => {
  it('makes the directory for its owner alone, and tightens one that is there', () => {
    const fresh = join(dir, 'a', 'b');
    prepareRuntimeDir(fresh);
    expect(statSync(fresh).mode & 0o777).toBe(0o700);
    chmodSync(fresh, 0o777);
    prepareRuntimeDir(fresh);
    expect(statSync(fresh).mode & 0o777).toBe(0o700);
  });

  it('refuses a symbolic link and a file', () => {
    mkdirSync(join(dir, 'real'));
    symlinkSync(join(dir, 'real'), join(dir, 'link'));
    writeFileSync(join(dir, 'file'), '');
    expect(() => prepareRuntimeDir(join(dir, 'link'))).toThrow(/is not a directory/);
    expect(() => prepareRuntimeDir(join(dir, 'file'))).toThrow(
      /can't use the runtime directory|is not a directory/,
    );
  });

  it.runIf(process.getuid?.() === 0)('refuses a directory of another user', async () => {
    const { chownSync } = await import('node:fs');
    chownSync(dir, 65_534, 65_534);
    expect(() => prepareRuntimeDir(dir)).toThrow(/belongs to user 65534/);
  });
});

describe('findProcesses', () => {
  it('lists those who answer, by pid', async () => {
    await serveAt(ownSocketPath(dir, 'hub', 20));
    await serveAt(ownSocketPath(dir, 'serve', 3));
    const found = await findProcesses([dir]);
    expect(found.map(({ kind, pid }) => [kind, pid])).toEqual([
      ['serve', 3],
      ['hub', 20],
    ]);
  });

  it('removes what a killed process left, and nothing else', async () => {
    const { spawnSync } = await import('node:child_process');
    const stale = ownSocketPath(dir, 'serve', 4);
    // A process that ends by SIGKILL leaves its socket behind.
    spawnSync(process.execPath, [
      '-e',
      `require('net').createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'))`,
    ]);
    const other = join(dir, 'other.sock');
    writeFileSync(other, '');
    expect(existsSync(stale)).toBe(true);
    expect(await findProcesses([dir])).toEqual([]);
    expect(existsSync(stale)).toBe(false);
    expect(existsSync(other)).toBe(true);
  });

  it('finds nothing in a directory that is not there', async () => {
    expect(await findProcesses([join(dir, 'none')])).toEqual([]);
  });

  it.runIf(process.getuid?.() === 0)("ignores another user's directory", async () => {
    const { chownSync } = await import('node:fs');
    await serveAt(ownSocketPath(dir, 'hub', 20));
    chownSync(dir, 65_534, 65_534);
    expect(await findProcesses([dir])).toEqual([]);
  });
});
