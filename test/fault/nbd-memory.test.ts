// What clients cost the program as it is installed, against what docs/LIMITS.md says that they cost: by the hundred for
// those that do little, fifty at once for those that ask and never read. Resident memory is what the kernel says.
import { readFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KiB, MiB } from '../../src/base/limits.ts';
import { loadNativeCalls } from '../../src/base/native-calls.ts';
import { MAX_IN_FLIGHT_BYTES, MAX_UNSENT_BYTES } from '../../src/nbd/limits.ts';
import { NBD_CMD } from '../../src/nbdwire/constants.ts';
import { MAX_RECEIVE_BYTES } from '../../src/transport/receive-buffer.ts';
import { type CliProcess, startServe } from '../support/cli.ts';
import { RawNbdClient, requestBytes } from '../support/raw-nbd-client.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { TestCa } from '../support/tls-files.ts';
import { waitUntil } from '../support/wait-until.ts';

const { READ, WRITE } = NBD_CMD;
const LIMITS = readFileSync(new URL('../../docs/LIMITS.md', import.meta.url), 'utf8');

let folder: TempDir;
let serve: CliProcess;
let clients: RawNbdClient[];
const to = () => ({ host: '127.0.0.1', port: serve.port });

async function start(...args: string[]): Promise<void> {
  serve = await startServe([`disk=${folder.file('disk.img')}`, '--create', '64M', ...args]);
  // What the program itself needs it has by then.
  const first = await RawNbdClient.open(to());
  for (let i = 0; i < 200; i += 1) await first.request({ type: WRITE, data: Buffer.alloc(64 * KiB, i) });
  await first.destroy();
}

beforeEach(() => {
  folder = tempDir();
  clients = [];
});
afterEach(async () => {
  await Promise.all(clients.map((client) => client.destroy()));
  expect(await serve.stop()).toEqual({ code: 0, signal: null });
  folder.remove();
});

function residentBytes(): number {
  const line = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${serve.pid}/status`, 'utf8'));
  return Number(line![1]) * KiB;
}

/** The figure that the table of docs/LIMITS.md has in the row that starts so. */
function documented(row: string): number {
  const line = LIMITS.split('\n').find((one) => one.startsWith(`| ${row} | `));
  const [, amount, unit] = /\| (\d+) (KiB|MiB)\b/.exec(line ?? '') ?? [];
  if (amount === undefined) throw new Error(`docs/LIMITS.md has no row "${row}"`);
  return Number(amount) * (unit === 'KiB' ? KiB : MiB);
}

/** Resident bytes that each of `count` clients adds, most of all looks while `during` runs. */
async function costOf(
  count: number,
  open: (index: number) => Promise<RawNbdClient>,
  during?: (client: RawNbdClient) => Promise<void>,
): Promise<number> {
  const before = residentBytes();
  for (let i = 0; i < count; i += 1) clients.push(await open(i));
  let most = residentBytes();
  const look = setInterval(() => {
    most = Math.max(most, residentBytes());
  }, 20);
  try {
    if (during) await Promise.all(clients.map((client) => during(client)));
  } finally {
    clearInterval(look);
  }
  return (Math.max(most, residentBytes()) - before) / count;
}

function report(what: string, bytes: number, bound: number): void {
  console.log(`${what}: ${(bytes / KiB).toFixed(0)} KiB resident each, documented ${bound / KiB} KiB`);
  expect(bytes).toBeLessThan(bound);
}

describe('a connection', () => {
  const COUNT = 300;

  it('that chooses an export yet', async () => {
    await start();
    const bytes = await costOf(COUNT, async () => {
      const client = await RawNbdClient.connect(to());
      await client.greet();
      return client;
    });
    report('handshake', bytes, documented('one that chooses an export yet'));
  });

  it('that is idle', async () => {
    await start();
    const bytes = await costOf(COUNT, () => RawNbdClient.open(to()));
    report('idle', bytes, documented('an idle NBD connection'));
  });

  it('that is idle and speaks TLS', async () => {
    const ca = await TestCa.create(folder.file('ca'));
    await start(
      '--tls',
      'allow',
      '--tls-dir',
      await ca.issue(folder.file('tls'), 'server', { name: 'localhost' }),
    );
    const bytes = await costOf(COUNT, async () => {
      const plain = await RawNbdClient.connect(to());
      await plain.greet();
      const client = await plain.secure({ rejectUnauthorized: false });
      await client.go();
      return client;
    });
    report('idle with TLS', bytes, documented('the same with TLS'));
  });

  it('that is busy', async () => {
    await start();
    const bytes = await costOf(
      50,
      () => RawNbdClient.open(to()),
      async (client) => {
        const data = Buffer.alloc(64 * KiB, 7);
        for (let round = 0; round < 10; round += 1) {
          for (let i = 0; i < 16; i += 1) {
            client.send(requestBytes({ type: WRITE, offset: i * MiB, data }));
            client.send(requestBytes({ type: READ, offset: i * MiB, length: data.length }));
          }
          await client.read(16 * (16 + 16 + data.length));
        }
      },
    );
    report('busy', bytes, documented('a busy one'));
  });
});

describe('fifty clients that never read', () => {
  const COUNT = 50;
  /** Of one READ; all reach the same limit. */
  const SIZES = [4 * KiB, 64 * KiB, 1 * MiB, 8 * MiB];
  const sizeOf = (index: number): number => SIZES[index % SIZES.length]!;
  /** What docs/LIMITS.md adds up: replies, what was in hand when they reached their limit, the one that crosses it, and the buffer to receive. */
  const boundOf = (index: number): number => documented('one that never reads') + sizeOf(index);

  it('hold what the documentation adds up, and no other client waits', async () => {
    expect(documented('one that never reads')).toBe(
      MAX_UNSENT_BYTES + MAX_IN_FLIGHT_BYTES + MAX_RECEIVE_BYTES,
    );
    await start();
    const good = await RawNbdClient.open(to());
    const bound = Array.from({ length: COUNT }, (_, i) => boundOf(i)).reduce((a, b) => a + b);
    const before = residentBytes();
    for (let i = 0; i < COUNT; i += 1) clients.push(await neverReads(sizeOf(i)));
    await waitUntil(() => residentBytes() - before > COUNT * MAX_UNSENT_BYTES * 0.9, {
      timeoutMs: 60_000,
      what: 'replies to pile up',
    });
    const slowestMs = await useIt(good);
    const held = residentBytes() - before;
    console.log(
      `${COUNT} that never read: ${inMiB(before)} before, ${inMiB(held)} more with them, at most ${inMiB(bound)}; ` +
        `slowest of a good client's requests ${slowestMs.toFixed(0)} ms`,
    );
    expect(held).toBeLessThan(bound);
    expect(clients.filter((client) => client.isEnded)).toEqual([]);
    await Promise.all(clients.splice(0).map((client) => client.destroy()));
    await useIt(good);
    console.log(`${inMiB(residentBytes() - before)} more when they are gone`);
    if (loadNativeCalls()) {
      const kept = held / 8;
      await waitUntil(() => residentBytes() - before < kept, {
        timeoutMs: 60_000,
        what: `what they held to go back to the system, all but ${inMiB(kept)}`,
      });
    }
    // What they held is used again, and not kept beside what the next ones need.
    for (let i = 0; i < COUNT / 5; i += 1) clients.push(await neverReads(sizeOf(i)));
    await useIt(good);
    expect(residentBytes() - before).toBeLessThan(bound);
    await good.destroy();
  });

  async function neverReads(length: number): Promise<RawNbdClient> {
    const client = await RawNbdClient.open(to());
    client.socket.pause();
    const request = requestBytes({ type: READ, length });
    // More than is let through and the kernel's buffers take.
    client.send(Buffer.concat(Array.from({ length: Math.ceil((160 * MiB) / length) }, () => request)));
    return client;
  }

  /** @returns milliseconds of the slowest of some requests */
  async function useIt(client: RawNbdClient): Promise<number> {
    let slowest = 0;
    for (let i = 0; i < 100; i += 1) {
      const startedAt = performance.now();
      const data = Buffer.alloc(4 * KiB, i);
      expect((await client.request({ type: WRITE, offset: i * data.length, data })).error).toBe(0);
      const back = await client.request({ type: READ, offset: i * data.length, length: data.length });
      expect(back.data.equals(data)).toBe(true);
      slowest = Math.max(slowest, performance.now() - startedAt);
    }
    return slowest;
  }

  const inMiB = (bytes: number): string => `${(bytes / MiB).toFixed(0)} MiB`;
});
