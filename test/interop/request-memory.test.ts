// What a request costs in memory, where no clock is needed: heap that is allocated, and heap that is kept. Requests come
// in batches that wait for each other. The bounds lie above what is true; who lowers a cost lowers its bound.
import { spawn } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { RawNbdClient } from '../support/raw-nbd-client.ts';
import { type BatchKind, runBatches } from '../support/request-batches.ts';
import { tempDir } from '../support/temp-dir.ts';

const HEAP_SERVER = fileURLToPath(new URL('../support/heap-server.mjs', import.meta.url));
const REQUESTS = 100_000;

it.each<[BatchKind, number, number]>([
  ['read', 1, 3000],
  ['write', 1, 1700],
  ['read', 32, 220],
  ['write', 32, 220],
])('a %s at depth %i allocates little and keeps nothing', async (kind, depth, maxBytesPerRequest) => {
  const folder = tempDir();
  writeFileSync(folder.file('disk.img'), '');
  truncateSync(folder.file('disk.img'), 2 ** 20);
  const flags = ['--expose-gc', '--max-semi-space-size=512', '--min-semi-space-size=512'];
  const child = spawn(process.execPath, [...flags, HEAP_SERVER, folder.file('disk.img')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  try {
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const next = async (): Promise<string> => String((await lines.next()).value);
    const ask = async (what: 'gc' | 'look'): Promise<{ usedBytes: number; collections: number }> => {
      child.stdin.write(`${what}\n`);
      return JSON.parse(await next()) as { usedBytes: number; collections: number };
    };
    const client = await RawNbdClient.open({ host: '127.0.0.1', port: Number(await next()) }, 'disk');
    const requests = depth === 1 ? REQUESTS / 5 : REQUESTS;
    await runBatches(client, kind, depth, Math.ceil(requests / depth / 4)); // code is compiled, pools are filled
    const before = await ask('gc');
    await runBatches(client, kind, depth, Math.ceil(requests / depth));
    const after = await ask('look');
    const kept = await ask('gc');
    await client.destroy();
    expect(after.collections, 'a collection would hide what was allocated').toBe(before.collections);
    const perRequest = (after.usedBytes - before.usedBytes) / requests;
    expect(perRequest).toBeLessThan(maxBytesPerRequest);
    expect(kept.usedBytes - before.usedBytes, 'kept: far less than an object for each request').toBeLessThan(
      512 * 1024,
    );
  } finally {
    child.kill('SIGKILL');
    folder.remove();
  }
});
