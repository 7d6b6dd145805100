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

/** A machine that loses power after `ms`, and what its files are then. */
async function lived(seed: number, ms: number, live: (files: SimFiles) => Promise<void>): Promise<SimFiles> {
  const random = seededRandom(seed);
  const clock = new Clock(random);
  const files = new SimFiles(clock, random);
  const host = new Host('machine');
  clock.as(host, () => void live(files).catch(() => undefined));
  for (let at = 0; at < ms; at += 0.05) {
    clock.runUntil(at);
    await new Promise((resolve) => setImmediate(resolve));
  }
  host.isAlive = false;
  files.powerCut();
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
