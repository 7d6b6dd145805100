// A program for request-cost.test.ts: the built NBD server over a file (argv[2]), which answers each line on standard
// input with what its heap holds. With `--expose-gc` and a large young generation nothing is collected unless asked.
import { PerformanceObserver } from 'node:perf_hooks';
import { createInterface } from 'node:readline';
import { silentLogger } from '../../dist/base/log.js';
import { openFileDevice } from '../../dist/blockdev/file-device.js';
import { buildChain } from '../../dist/filter/chain.js';
import { startNbdServer } from '../../dist/nbd/server.js';

let collections = 0;
new PerformanceObserver((list) => {
  collections += list.getEntries().length;
}).observe({ entryTypes: ['gc'] });

const disk = await openFileDevice({ path: process.argv[2], logger: silentLogger });
const device = await buildChain(disk, [], { logger: silentLogger, exportName: 'disk' });
const server = await startNbdServer({
  exports: [{ name: 'disk', device }],
  listen: [{ kind: 'tcp', host: '127.0.0.1', port: 0 }],
  logger: silentLogger,
});
process.stdout.write(`${server.addresses[0].port}\n`);
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'gc') globalThis.gc();
  // Collections are told a turn later.
  await new Promise((resolve) => setTimeout(resolve, 50));
  process.stdout.write(`${JSON.stringify({ usedBytes: process.memoryUsage().heapUsed, collections })}\n`);
}
await server.close();
await device.close();
