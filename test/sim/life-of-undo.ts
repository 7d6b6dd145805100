// What has to do with undo logs in a life: whether and how they are kept, and what keeps them from being written.
import { seededRandom } from '../../src/filter/random.ts';
import type { Life } from './life.ts';
import type { UndoKeeping } from './recover-rule.ts';
import type { World } from './world.ts';

const KIB = 1024;

/** By the seed alone: nothing else of a life without undo logs depends on it. */
export function undoOf(seed: number): UndoKeeping | undefined {
  const random = seededRandom((seed ^ 0x75_6e_64_6f) >>> 0);
  if (random() < 0.5) return undefined;
  const kind = random();
  const whenFull = random() < 0.6 ? 'hold' : 'release';
  if (kind < 0.1) return { maxBytes: 0, whenFull };
  if (kind < 0.4) return { maxBytes: Math.floor(16 + random() * 84) * KIB, whenFull };
  return { maxBytes: undefined, whenFull };
}

/** Whoever runs the hub lets its logs become as large as they must, where the replicas wait for that. */
export function makeRoom(world: World): void {
  const { hubs } = world;
  if (hubs.undo?.whenFull !== 'hold' || !hubs.undo.maxBytes) return;
  hubs.undo = { ...hubs.undo, maxBytes: undefined };
  if (!world.hub) return;
  world.stopHub();
  if (world.wrong === undefined) world.startHub();
}

/** The disk of the logs fails, mostly while one is written. */
export function undoFault(life: Life): void {
  const { files } = life.world.hubs;
  files.failCode = life.pick(['EIO', 'EIO', 'ENOSPC']);
  files.failCalls = 1 + life.int(3);
  files.failsBlocksOnly = true;
  leaveBehind(life);
}

/** There is no room for them, for a while. */
export function fullUndo(life: Life): void {
  const { files } = life.world.hubs;
  files.isFull = true;
  leaveBehind(life);
  life.world.pass(life.pick([1, 100, 3000]));
  files.isFull = false;
}

/** The replica stops being a state of its volume, where it can. */
function leaveBehind(life: Life): void {
  if (life.int(2) === 0) life.cut();
  life.guests(1 + life.int(6));
}
