// A program: many agents in one process, each with a volume in memory, a state directory and a connection of its own to
// one hub. Says when all are protected, rests, writes a little to each, and says after how long that was acknowledged.
// Only the disks and the guests are made up; what speaks to the hub is what `repagent serve` uses.
import { join } from 'node:path';
import { silentLogger } from '../../base/log.ts';
import { sleep } from '../../base/sleep.ts';
import type { BlockDevice } from '../../blockdev/block-device.ts';
import { MemoryDevice } from '../../blockdev/memory-device.ts';
import { Agent } from '../../repagent/agent.ts';
import { AgentState } from '../../repagent/state-dir.ts';
import { type FleetLine, type FleetPlan, isFleetPlan } from './fleet-lines.ts';

const BLOCK_BYTES = 4096;
const VOLUME = 'disk';
const LOOK_MS = 50;
/** How often acknowledgements are looked for. */
const TICK_MS = 1;

interface Member {
  readonly agent: Agent;
  readonly disk: BlockDevice;
}

interface OpenWrite {
  readonly agent: Agent;
  readonly offset: number;
  readonly sinceMs: number;
}

function say(line: FleetLine): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function begin({ agents, hubPort, sizeBytes, stateDir }: FleetPlan): Promise<Member[]> {
  const fleet: Member[] = [];
  for (let at = 0; at < agents; at += 1) {
    const state = await AgentState.open({ stateDir: join(stateDir, String(at)), logger: silentLogger });
    const agent = new Agent({
      ...{ hubHost: '127.0.0.1', hubPort, vmName: `vm${at}`, agentId: state.agentId, state },
      logger: silentLogger,
    });
    fleet.push({ agent, disk: agent.protect(VOLUME, new MemoryDevice({ sizeBytes })) });
  }
  return fleet;
}

const isProtected = ({ agent }: Member): boolean => agent.status().volumes[0]?.state === 'protected';

/** Each is written to `iops` times a second, one after the other. */
async function load(fleet: readonly Member[], { iops, seconds, sizeBytes }: FleetPlan): Promise<number[]> {
  const latencies: number[] = [];
  let open: OpenWrite[] = [];
  let written = 0;
  const beganMs = performance.now();
  const perSecond = iops * fleet.length;
  const total = Math.floor(seconds * perSecond);
  const blocks = Math.min(sizeBytes, 2 ** 24) / BLOCK_BYTES;
  while (written < total || open.length > 0) {
    const due = Math.min(total, Math.floor(((performance.now() - beganMs) / 1000) * perSecond));
    for (; written < due; written += 1) {
      const { agent, disk } = fleet[written % fleet.length]!;
      // A block that is not written again while it is waited for.
      const offset = (Math.floor(written / fleet.length) % blocks) * BLOCK_BYTES;
      await disk.write(offset, Buffer.alloc(BLOCK_BYTES, 1 + (written % 255)), false);
      open.push({ agent, offset, sinceMs: performance.now() });
    }
    await sleep(TICK_MS);
    open = open.filter(({ agent, offset, sinceMs }) => {
      if (agent.isDirty(VOLUME, offset, BLOCK_BYTES)) return true;
      latencies.push(performance.now() - sinceMs);
      return false;
    });
  }
  return latencies;
}

async function run(plan: FleetPlan): Promise<void> {
  const fleet = await begin(plan);
  const beganMs = performance.now();
  for (const { agent } of fleet) agent.start();
  let waiting = fleet;
  while (waiting.length > 0) {
    await sleep(LOOK_MS);
    waiting = waiting.filter((member) => !isProtected(member));
  }
  say({ kind: 'protected', afterMs: performance.now() - beganMs });
  await sleep(plan.restSeconds * 1000);
  say({ kind: 'loaded', latenciesMs: await load(fleet, plan) });
  process.once('SIGTERM', () => {
    void Promise.all(fleet.map(({ agent }) => agent.close())).then(() => process.exit(0));
  });
}

const plan: unknown = JSON.parse(process.argv[2] ?? '');
if (!isFleetPlan(plan)) throw new Error('this program is started by the bench');
await run(plan);
