// Processes of `serve --workers` that are killed: only the volumes of the one that died are disturbed, they come back by
// themselves, and nothing that their maps know is lost. When the process that clients talk to dies, all are gone.
import { existsSync } from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { silentLogger } from '../../src/base/log.ts';
import { openNbdDevice } from '../../src/blockdev/nbd-client/index.ts';
import type { ProcessStatus } from '../../src/control/status.ts';
import { type CliProcess, startHub, startServe } from '../support/cli.ts';
import { FioLoad } from '../support/fio-load.ts';
import { runPeerOk } from '../support/peers.ts';
import { isSettled, makeImage, readStatus, waitProtected } from '../support/rig.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 32 * MiB;
let dir: TempDir;
const running: CliProcess[] = [];
/** Stopped, so that they end by nothing but this. */
const left: number[] = [];
beforeEach(() => {
  dir = tempDir();
  for (const name of ['a', 'b']) {
    makeImage(dir.file(`${name}.img`), SIZE, [[0, 8]]);
    makeImage(dir.file(`${name}.replica`), SIZE, []);
  }
});
afterEach(async () => {
  for (const pid of left.splice(0)) if (existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
  for (const one of running.splice(0).reverse()) await one.kill();
  dir.remove();
});

async function startAgent(hub: CliProcess): Promise<CliProcess> {
  const agent = await startServe([
    ...[`a=${dir.file('a.img')}`, `b=${dir.file('b.img')}`, '--workers', '2'],
    ...['--hub', `127.0.0.1:${hub.port}`, '--state-dir', dir.file('agent-state')],
  ]);
  running.push(agent);
  return agent;
}

async function startPair(): Promise<{ hub: CliProcess; agent: CliProcess }> {
  const pairs = ['a', 'b'].map((name) => `${name}=${dir.file(`${name}.replica`)}`);
  const hub = await startHub([...pairs, '--state-dir', dir.file('hub-state')]);
  running.push(hub);
  const agent = await startAgent(hub);
  await waitProtected(agent);
  return { hub, agent };
}

const worker = (status: ProcessStatus, name: string) =>
  status.workers!.find(({ volumes }) => volumes.includes(name))!;

const uri = (agent: CliProcess, name: string): string => `nbd://127.0.0.1:${agent.port}/${name}`;

async function settled(agent: CliProcess): Promise<void> {
  await waitProtected(agent);
  await waitUntil(async () => isSettled(await readStatus(agent), 2), {
    what: 'all to be acknowledged',
    timeoutMs: 30_000,
    intervalMs: 50,
  });
}

it('disturbs nobody but its own clients when a worker is killed, and comes back without losing a change', async () => {
  const { hub, agent } = await startPair();
  const before = await readStatus(agent);
  const load = (name: string): FioLoad =>
    new FioLoad(uri(agent, name), { seed: 7, writesPerSecond: 800, sizeBytes: SIZE, folder: dir.path });
  const [atA, atB] = [load('a'), load('b')];
  await waitUntil(async () => (await readStatus(agent)).volumes.every(({ sequence }) => sequence > 500), {
    what: 'both guests to write',
    timeoutMs: 20_000,
  });
  process.kill(worker(before, 'b').pid!, 'SIGKILL');
  const during = await waitUntil(
    async () => {
      const status = await readStatus(agent);
      return worker(status, 'b').state === 'restarting' ? status : undefined;
    },
    { what: 'the status to tell', timeoutMs: 5000, intervalMs: 10 },
  );
  expect(during.volumes.map(({ name, state }) => [name, state])).toEqual([
    ['a', 'protected'],
    ['b', 'failed'],
  ]);
  expect(during.volumes[1]!.lastError).toContain('the worker was ended by SIGKILL');
  const refused = openNbdDevice(uri(agent, 'b'), { logger: silentLogger });
  await expect(refused).rejects.toThrow('the worker was ended by SIGKILL; it is being started again');
  // Whoever was connected is cut off, and does not hang.
  await atB.drop();

  await waitUntil(async () => worker(await readStatus(agent), 'b').state === 'running', {
    what: 'the worker to come back',
    timeoutMs: 20_000,
  });
  expect(agent.logs()).toContain('the worker was ended by SIGKILL: its clients are gone');
  const again = load('b');
  await waitProtected(agent);
  await Promise.all([atA.stop(), again.stop()]);
  await settled(agent);
  const after = await readStatus(agent);
  expect(worker(after, 'b')).toMatchObject({ restarts: 1 });
  expect(worker(after, 'a')).toEqual(worker(before, 'a'));
  const [resync] = after.volumes[1]!.resyncs!;
  // What the map knew, not the volume.
  expect(resync).toMatchObject({ outcome: 'done', comparedBytes: 0 });
  expect(resync!.readBytes).toBeLessThan(SIZE);

  // Without the process that clients talk to the others don't go on. One that can't end just now keeps the directory to
  // itself: it could still write to its map.
  const pids = after.workers!.map(({ pid }) => pid!);
  left.push(pids[1]!);
  process.kill(pids[1]!, 'SIGSTOP');
  // Its end alone: the one that is stopped has its standard error too.
  agent.signal('SIGKILL');
  await waitUntil(() => !existsSync(`/proc/${agent.pid}`), { what: 'the process to end' });
  await expect(startAgent(hub)).rejects.toThrow('another agent uses this state directory');
  process.kill(pids[1]!, 'SIGCONT');
  const next = await startAgent(hub);
  await waitUntil(() => pids.every((pid) => !existsSync(`/proc/${pid}`)), { what: 'the workers to be gone' });
  await settled(next);
  expect((await next.stop()).code).toBe(0);
  for (const name of ['a', 'b'])
    await runPeerOk('cmp', [dir.file(`${name}.img`), dir.file(`${name}.replica`)]);
});

it('keeps its map through kills in the middle of writing', async () => {
  const { agent } = await startPair();
  const killed: number[] = [];
  for (let round = 0; round < 2; round += 1) {
    const guest = await openNbdDevice(uri(agent, 'b'), {
      logger: silentLogger,
      reconnectTimeoutMs: 200,
      closeTimeoutMs: 200,
    });
    const writes = Array.from({ length: 64 }, (_, at) =>
      Promise.resolve(guest.write(at * 64 * 1024, Buffer.alloc(64 * 1024, round * 64 + at + 1), false)).catch(
        () => {},
      ),
    );
    const { pid } = worker(await readStatus(agent), 'b');
    process.kill(pid!, 'SIGKILL');
    killed.push(pid!);
    await Promise.all(writes);
    await guest.close().catch(() => {});
    await waitUntil(
      async () => {
        const { state, pid: next } = worker(await readStatus(agent), 'b');
        return state === 'running' && !killed.includes(next!);
      },
      { what: 'the worker to come back', timeoutMs: 20_000 },
    );
  }
  await settled(agent);
  expect((await agent.stop()).code).toBe(0);
  await runPeerOk('cmp', [dir.file('b.img'), dir.file('b.replica')]);
});
