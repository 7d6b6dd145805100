// A filter of one's own: keeps the first bytes of a disk, its boot loader and partition table, from being changed.
//   repagent serve disk.img --filter ./own-filter.js,size=1M
// In a project of your own, import from 'repagent'.
import { AroundFilter, BlockError, type Call, defineFilter, type MaybePromise } from '../src/index.ts';

class BootProtection extends AroundFilter {
  protectedBytes = 0;

  protected override around<T>(call: Call, run: () => MaybePromise<T>): MaybePromise<T> {
    const isChange = ['write', 'trim', 'zero'].includes(call.operation);
    if (!isChange || call.offset >= this.protectedBytes) return run();
    throw new BlockError('EPERM', `the first ${this.protectedBytes} bytes of the disk are protected`);
  }
}

export const filter = defineFilter({
  name: 'boot-protection',
  summary: 'Keeps the beginning of the disk from being changed',
  options: {
    size: { kind: 'size', default: 17_408, multipleOf: 512, description: 'how many bytes are protected' },
  },
  create(below, options) {
    return Object.assign(new BootProtection(below), { protectedBytes: options.size });
  },
});
