// An agent over test devices, with times short enough for a test.
import { silentLogger } from '../../../src/base/log.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { Agent, type AgentOptions } from '../../../src/repagent/agent.ts';
import { pattern } from '../../support/disk-model.ts';
import type { FakeHub } from '../../support/fake-hub.ts';
import { waitUntil } from '../../support/wait-until.ts';

export const AGENT_ID = Buffer.from('00112233445566778899aabbccddeeff', 'hex');

export function makeAgent(hub: FakeHub | number, options: Partial<AgentOptions> = {}): Agent {
  return new Agent({
    hubHost: '127.0.0.1',
    hubPort: typeof hub === 'number' ? hub : hub.port,
    vmName: 'vm1',
    agentId: AGENT_ID,
    logger: silentLogger,
    shutdownTimeoutMs: 2000,
    reconnect: { firstMs: 5, longestMs: 20, steadyMs: 5000, connectTimeoutMs: 2000 },
    ...options,
  });
}

/** Writes whole 512-byte sectors whose content names the seed; the answer must be there at once. */
export function writeNow(device: BlockDevice, offset: number, length: number, seed = offset + 1): Buffer {
  const data = pattern(length, seed);
  if (device.write(offset, data, false) !== undefined) throw new Error('the write was not answered at once');
  return data;
}

export async function untilState(agent: Agent, state: string, volume = 0): Promise<void> {
  await waitUntil(() => agent.status().volumes[volume]?.state === state, {
    what: `state ${state}`,
    intervalMs: 2,
    timeoutMs: 5000,
  });
}

export async function untilLink(agent: Agent, state: string): Promise<void> {
  await waitUntil(() => agent.status().link.state === state, {
    what: `link ${state}`,
    intervalMs: 2,
    timeoutMs: 5000,
  });
}
