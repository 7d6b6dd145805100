import { describe, expect, it } from 'vitest';
import { filter } from '../../examples/own-filter.ts';
import { silentLogger } from '../../src/base/log.ts';
import { buildChain } from '../../src/filter/chain.ts';
import { createFilterContext } from '../../src/filter/context.ts';
import { filterLink, parseFilterSpec } from '../../src/filter/registry.ts';
import { PatternDevice, patternBytes, RecorderDevice } from '../support/test-devices.ts';

const PATH = './examples/own-filter.ts';

async function serve(spec: string) {
  const context = createFilterContext({ logger: silentLogger, exportName: 'disk' });
  const spy = new RecorderDevice(new PatternDevice(2 ** 20));
  return { spy, disk: await buildChain(spy, [filterLink(await parseFilterSpec(spec), context)], context) };
}

describe('the filter of one’s own', () => {
  it('is loaded by its path, as --filter does', async () => {
    const spec = await parseFilterSpec(`${PATH},size=1K`);
    expect(spec).toMatchObject({ name: 'boot-protection', options: { size: 1024 } });
    expect(spec.definition).toBe(filter);
    await expect(parseFilterSpec(`${PATH},sise=1K`)).rejects.toThrow('did you mean size?');
    await expect(parseFilterSpec(`${PATH},size=100`)).rejects.toThrow('not a multiple of 512 bytes');
  });

  it('refuses every change of what it protects, and no other', async () => {
    const { disk, spy } = await serve(`${PATH},size=1K`);
    for (const change of [
      () => disk.write(0, Buffer.alloc(512), false),
      () => disk.write(1023, Buffer.alloc(1), false),
      () => disk.trim(512, 4096, false),
      () => disk.writeZeroes(0, 2 ** 20, false, true),
    ]) {
      expect(change).toThrow(
        expect.objectContaining({ code: 'EPERM', message: 'the first 1024 bytes of the disk are protected' }),
      );
    }
    expect(spy.calls).toEqual([]);
    await disk.write(1024, Buffer.alloc(512, 1), true);
    await disk.trim(2048, 512, false);
    await disk.writeZeroes(4096, 512, false, true);
    const target = Buffer.alloc(512);
    await disk.read(0, target);
    expect(target).toEqual(patternBytes(0, 512));
    expect(spy.lines()).toEqual([
      'write 1024+512 fua',
      'trim 2048+512',
      'writeZeroes 4096+512 mayTrim',
      'read 0+512',
    ]);
    await disk.close();
  });

  it('protects a GPT when told nothing else', async () => {
    const { disk } = await serve(PATH);
    expect(() => disk.write(33 * 512, Buffer.alloc(512), false)).toThrow('protected');
    await disk.write(34 * 512, Buffer.alloc(512), false);
  });
});
