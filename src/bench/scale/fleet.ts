// Many agents at one hub: the hub as a process, the agents in another one, over real sockets.
import { fileURLToPath } from 'node:url';
import { OperationError } from '../../base/errors.ts';
import { sleep } from '../../base/sleep.ts';
import { startHub } from '../own-process.ts';
import { residentBytesOf, watchCpu } from '../process-usage.ts';
import { percentiles } from '../recovery/lag.ts';
import { until } from '../server.ts';
import { AROUND_LOAD_SECONDS, REST_SECONDS } from './cells.ts';
import type { ScaleFigures, ScaleRun } from './figures.ts';
import { type FleetPlan, fleetLine } from './fleet-lines.ts';

const SYNC_TIMEOUT_MS = 120_000;
const LOAD_GRACE_MS = 30_000;

/** @throws OperationError when it doesn't come to its end */
export async function runFleet({ own, workspace, cell, seconds, onStep }: ScaleRun): Promise<ScaleFigures> {
  const loadSeconds = REST_SECONDS + seconds + AROUND_LOAD_SECONDS;
  onStep('starting', cell.startSeconds + loadSeconds);
  const path = (name: string): string => workspace.path('tmpfs', name);
  const hub = await startHub(own, { replicas: ['--store', path('store')], stateDir: path('hub-state') });
  const plan: FleetPlan = {
    ...{ agents: cell.agents, hubPort: hub.port, sizeBytes: cell.sizeBytes, stateDir: path('agents') },
    ...{ restSeconds: REST_SECONDS, seconds, iops: cell.iops ?? 1 },
  };
  const program = fileURLToPath(new URL('./fleet-program.js', import.meta.url));
  const began = performance.now();
  const fleet = own.children.start(process.execPath, [program, JSON.stringify(plan)]);
  const line = async <K extends 'protected' | 'loaded'>(kind: K, timeoutMs: number) => {
    await until(
      `${cell.id}: the agents are ${kind}`,
      async () => {
        onStep(kind === 'loaded' ? 'at rest and under load' : 'first copy', loadSeconds);
        if (fleet.hasExited) throw new OperationError(`the agents ended: ${fleet.tail()}`);
        return fleetLine(fleet.stdout(), kind) !== undefined;
      },
      timeoutMs,
    );
    return fleetLine(fleet.stdout(), kind)!;
  };
  const { afterMs } = await line('protected', SYNC_TIMEOUT_MS);
  const protectedAfterMs = performance.now() - began;
  const pids = [fleet.pid, hub.child.pid];
  const [agentBytes, hubBytes] = pids.map((pid) => residentBytesOf([pid])) as [number, number];
  const rest = watchCpu(pids);
  await sleep((REST_SECONDS - 0.5) * 1000);
  const [agentRestShare, hubRestShare] = rest() as [number, number];
  const loaded = watchCpu(pids);
  const { latenciesMs } = await line('loaded', (REST_SECONDS + seconds) * 1000 + LOAD_GRACE_MS);
  const [agentLoadShare, hubLoadShare] = loaded() as [number, number];
  await fleet.stop();
  await hub.child.stop();
  const { p50Ms, p99Ms } = percentiles(latenciesMs);
  const toUs = (ms: number | null): number | undefined => (ms === null ? undefined : ms * 1000);
  return {
    ...{ cell, startedAfterMs: protectedAfterMs - afterMs, protectedAfterMs, agentBytes, hubBytes },
    ...{ agentRestShare, hubRestShare, agentLoadShare, hubLoadShare },
    ...{ iops: latenciesMs.length / seconds, p50Us: toUs(p50Ms), p99Us: toUs(p99Ms) },
  };
}
