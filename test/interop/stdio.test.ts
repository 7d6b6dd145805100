// Started by its client: on standard input and output, as other projects' test programs run a server, and by sockets
// that were opened before it.
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { CLI_PATH, runCli, runtimeDir } from '../support/cli.ts';
import { runPeer, runPeerOk, startPeer } from '../support/peers.ts';
import { startPipeRelay } from '../support/pipe-relay.ts';
import { clientFlagsBytes, infoData, optionBytes, requestBytes } from '../support/raw-nbd-client.ts';
import { TestCa } from '../support/tls-files.ts';
import { waitUntil } from '../support/wait-until.ts';

let dir: string;
let image: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'repagent-stdio-'));
  image = join(dir, 'a.img');
  writeFileSync(image, Buffer.alloc(2 ** 20));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const env = { REPAGENT_RUNTIME_DIR: runtimeDir };

function command(...args: string[]): string[] {
  return [process.execPath, CLI_PATH, 'serve', ...args];
}

function check(name: string, words: readonly string[]): Promise<string> {
  const script = readFileSync(new URL('stdio-checks.py', import.meta.url), 'utf8');
  return runPeerOk('nbdsh', ['-n', '-c', '-'], {
    input: script,
    env: { ...env, CHECK: name, COMMAND: JSON.stringify(words) },
  });
}

describe('one client on standard input and output', () => {
  it('is libnbd, which starts the server with a socket', async () => {
    expect(await check('connect_command', command(image, '--stdio'))).toBe('ok connect_command\n');
    expect(readFileSync(image).toString('latin1', 4096, 4096 + 16)).toBe('repagentrepagent');
    // What it kept in the runtime directory is gone as well.
    await waitUntil(() => readdirSync(runtimeDir).filter((name) => name.startsWith('serve-')).length === 0, {
      what: 'the server to end',
    });
  });

  it('chooses among the exports', async () => {
    writeFileSync(join(dir, 'b.img'), Buffer.alloc(512));
    writeFileSync(join(dir, 'c.img'), Buffer.alloc(512));
    const words = command(image, join(dir, 'b.img'), join(dir, 'c.img'), '--stdio', '--export=c,hidden');
    expect(await check('listing', words)).toBe('ok listing\n');
  });

  it('may be named by allow lists, as local', async () => {
    const words = command(image, '--stdio', '--export=a,allow=127.0.0.1');
    await expect(check('connect_command', words)).rejects.toThrow("server has no export named ''");
    expect(await check('connect_command', command(image, '--stdio', '--allow=unix'))).toContain('ok');
  });

  it('that leaves without a word loses nothing that was answered', async () => {
    await check('leave_without_a_word', command(image, '--stdio'));
    expect(readFileSync(image).toString('latin1', 0, 8)).toBe('lastlast');
  });

  /** Talks over two pipes, and ends them after the goodbye, or not. */
  async function overPipes(requests: readonly Buffer[], end: boolean) {
    const [program = '', ...args] = command(image, '--stdio', '--filter', 'delay,write=200ms');
    const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: 'pipe' });
    const [out, err]: [Buffer[], Buffer[]] = [[], []];
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
    const exited = new Promise<number | null>((resolve) => child.once('close', resolve));
    child.stdin.write(Buffer.concat([clientFlagsBytes(), optionBytes(7, infoData('')), ...requests]));
    if (end) child.stdin.end();
    try {
      const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
      const code = await exited;
      clearTimeout(timer);
      return { code, stdout: Buffer.concat(out), stderr: Buffer.concat(err).toString() };
    } finally {
      child.kill('SIGKILL');
    }
  }

  const write = requestBytes({ type: 1, cookie: 5n, offset: 512, data: Buffer.alloc(512, 'pipe') });
  const goodbye = requestBytes({ type: 2 });

  it.each([
    ['says goodbye and stays', [write, goodbye], false],
    ['closes its end', [write], true],
  ] as const)('may use two pipes: it %s', async (_what, requests, end) => {
    const { code, stdout, stderr } = await overPipes(requests, end);
    // From the first byte on it is NBD, and the last are the answer to what was in flight.
    expect(stdout.toString('latin1', 0, 16)).toBe('NBDMAGICIHAVEOPT');
    expect(stdout.subarray(-16).toString('hex')).toBe('67446698000000000000000000000005');
    expect(readFileSync(image).toString('latin1', 512, 516)).toBe('pipe');
    expect(code).toBe(0);
    for (const line of stderr.trimEnd().split('\n')) expect(JSON.parse(line)).toHaveProperty('level');
  });

  it('may be qemu-img, over two pipes', async () => {
    const path = join(dir, 'relay.sock');
    const source = join(dir, 'source.img');
    const back = join(dir, 'back.img');
    writeFileSync(source, randomBytes(2 ** 20));
    await using relay = await startPipeRelay(path, command(image, '--stdio'), env);
    const url = `nbd+unix:///a?socket=${path}`;
    await runPeerOk('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', source, url]);
    await runPeerOk('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', url, back]);
    expect(readFileSync(back).equals(readFileSync(source))).toBe(true);
    expect(readFileSync(image).equals(readFileSync(source))).toBe(true);
    await waitUntil(() => relay.exitCodes.length >= 2, { what: 'the servers to end' });
    expect(new Set(relay.exitCodes)).toEqual(new Set([0]));
  });

  it('may start TLS over two pipes, and must where it is required', async () => {
    const ca = await TestCa.create(join(dir, 'ca'));
    const server = await ca.issue(join(dir, 'server'), 'server', { name: 'localhost' });
    const client = await ca.issue(join(dir, 'client'), 'client', { name: 'vm1' });
    const path = join(dir, 'relay.sock');
    const words = command(image, '--stdio', '--tls-dir', server, '--tls-verify-peer');
    await using relay = await startPipeRelay(path, words, env);
    const target = (...more: string[]): string[] => [
      ...['--target-image-opts', '-n', '-f', 'raw', join(dir, 'source.img')],
      ['driver=nbd,server.type=unix', `server.path=${path}`, 'export=a', ...more].join(','),
    ];
    writeFileSync(join(dir, 'source.img'), randomBytes(2 ** 20));
    const creds = `tls-creds-x509,id=t,endpoint=client,verify-peer=yes,dir=${client}`;
    const tls = ['tls-creds=t', 'tls-hostname=localhost'];
    await runPeerOk('qemu-img', ['convert', '--object', creds, ...target(...tls)]);
    expect(readFileSync(image).equals(readFileSync(join(dir, 'source.img')))).toBe(true);
    expect(relay.stderr()).toContain('"certificate');
    await waitUntil(() => relay.exitCodes.length >= 1, { what: 'the server to end' });
    expect(relay.exitCodes).toEqual([0]);
    // The same without TLS hears why, and the pipes end.
    const plain = await runPeer('qemu-img', ['convert', ...target()]);
    expect(plain.code).toBe(1);
    expect(plain.stderr).toMatch(/TLS/);
    await waitUntil(() => relay.exitCodes.length >= 2, { what: 'the server to end' });
  });

  it('is told what to do when it is a terminal or a file', async () => {
    const { code, stdout, stderr } = await runPeer('/bin/sh', [
      '-c',
      '"$@" <"$0" 2>&1',
      image,
      ...command(image, '--stdio', '--log-level=error'),
    ]);
    expect(code).toBe(2);
    expect(stdout + stderr).toContain('--stdio: standard input is a file; it is for programs that start us');
    const mixed = await runCli(['serve', image, '--stdio', '--listen', '127.0.0.1:0']);
    expect(mixed).toMatchObject({ code: 2, stdout: '' });
    expect(mixed.stderr).toContain('leave --listen out');
  });
});

describe('sockets that were opened before', () => {
  it('come from libnbd', async () => {
    expect(await check('socket_activation', command(image))).toBe('ok socket_activation\n');
    expect(readFileSync(image).toString('latin1', 4096, 4104)).toBe('repagent');
  });

  it('come from nbdinfo and nbdcopy, whose standard output stays clean', async () => {
    const words = ['[', ...command(image, '--log-level=silent'), ']'];
    expect(await runPeerOk('nbdinfo', ['--size', '--', ...words], { env })).toBe('1048576\n');
    writeFileSync(image, Buffer.alloc(2 ** 20, 'copied'));
    const copy = join(dir, 'copy.img');
    await runPeerOk('nbdcopy', ['--', ...words, copy], { env });
    expect(readFileSync(copy).equals(readFileSync(image))).toBe(true);
  });

  it('come from systemd, several and with names', async () => {
    const paths = [join(dir, 'one.sock'), join(dir, 'two.sock')];
    const args = [
      '-l',
      paths[0]!,
      '-l',
      paths[1]!,
      '--fdname=one:two',
      '-E',
      `REPAGENT_RUNTIME_DIR=${runtimeDir}`,
    ];
    await using starter = startPeer('systemd-socket-activate', [...args, ...command(image)]);
    await waitUntil(() => starter.stderr().includes('Listening on'), { what: 'systemd-socket-activate' });
    for (const path of [...paths, ...paths]) {
      expect(await runPeerOk('nbdinfo', ['--size', `nbd+unix:///?socket=${path}`])).toBe('1048576\n');
    }
    for (const path of paths) expect(starter.stderr()).toContain(`"address":"unix:${path}"`);
    expect(starter.stdout()).toBe('');
    // It became the server.
    expect(await starter.stop()).toMatchObject({ code: 0 });
  });

  it('are refused when they are connected clients, as Accept=yes passes them', async () => {
    const path = join(dir, 'a.sock');
    const args = ['--accept', '-l', path, '-E', `REPAGENT_RUNTIME_DIR=${runtimeDir}`];
    await using starter = startPeer('systemd-socket-activate', [
      ...args,
      ...command(image, '--log-level=error'),
    ]);
    await waitUntil(() => starter.stderr().includes('Listening on'), { what: 'systemd-socket-activate' });
    expect((await runPeer('nbdinfo', ['--size', `nbd+unix:///?socket=${path}`])).code).not.toBe(0);
    await waitUntil(() => starter.stderr().includes('does not listen; a socket unit needs Accept=no'), {
      what: 'the reason',
    });
  });
});
