// What a request costs in system calls that move bytes, counted by the kernel, so that no busy machine moves it. Requests
// come in batches that wait for each other: one receive takes a batch in, one send answers it, and between them each
// request has one call on the file. What mirroring adds is counted per batch, not per request.
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { untilAcknowledged, withDiskServer, withMirroredServer } from '../support/heap-program.ts';
import { type BatchKind, runBatches } from '../support/request-batches.ts';

const BATCHES = 1000;
const MIRRORED_BATCHES = 400;

/** Calls per batch beyond those: now and then one comes, or leaves, in more than one segment. */
const SLACK = 0.25;
/** The same of mirrored ones, which are larger, and between two processes more. */
const MIRRORED_SLACK = 0.9;

interface Calls {
  readonly reads: number;
  readonly writes: number;
}

/** Calls of a process until now, sockets and files together. */
function callsOf(pid: number): Calls {
  const text = readFileSync(`/proc/${pid}/io`, 'utf8');
  const count = (name: string): number => Number(new RegExp(`^${name}: (\\d+)$`, 'm').exec(text)![1]);
  return { reads: count('syscr'), writes: count('syscw') };
}

function countCalls(kind: BatchKind, depth: number): Promise<Calls> {
  return withDiskServer(async (server, client) => {
    await runBatches(client, kind, depth, 100);
    const before = callsOf(server.pid);
    await runBatches(client, kind, depth, BATCHES);
    const after = callsOf(server.pid);
    return { reads: after.reads - before.reads, writes: after.writes - before.writes };
  });
}

it.each<[BatchKind, number, Calls]>([
  ['read', 1, { reads: 2, writes: 1 }],
  ['write', 1, { reads: 1, writes: 2 }],
  ['read', 32, { reads: 33, writes: 1 }],
  ['write', 32, { reads: 1, writes: 33 }],
])(
  'a batch (%s, depth %i) has one receive, one send, and one call on the file each',
  async (kind, depth, per) => {
    const { reads, writes } = await countCalls(kind, depth);
    console.log(`${kind}, depth ${depth}: ${reads / BATCHES} reads and ${writes / BATCHES} writes per batch`);
    expect(reads, 'every batch was received, and every block read').toBeGreaterThanOrEqual(
      BATCHES * per.reads,
    );
    expect(writes, 'every batch was answered, and every block written').toBeGreaterThanOrEqual(
      BATCHES * per.writes,
    );
    expect(reads).toBeLessThan(BATCHES * (per.reads + SLACK));
    expect(writes).toBeLessThan(BATCHES * (per.writes + SLACK));
  },
);

/** Calls of agent and hub for batches of writes, all of them mirrored in the end. */
function countMirrored(depth: number): Promise<{ readonly agent: Calls; readonly hub: Calls }> {
  return withMirroredServer(async (agent, hub, client) => {
    await runBatches(client, 'write', depth, 100);
    await untilAcknowledged(agent);
    const before = [callsOf(agent.pid), callsOf(hub.pid)] as const;
    await runBatches(client, 'write', depth, MIRRORED_BATCHES);
    await untilAcknowledged(agent);
    const after = [callsOf(agent.pid), callsOf(hub.pid)] as const;
    const since = (i: 0 | 1): Calls => ({
      reads: (after[i].reads - before[i].reads) / MIRRORED_BATCHES,
      writes: (after[i].writes - before[i].writes) / MIRRORED_BATCHES,
    });
    return { agent: since(0), hub: since(1) };
  });
}

it.each([1, 32])(
  'a mirrored batch (depth %i) has one send more, one receive at the hub, and one call on the replica each',
  async (depth) => {
    const { agent, hub } = await countMirrored(depth);
    console.log(
      `mirrored, depth ${depth}: agent ${JSON.stringify(agent)}, hub ${JSON.stringify(hub)} per batch`,
    );
    expect(agent.writes, 'the disk, the answer').toBeGreaterThanOrEqual(depth + 1);
    expect(hub.writes, 'the replica').toBeGreaterThanOrEqual(depth);
    // The link's send comes on top.
    expect(agent.writes).toBeLessThan(depth + 2 + MIRRORED_SLACK);
    // An idle hub may take a large batch up while it still comes: far from one receive for each write all the same.
    expect(hub.reads).toBeLessThan((depth === 1 ? 1 : 4) + MIRRORED_SLACK);
    // An acknowledgement serves all of some milliseconds: on a slow machine one batch.
    expect(agent.reads).toBeLessThan(2 + MIRRORED_SLACK);
    expect(hub.writes).toBeLessThan(depth + 1 + MIRRORED_SLACK);
  },
);
