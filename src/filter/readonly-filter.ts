// filter readonly: the disk can't be changed through this chain. The guard above refuses changes; this only says so,
// and says it from one moment to the next when it is switched on. Whoever fences a disk is told so only when no change
// is under way any more.
import { isPromise, type MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, DeviceLimits } from '../blockdev/block-device.ts';
import { InFlight } from '../blockdev/in-flight.ts';
import type { FilterStatus } from './context.ts';
import { defineFilter } from './define-filter.ts';
import { DerivedLimits } from './derived-limits.ts';
import { PassThrough } from './pass-through.ts';

export const readonlyFilter = defineFilter({
  name: 'readonly',
  summary: 'Refuses every change of the disk, or lets them pass until it is switched on',
  options: {
    active: {
      kind: 'boolean',
      default: true,
      adjustable: true,
      description: 'whether changes are refused; `repagent readonly` switches it',
    },
  },
  examples: [
    { spec: 'readonly', text: 'Clients may read, and get EPERM for anything else' },
    {
      spec: 'readonly,active=off',
      text: 'Does nothing until `repagent readonly VOLUME on` fences the disk',
    },
  ],
  create(below, { active }) {
    return new ReadonlyFilter(below, active);
  },
});

class ReadonlyFilter extends PassThrough {
  readonly #fenced: DerivedLimits;
  /** Changes that the disk has not answered yet. */
  readonly #changes = new InFlight();
  #isActive: boolean;

  constructor(below: BlockDevice, isActive: boolean) {
    super(below);
    this.#fenced = new DerivedLimits(below, () => ({ readOnly: true }));
    this.#isActive = isActive;
  }

  override get limits(): DeviceLimits {
    return this.#isActive ? this.#fenced.current : this.below.limits;
  }

  status(): FilterStatus {
    return { active: this.#isActive, changesInFlight: this.#changes.count };
  }

  /** From the call on changes are refused; resolves when those before it have ended. */
  async adjust(changes: { readonly active?: boolean }): Promise<void> {
    this.#isActive = changes.active ?? this.#isActive;
    if (this.#isActive) await this.#changes.idle();
  }

  override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
    return this.#counted(super.write(offset, data, fua));
  }

  override trim(offset: number, length: number, fua: boolean): MaybePromise<void> {
    return this.#counted(super.trim(offset, length, fua));
  }

  override writeZeroes(offset: number, length: number, fua: boolean, mayTrim: boolean): MaybePromise<void> {
    return this.#counted(super.writeZeroes(offset, length, fua, mayTrim));
  }

  override resize(sizeBytes: number): MaybePromise<void> {
    return this.#counted(super.resize(sizeBytes));
  }

  #counted(change: MaybePromise<void>): MaybePromise<void> {
    return isPromise(change) ? this.#changes.track(change) : change;
  }
}
