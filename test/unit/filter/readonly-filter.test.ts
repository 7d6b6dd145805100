import { expect, it } from 'vitest';
import { filtered } from '../../support/filter-chain.ts';
import { PatternDevice, patternBytes, RecorderDevice } from '../../support/test-devices.ts';

it('refuses every change, and lets everything else through', async () => {
  const spy = new RecorderDevice(new PatternDevice(65_536));
  const disk = await filtered(spy, 'readonly');
  expect(disk.limits).toEqual({ ...spy.limits, readOnly: true });
  expect(disk.limits).toBe(disk.limits);
  for (const change of [
    () => disk.write(0, Buffer.alloc(512), true),
    () => disk.write(0, Buffer.alloc(0), true),
    () => disk.trim(0, 512, false),
    () => disk.writeZeroes(0, 512, false, true),
  ]) {
    expect(change).toThrow(expect.objectContaining({ name: 'BlockError', code: 'EPERM' }));
  }
  const target = Buffer.alloc(16);
  await disk.read(512, target);
  await disk.flush();
  await disk.cache(0, 512);
  await disk.extents(0, 512);
  expect(target).toEqual(patternBytes(512, 16));
  expect(spy.lines()).toEqual(['read 512+16', 'flush', 'cache 0+512', 'extents 0+512']);
});

it('works wherever it stands in the chain', async () => {
  const spy = new RecorderDevice(new PatternDevice(65_536));
  for (const specs of [
    ['readonly', 'align', 'stats'],
    ['align', 'stats', 'readonly'],
    ['readonly', 'readonly'],
  ]) {
    const disk = await filtered(spy, ...specs);
    expect(() => disk.write(0, Buffer.alloc(1), false)).toThrow(expect.objectContaining({ code: 'EPERM' }));
  }
  expect(spy.calls).toEqual([]);
});
