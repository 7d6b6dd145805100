import type { AddressInfo } from 'node:net';
import { createServer, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { silentLogger } from '../../../src/base/log.ts';
import { MemoryDevice } from '../../../src/blockdev/memory-device.ts';
import { Agent } from '../../../src/repagent/agent.ts';
import { DEFAULT_RECONNECT } from '../../../src/repagent/hub-link.ts';
import { waitUntil } from '../../support/wait-until.ts';

test('a hub that accepts and then says nothing is dialed again', async () => {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.resume();
    sockets.push(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const agent = new Agent({
    hubHost: '127.0.0.1',
    hubPort: (server.address() as AddressInfo).port,
    vmName: 'vm',
    agentId: Buffer.alloc(16, 1),
    reconnect: { ...DEFAULT_RECONNECT, firstMs: 1, longestMs: 1, helloTimeoutMs: 20 },
    logger: silentLogger,
  });
  const disk = agent.protect('a', new MemoryDevice({ sizeBytes: 65_536 }));
  agent.start();
  await waitUntil(() => sockets.length >= 3, { what: 'a third connection', timeoutMs: 5000 });
  expect(agent.status().link.lastError).toContain('said nothing for 20 ms');
  await agent.close();
  await disk.close();
  server.close();
  for (const socket of sockets) socket.destroy();
});
