// Small files on a file system that loses what was not synced: after a power cut at any moment each is whole, and as new
// as the last answer said.
import { describe, expect, it } from 'vitest';
import {
  makeFolderDurably,
  readOrCreateFile,
  replaceFile,
  systemFiles,
} from '../../../src/base/small-files.ts';
import { seededRandom } from '../../../src/filter/random.ts';
import { Clock, Host } from '../../sim/clock.ts';
import { SimFiles } from '../../sim/sim-files.ts';
import { tempDir } from '../../support/temp-dir.ts';

type Live = (files: SimFiles) => Promise<void>;

/** A machine on which each process is killed after `ms`, and which then loses power, and what its files are. */
async function lived(seed: number, ms: number, ...lives: readonly Live[]): Promise<SimFiles> {
  const random = seededRandom(seed);
  const clock = new Clock(random);
  const files = new SimFiles(clock, random);
  // Not within the reaction of a promise: there the reactions of others could not run.
  await new Promise<void>((resolve) => {
    setImmediate(() => {
      for (const live of lives) {
        const host = new Host('machine');
        clock.as(host, () => void live(files).catch(() => undefined));
        clock.runUntil(clock.nowMs + ms);
        host.isAlive = false;
      }
      files.powerCut();
      resolve();
    });
  });
  return files;
}

describe('a small file', () => {
  it('that was answered for is there after a power cut', async () => {
    for (let seed = 1; seed <= 60; seed += 1) {
      let answered: string | undefined;
      const files = await lived(seed, seed / 2, async (calls) => {
        answered = await readOrCreateFile(calls, '/var/lib/agent/id', () => `id of ${seed}`);
      });
      const found = files.peek('/var/lib/agent/id');
      if (answered !== undefined || found !== undefined) expect(found).toBe(`id of ${seed}`);
    }
  });

  it('that was answered for is there after a power cut, though others were killed before they had made it', async () => {
    let answers = 0;
    for (let seed = 1; seed <= 100; seed += 1) {
      let answered: string | undefined;
      const create = (): Live => async (calls) => {
        answered = await readOrCreateFile(calls, '/var/lib/agent/id', () => 'the id');
      };
      const files = await lived(seed, 1 + seed / 10, create(), create(), create());
      if (answered === undefined) continue;
      answers += 1;
      expect(files.peek('/var/lib/agent/id'), `seed ${seed}`).toBe('the id');
    }
    expect(answers).toBeGreaterThan(20);
  });

  it('is replaced as a whole, and never goes back behind the last answer', async () => {
    for (let seed = 1; seed <= 60; seed += 1) {
      let answered = 0;
      const files = await lived(seed, seed / 2, async (calls) => {
        await makeFolderDurably(calls, '/state/replicas');
        for (let version = 1; ; version += 1) {
          await replaceFile(calls, '/state/replicas/a', `version ${version}`);
          answered = version;
        }
      });
      const found = files.peek('/state/replicas/a');
      const allowed = [`version ${answered}`, `version ${answered + 1}`];
      expect(answered === 0 ? [undefined, ...allowed] : allowed).toContain(found);
    }
  });

  it('is what the system says', async () => {
    const dir = tempDir();
    const file = dir.file('a/b/c');
    expect(await readOrCreateFile(systemFiles, file, () => 'one')).toBe('one');
    expect(await readOrCreateFile(systemFiles, file, () => 'two')).toBe('one');
    await replaceFile(systemFiles, file, 'three');
    expect(await systemFiles.read(file)).toBe('three');
    dir.remove();
  });
});
