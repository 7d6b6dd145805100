// The machine of the hub, or that of the agent, loses its power: its page cache is gone, and of what its disk had not
// flushed anything may be there. The two tests run side by side, each with a computer of its own. POWER_SEED=n repeats the
// writes and the chances of a run, though not its timing.
import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { seededRandom } from '../../src/filter/random.ts';
import { makeFolder } from '../support/rig.ts';
import { testSeed } from '../support/test-seed.ts';
import { cutPowerOfAgent } from './agent-power-cut.ts';
import { cutPowerOfHub } from './hub-power-cut.ts';
import { buildComputer } from './powered-host.ts';

const seed = Number(process.env.POWER_SEED ?? testSeed());

let folder: string;
let programs: string;
beforeAll(async () => {
  folder = makeFolder().path;
  programs = await buildComputer(folder);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.concurrent(`power cuts (seed ${seed})`, () => {
  it("what a hub calls durable survives its machine's power, and a resync makes the rest equal", () =>
    cutPowerOfHub(programs, seededRandom(seed)));

  it("a replica follows the disk of a machine that lost its power, and guests' flushes hold", () =>
    cutPowerOfAgent(programs, seededRandom(seed + 1)));
});
