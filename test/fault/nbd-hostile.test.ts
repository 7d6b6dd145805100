// Clients that mean harm, against the program as it is installed: whatever they do, it serves the others, keeps neither
// descriptors nor memory, and ends with 0 when it is told to.
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../src/base/limits.ts';
import { MAX_HELD_BYTES, MAX_UNSENT_BYTES } from '../../src/nbd/limits.ts';
import { NBD_CMD } from '../../src/nbdwire/constants.ts';
import { type CliProcess, startServe } from '../support/cli.ts';
import {
  clientFlagsBytes,
  infoData,
  optionBytes,
  RawNbdClient,
  requestBytes,
} from '../support/raw-nbd-client.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const { READ, WRITE, DISC, FLUSH } = NBD_CMD;
const SLOWLORIS = fileURLToPath(new URL('../support/slowloris.mjs', import.meta.url));

const HELLO = Buffer.concat([clientFlagsBytes(), optionBytes(3), optionBytes(7, infoData('disk', [1, 3]))]);
const WRITE_REQUEST = requestBytes({ type: WRITE, cookie: 9n, offset: 512, data: Buffer.alloc(64, 1) });

let folder: TempDir;
let serve: CliProcess;
let good: RawNbdClient;
const to = () => ({ host: '127.0.0.1', port: serve.port });

beforeEach(async () => {
  folder = tempDir();
  serve = await startServe([
    `disk=${folder.file('disk.img')}`,
    '--create',
    '64M',
    '--max-connections',
    '1000',
  ]);
  good = await RawNbdClient.open(to());
});

afterEach(async () => {
  await expectUnhurt();
  await good.destroy();
  const errors = serve
    .logs()
    .split('\n')
    .filter((line) => /"level":[56]0/.test(line));
  expect(await serve.stop()).toEqual({ code: 0, signal: null });
  folder.remove();
  expect(errors).toEqual([]);
});

async function expectUnhurt(): Promise<void> {
  const data = Buffer.alloc(8 * KiB, 0x5a);
  expect((await good.request({ type: WRITE, offset: 1 * MiB, data })).error).toBe(0);
  expect((await good.request({ type: READ, offset: 1 * MiB, length: 8 * KiB })).data.equals(data)).toBe(true);
}

const descriptors = (of: CliProcess = serve): number => readdirSync(`/proc/${of.pid}/fd`).length;

function residentBytes(): number {
  const line = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${serve.pid}/status`, 'utf8'));
  return Number(line![1]) * KiB;
}

describe('stalled handshakes by the hundred', () => {
  const STALLED = 400;
  const ROUNDS = 5;
  const REQUESTS = 1000;
  /** What a busy machine does to one measurement it seldom does to three. */
  const ATTEMPTS = 3;

  it('leave a good client its latency', async () => {
    const tried: string[] = [];
    const decoy = await startServe([
      `disk=${folder.file('decoy.img')}`,
      '--create',
      '64M',
      '--max-connections',
      '1000',
    ]);
    try {
      for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
        const { quiet, besieged } = await measure(decoy);
        tried.push(`p99 ${quiet.toFixed(2)} ms beside, ${besieged.toFixed(2)} ms among ${STALLED} stalled`);
        console.log(tried.at(-1));
        if (besieged <= 2 * quiet) return;
      }
      expect.fail(tried.join('; '));
    } finally {
      await decoy.stop();
    }
  }, 300_000);

  /**
   * Medians of the p99 of rounds, taken in turn so that both see the same machine: with the stalled ones at another
   * server, whose work and whose attackers the processors share as much, and with them at this one.
   */
  async function measure(decoy: CliProcess): Promise<{ quiet: number; besieged: number }> {
    const alone: number[] = [];
    const beside: number[] = [];
    await p99();
    for (let round = 0; round < ROUNDS; round += 1) {
      const elsewhere = await besiege(decoy);
      try {
        alone.push(await p99());
      } finally {
        await elsewhere.end();
      }
      const siege = await besiege(serve);
      try {
        beside.push(await p99());
        // A newcomer is let in, too.
        const late = await RawNbdClient.open(to());
        expect((await late.request({ type: FLUSH })).error).toBe(0);
        await late.destroy();
      } finally {
        await siege.end();
      }
    }
    return { quiet: median(alone), besieged: median(beside) };
  }

  async function p99(): Promise<number> {
    const times: number[] = [];
    const data = Buffer.alloc(4 * KiB, 7);
    for (let i = 0; i < REQUESTS; i += 1) {
      const startedAt = performance.now();
      if (i % 2) await good.request({ type: READ, offset: i * 4096, length: data.length });
      else await good.request({ type: WRITE, offset: i * 4096, data });
      times.push(performance.now() - startedAt);
    }
    times.sort((a, b) => a - b);
    return times[Math.floor(times.length * 0.99)]!;
  }

  async function besiege(target: CliProcess): Promise<{ end(): Promise<void> }> {
    const child = spawn(process.execPath, [SLOWLORIS, String(target.port), String(STALLED)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const exited = new Promise((resolve) => child.once('exit', resolve));
    let ready = false;
    child.stdout.once('data', () => {
      ready = true;
    });
    await waitUntil(() => ready && descriptors(target) > STALLED, {
      timeoutMs: 60_000,
      what: `${STALLED} stalled handshakes`,
    });
    return {
      end: async () => {
        child.stdin.end();
        await exited;
        await waitUntil(() => descriptors(target) < 100, {
          timeoutMs: 30_000,
          what: 'the stalled ones to go',
        });
      },
    };
  }
});

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

describe('clients that come and go', () => {
  const CLIENTS = 10_000;
  const TOGETHER = 50;
  /** Room for what the garbage collector leaves for later. A leak of one buffer per connection is 640 MiB. */
  const MAX_GROWTH_BYTES = 64 * MiB;

  it('ten thousand of them, in every way, leave no descriptor and no memory', async () => {
    await comeAndGo(1000);
    await waitUntil(() => descriptors() < 100, { what: 'the first ones to go' });
    const before = { descriptors: descriptors(), residentBytes: residentBytes() };
    await comeAndGo(CLIENTS);
    await waitUntil(() => descriptors() <= before.descriptors, {
      timeoutMs: 30_000,
      what: 'descriptors to go',
    });
    const after = { descriptors: descriptors(), residentBytes: residentBytes() };
    console.log(`${CLIENTS} clients: before ${JSON.stringify(before)}, after ${JSON.stringify(after)}`);
    expect(after.residentBytes - before.residentBytes).toBeLessThan(MAX_GROWTH_BYTES);
  }, 300_000);

  async function comeAndGo(count: number): Promise<void> {
    let next = 0;
    await Promise.all(
      Array.from({ length: TOGETHER }, async () => {
        while (next < count) {
          next += 1;
          await visit(next);
        }
      }),
    );
  }

  async function visit(index: number): Promise<void> {
    const client = await RawNbdClient.connect(to());
    switch (index % 5) {
      case 0:
        break;
      case 1:
        client.send(HELLO.subarray(0, index % HELLO.length));
        break;
      case 2:
        client.send(HELLO, WRITE_REQUEST.subarray(0, index % WRITE_REQUEST.length));
        break;
      case 3:
        client.send(HELLO, requestBytes({ type: READ, length: 256 * KiB }));
        break;
      default:
        client.send(HELLO, requestBytes({ type: DISC }));
        await client.readToEnd();
    }
    // A reset leaves nothing in the kernel, so that ports are not used up.
    client.socket.resetAndDestroy();
    await client.destroy();
  }
});

describe('a client', () => {
  it('that is cut off at every byte of its handshake and of a write hurts nobody', async () => {
    const session = Buffer.concat([HELLO, WRITE_REQUEST, requestBytes({ type: FLUSH })]);
    for (let count = 0; count <= session.length; count += 1) {
      for (const how of ['reset', 'close', 'half-close']) {
        const client = await RawNbdClient.connect(to());
        client.send(session.subarray(0, count));
        if (how === 'reset') client.socket.resetAndDestroy();
        else client.socket.end();
        if (how === 'half-close') await client.readToEnd();
        else await client.destroy();
      }
      if (count % 50 === 0) await expectUnhurt();
    }
    await waitUntil(() => descriptors() < 100, { what: 'all to go' });
  });

  it('that talks nonsense in any state of the conversation hurts nobody', async () => {
    const starts = [
      Buffer.alloc(0),
      HELLO.subarray(0, 4),
      HELLO.subarray(0, 12),
      HELLO.subarray(0, 20),
      HELLO.subarray(0, -3),
      HELLO,
      Buffer.concat([HELLO, WRITE_REQUEST.subarray(0, 20)]),
      Buffer.concat([HELLO, WRITE_REQUEST.subarray(0, 40)]),
      Buffer.concat([
        HELLO,
        requestBytes({ type: WRITE, offset: 64 * MiB, data: Buffer.alloc(9) }).subarray(0, 30),
      ]),
    ];
    for (const start of starts) {
      for (const junk of [0x00, 0xff, 0x49, 0x25].map((byte) => Buffer.alloc(5000, byte))) {
        const client = await RawNbdClient.connect(to());
        client.send(start, junk);
        client.socket.end();
        await client.readToEnd();
        await client.destroy();
        await expectUnhurt();
      }
    }
  });

  it('that never reads holds a bounded amount, and gives it back when it is gone', async () => {
    const before = residentBytes();
    const slow = await RawNbdClient.open(to());
    slow.socket.pause();
    for (let i = 0; i < 300; i += 1) slow.send(requestBytes({ type: READ, length: 1 * MiB }));
    await waitUntil(() => residentBytes() > before + MAX_UNSENT_BYTES / 2, { what: 'replies to pile up' });
    for (let i = 0; i < 50; i += 1) await expectUnhurt();
    const most = residentBytes();
    console.log(`a client that never reads: ${((most - before) / MiB).toFixed(0)} MiB more resident`);
    expect(most - before).toBeLessThan(MAX_HELD_BYTES);
    slow.socket.resetAndDestroy();
    await slow.destroy();
    await waitUntil(() => descriptors() < 100);
  });

  it('that is reset in the middle of large writes leaves nothing behind', async () => {
    const before = descriptors();
    const data = requestBytes({ type: WRITE, data: Buffer.alloc(8 * MiB, 1) });
    for (let i = 0; i < 30; i += 1) {
      const client = await RawNbdClient.open(to());
      client.send(data.subarray(0, 100_000 * (i + 1)));
      // Some of it has left, the rest is thrown away.
      await waitUntil(() => client.socket.bytesWritten - client.socket.writableLength > 50_000);
      client.socket.resetAndDestroy();
      await client.destroy();
    }
    await waitUntil(() => descriptors() <= before, { what: 'all to go' });
  });

  it('that closes its half after many requests gets every answer', async () => {
    const client = await RawNbdClient.open(to());
    const count = 3000;
    for (let i = 0; i < count; i += 1) client.send(requestBytes({ type: FLUSH, cookie: BigInt(i) }));
    client.socket.end();
    expect((await client.readToEnd()).length).toBe(count * 16);
    await client.destroy();
  });
});
