import { expect, it } from 'vitest';
import { PassThrough } from '../../../src/filter/pass-through.ts';
import { HeldDevice, RecorderDevice, SparseDevice } from '../../support/test-devices.ts';

it('is a complete filter: everything goes to the device below, flags and buffers untouched', async () => {
  const spy = new RecorderDevice(new SparseDevice(65_536, { minBlockBytes: 512 }));
  const filter = new PassThrough(spy);
  const target = Buffer.alloc(3);
  await filter.write(512, Buffer.from('abc'), true);
  await filter.read(512, target);
  await filter.flush();
  await filter.trim(0, 10, true);
  await filter.writeZeroes(10, 20, false, true);
  await filter.cache(0, 512);
  expect(filter.extents(0, 4096)).toEqual([{ offset: 0, length: 4096, hole: false, zero: false }]);
  await filter.close();
  expect(target.toString()).toBe('abc');
  expect(filter.sizeBytes).toBe(65_536);
  expect(filter.limits).toBe(spy.limits);
  expect(spy.closes).toBe(1);
  expect(spy.lines()).toEqual([
    'write 512+3 fua',
    'read 512+3',
    'flush',
    'trim 0+10 fua',
    'writeZeroes 10+20 mayTrim',
    'cache 0+512',
    'extents 0+4096',
  ]);
});

it('hands on the promise of the device below itself, so that a layer costs nothing', () => {
  const promise = Promise.resolve();
  const disk = new HeldDevice(new SparseDevice(512));
  disk.flush = () => promise;
  expect(new PassThrough(disk).flush()).toBe(promise);
});
