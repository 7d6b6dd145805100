// A program for request-memory.test.ts: the built NBD server over a file (argv[2]), whose heap can be watched. With a hub
// (argv[3], its port) every write is mirrored to it.
import { randomBytes } from 'node:crypto';
import { silentLogger } from '../../dist/base/log.js';
import { openFileDevice } from '../../dist/blockdev/file-device.js';
import { buildChain } from '../../dist/filter/chain.js';
import { startNbdServer } from '../../dist/nbd/server.js';
import { answerLooks } from './heap-watch.mjs';

const [path, hubPort] = process.argv.slice(2);
const disk = await openFileDevice({ path, logger: silentLogger });
const agent = hubPort && (await openAgent(Number(hubPort)));
const below = agent ? agent.protect('disk', disk) : disk;
const device = await buildChain(below, [], { logger: silentLogger, exportName: 'disk' });
const server = await startNbdServer({
  exports: [{ name: 'disk', device }],
  listen: [{ kind: 'tcp', host: '127.0.0.1', port: 0 }],
  logger: silentLogger,
});
agent?.start();
process.stdout.write(`${server.addresses[0].port}\n`);
await answerLooks(() => {
  if (!agent) return {};
  const [{ state, dirtyBytes }] = agent.status().volumes;
  return { state, dirtyBytes, overflows: agent.stats.overflows };
});
await server.close();
await agent?.close();
await device.close();

async function openAgent(port) {
  const { Agent } = await import('../../dist/repagent/agent.js');
  return new Agent({
    hubHost: '127.0.0.1',
    hubPort: port,
    vmName: 'vm',
    agentId: randomBytes(16),
    logger: silentLogger,
  });
}
