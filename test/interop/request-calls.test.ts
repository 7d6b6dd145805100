// What a request costs in system calls that move bytes, counted by the kernel, so that no busy machine moves it. Requests
// come in batches that wait for each other: one receive takes a batch in, one send answers it, and between them each
// request has one call on the file.
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { withDiskServer } from '../support/heap-program.ts';
import { type BatchKind, runBatches } from '../support/request-batches.ts';

const BATCHES = 1000;

/** Calls per batch beyond those: now and then one comes, or leaves, in more than one segment. */
const SLACK = 0.25;

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
