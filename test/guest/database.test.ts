// A machine runs two databases while its link to the hub is cut ten times; then it and the agent are gone in one moment,
// and a machine starts from the replica. What had been committed before the replica's moment is in it, and rows are a
// prefix of what was written. DATABASE_SEED=n cuts in the same ways again.
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../../src/base/limits.ts';
import { seededRandom } from '../../src/filter/random.ts';
import { startHub, startServe } from '../support/cli.ts';
import { CutProxy } from '../support/cut-proxy.ts';
import { makeFolder, makeImage } from '../support/rig.ts';
import { testSeed } from '../support/test-seed.ts';
import { waitUntil } from '../support/wait-until.ts';
import {
  committedRows,
  DATABASES,
  look,
  type Rows,
  rowsByLag,
  rowsUpTo,
  type Sight,
  volumeOf,
} from './database-witness.ts';
import { type Guest, startGuest } from './guest-vm.ts';

const SIZE_BYTES = 96 * MiB;
const CUTS = 10;
/** Rows that the guest must commit while there is no link. */
const ROWS_WITHOUT_LINK = 5;

const CUT_KINDS = ['reset', 'mid-frame', 'silent'] as const;
type CutKind = (typeof CUT_KINDS)[number];

function bootFrom(file: string, mode: 'load' | 'check'): Guest {
  return startGuest({
    job: 'database.sh',
    args: ['/dev/vda', mode],
    qemu: ['-drive', `file=${file},format=raw,if=virtio`],
    timeoutMs: 240_000,
  });
}

/** Ends the connection, and lets nobody through until the guest has gone on for a while. */
async function cut(proxy: CutProxy, kind: CutKind, random: () => number, guest: Guest): Promise<void> {
  const before = committedRows(guest.console());
  proxy.refuses = true;
  if (kind === 'reset') proxy.cut();
  else if (kind === 'mid-frame') proxy.cutAfter(1 + Math.floor(random() * 20_000), 'up');
  else proxy.stall();
  await moreRows(guest, before, ROWS_WITHOUT_LINK);
  proxy.cut();
  proxy.goOn();
  proxy.refuses = false;
}

/** Waits until each database has so many rows more. */
async function moreRows(guest: Guest, before: Rows, count: number): Promise<void> {
  for (const name of DATABASES) {
    await waitUntil(() => committedRows(guest.console())[name] >= before[name] + count, {
      what: `${count} rows after ${before[name]} in ${name}\n${guest.console().slice(-2000)}`,
      timeoutMs: 30_000,
      intervalMs: 20,
    });
  }
}

/** What a machine that started from the replica found in a database. */
function found(console: string, name: string): Record<string, string | undefined> {
  const word = (what: string): string | undefined =>
    new RegExp(`^${what} ${name} (.*)$`, 'm').exec(console)?.[1];
  return {
    integrity: word('integrity'),
    rows: word('rows'),
    wrong: word('wrong'),
    total: word('total'),
    mode: word('mode'),
  };
}

it('a replica has every transaction of its moment, after ten cuts of the link under load', async () => {
  const seed = Number(process.env.DATABASE_SEED ?? testSeed());
  const random = seededRandom(seed);
  using folder = makeFolder();
  const image = join(folder.path, 'disk.img');
  const replica = join(folder.path, 'replica.img');
  makeImage(image, SIZE_BYTES, []);
  makeImage(replica, SIZE_BYTES, [[0, SIZE_BYTES / MiB]]); // junk, so that what is left out shows

  await using hub = await startHub([`disk=${replica}`, '--state-dir', join(folder.path, 'hub-state')]);
  const proxy = await CutProxy.listen(hub.port);
  await using serve = await startServe([
    ...[`disk=${image}`, '--hub', `127.0.0.1:${proxy.port}`],
    ...['--state-dir', join(folder.path, 'agent-state')],
  ]);
  const isProtected = (): Promise<boolean> =>
    waitUntil(async () => (await volumeOf(serve)).state === 'protected', {
      what: `the volume to be protected (seed ${seed})`,
      timeoutMs: 40_000,
      intervalMs: 20,
    });

  await using guest = bootFrom(`nbd:localhost:${serve.port}`, 'load');
  await moreRows(guest, { wal: 0, delete: 0 }, 1);
  for (let i = 0; i < CUTS; i += 1) {
    // Now and then the next one comes while the replica still catches up.
    if (random() < 0.7) await isProtected();
    const links = proxy.accepted;
    const kind = CUT_KINDS[i % CUT_KINDS.length]!;
    await cut(proxy, kind, random, guest);
    await waitUntil(() => proxy.accepted > links, {
      what: `the agent to dial after cut ${i}, ${kind} (seed ${seed}): ${serve.logs().slice(-4000)}`,
      timeoutMs: 70_000, // longer than an agent waits for a hub that says nothing
    });
  }
  await isProtected();

  const healed = committedRows(guest.console());
  const sights: Sight[] = [];
  const rowsUntilTheEnd = 10 + Math.floor(random() * 40);
  do {
    sights.push(await look(guest, serve));
  } while (sights.at(-1)!.rows.delete < healed.delete + rowsUntilTheEnd);
  await Promise.all([guest.kill(), serve.kill()]);
  await proxy.close();
  const left = await waitUntil(
    async () => {
      const volume = await volumeOf(hub);
      return volume.state === 'degraded' && volume.sequence === volume.ackedSequence ? volume : undefined;
    },
    { what: 'the hub to have kept what it received' },
  );
  await hub.kill();

  await using failover = bootFrom(replica, 'check');
  const console = await failover.finished();
  const promised = rowsUpTo(sights, left.ackedSequence);
  const promisedByLag = rowsByLag(sights);
  process.stdout.write(
    `  seed ${seed}: rows ${JSON.stringify(sights.at(-1)!.rows)}, of sequence ${left.ackedSequence} ${JSON.stringify(promised)}, by lag ${JSON.stringify(promisedByLag)}\n`,
  );
  expect(console).toMatch(/^guest: fsck is clean$/m);
  for (const name of DATABASES) {
    const { rows, ...rest } = found(console, name);
    const last = Number(/ to (\d+)$/.exec(rows ?? '')?.[1]);
    expect(rest, console).toEqual({ integrity: 'ok', wrong: '0', total: `${last} to ${last}`, mode: name });
    expect(rows).toBe(`${last} from 1 to ${last}`);
    expect(last).toBeGreaterThanOrEqual(promised[name]);
    expect(last).toBeGreaterThanOrEqual(promisedByLag[name]);
    expect(promised[name]).toBeGreaterThan(healed[name]);
  }
  // It is a disk like any other: the databases went on.
  expect(committedRows(console).wal).toBeGreaterThan(promised.wal);
});
