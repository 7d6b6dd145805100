// filter readonly: the disk can't be changed through this chain. The guard above refuses changes; this only says so.
import type { BlockDevice, DeviceLimits } from '../blockdev/block-device.ts';
import { defineFilter } from './define-filter.ts';
import { DerivedLimits } from './derived-limits.ts';
import { PassThrough } from './pass-through.ts';

export const readonlyFilter = defineFilter({
  name: 'readonly',
  summary: 'Refuses every change of the disk',
  options: {},
  examples: [{ spec: 'readonly', text: 'Clients may read, and get EPERM for anything else' }],
  create(below) {
    return new ReadonlyFilter(below);
  },
});

class ReadonlyFilter extends PassThrough {
  readonly #limits: DerivedLimits;

  constructor(below: BlockDevice) {
    super(below);
    this.#limits = new DerivedLimits(below, () => ({ readOnly: true }));
  }

  override get limits(): DeviceLimits {
    return this.#limits.current;
  }
}
