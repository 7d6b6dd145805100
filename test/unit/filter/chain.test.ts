import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../../src/base/assert.ts';
import { BlockError, OperationError, UsageError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { MaybePromise } from '../../../src/base/maybe.ts';
import type { BlockDevice, DeviceLimits } from '../../../src/blockdev/block-device.ts';
import { buildChain, type ChainLink } from '../../../src/filter/chain.ts';
import { PassThrough } from '../../../src/filter/pass-through.ts';
import { captureLog } from '../../support/capture-log.ts';
import {
  FaultDevice,
  HeldDevice,
  isPending,
  PatternDevice,
  patternBytes,
  RecorderDevice,
  SparseDevice,
  settled,
} from '../../support/test-devices.ts';

const SIZE = 65_536;
const context = { logger: silentLogger, exportName: 'disk' };

/** Notes in `events` when it is called and closed, before and after the layers below. */
class Tracer extends PassThrough {
  readonly label: string;
  readonly events: string[];

  constructor(below: BlockDevice, label: string, events: string[]) {
    super(below);
    this.label = label;
    this.events = events;
  }

  override read(offset: number, target: Buffer): MaybePromise<void> {
    this.events.push(`${this.label} read`);
    return super.read(offset, target);
  }

  override async close(): Promise<void> {
    this.events.push(`${this.label} closing`);
    await super.close();
    this.events.push(`${this.label} closed`);
  }
}

function tracer(label: string, events: string[]): ChainLink {
  return {
    name: label,
    wrap(below) {
      events.push(`${label} built`);
      return new Tracer(below, label, events);
    },
  };
}

function link(name: string, wrap: ChainLink['wrap']): ChainLink {
  return { name, wrap };
}

function failingLink(name: string, error: unknown): ChainLink {
  return link(name, () => {
    throw error;
  });
}

describe('building', () => {
  it('puts the links over the disk, the first one outermost', async () => {
    const events: string[] = [];
    const chain = await buildChain(
      new SparseDevice(SIZE),
      ['outer', 'middle', 'inner'].map((label) => tracer(label, events)),
      context,
    );
    expect(events.splice(0)).toEqual(['inner built', 'middle built', 'outer built']);
    await chain.read(0, Buffer.alloc(1));
    expect(events).toEqual(['outer read', 'middle read', 'inner read']);
  });

  it('waits for links that take time, one after the other', async () => {
    const events: string[] = [];
    const slow = (label: string): ChainLink =>
      link(label, async (below) => {
        events.push(`${label} begins`);
        await settled();
        events.push(`${label} ends`);
        return new PassThrough(below);
      });
    await buildChain(new SparseDevice(SIZE), [slow('outer'), slow('inner')], context);
    expect(events).toEqual(['inner begins', 'inner ends', 'outer begins', 'outer ends']);
  });

  it('of no links is the disk under one guard', async () => {
    const disk = new RecorderDevice(new PatternDevice(SIZE));
    const chain = await buildChain(disk, [], context);
    const target = Buffer.alloc(64);
    expect(chain.read(512, target)).toBeUndefined();
    expect(target).toEqual(patternBytes(512, 64));
    expect(() => chain.read(SIZE, target)).toThrow(BlockError);
    await chain.close();
    expect(disk.lines()).toEqual(['read 512+64']);
    expect(disk.closes).toBe(1);
  });

  it('gives each link what the link below it shows', async () => {
    const seen: number[] = [];
    const halve = link('halve', (below) => {
      seen.push(below.sizeBytes);
      return new (class extends PassThrough {
        override get sizeBytes(): number {
          return this.below.sizeBytes / 2;
        }
      })(below);
    });
    const chain = await buildChain(new SparseDevice(SIZE), [halve, halve, halve], context);
    expect(seen).toEqual([SIZE, SIZE / 2, SIZE / 4]);
    expect(chain.sizeBytes).toBe(SIZE / 8);
  });

  it('puts no second guard over a link that had nothing to do', async () => {
    const seen: BlockDevice[] = [];
    const idle = link('idle', (below) => {
      seen.push(below);
      return below;
    });
    const chain = await buildChain(new SparseDevice(SIZE), [idle, idle], context);
    expect(seen).toEqual([chain, chain]);
    await chain.close();
  });

  it('calls wrap as a method of its link', async () => {
    const own = {
      name: 'own',
      made: 0,
      wrap(below: BlockDevice) {
        this.made += 1;
        return below;
      },
    };
    await buildChain(new SparseDevice(SIZE), [own], context);
    expect(own.made).toBe(1);
  });

  it('leaves the list of links as it was, to be used for the next export', async () => {
    const links = Object.freeze([tracer('a', []), tracer('b', [])]);
    await buildChain(new SparseDevice(SIZE), links, context);
    await buildChain(new SparseDevice(SIZE), links, context);
    expect(links.map(({ name }) => name)).toEqual(['a', 'b']);
  });
});

describe('guards', () => {
  class Shifted extends PassThrough {
    override read(offset: number, target: Buffer): MaybePromise<void> {
      return super.read(offset + SIZE, target);
    }
    override write(offset: number, data: Buffer, fua: boolean): MaybePromise<void> {
      return super.write(offset + 1, data, fua);
    }
    override trim(offset: number, length: number): MaybePromise<void> {
      return super.writeZeroes(offset, length * 3, false, true);
    }
  }

  it('stand between the links: a filter that leaves the disk below is stopped', async () => {
    const disk = new RecorderDevice(new SparseDevice(SIZE, { minBlockBytes: 512 }));
    const chain = await buildChain(disk, [link('bad', (below) => new Shifted(below))], context);
    expect(() => chain.read(0, Buffer.alloc(512))).toThrow(expect.objectContaining({ code: 'EINVAL' }));
    expect(() => chain.write(0, Buffer.alloc(512), false)).toThrow(/multiples of 512/);
    expect(() => chain.trim(SIZE / 2, SIZE / 2, false)).toThrow(expect.objectContaining({ code: 'ENOSPC' }));
    expect(disk.calls).toEqual([]);
  });

  it('stand on top: a filter sees only calls that its own limits allow', async () => {
    const events: string[] = [];
    const strict: DeviceLimits = {
      readOnly: false,
      minBlockBytes: 4096,
      preferredBlockBytes: 4096,
      maxRequestBytes: 8192,
      fastZero: 'never',
      cheapExtents: false,
    };
    const picky = link('picky', (below) => {
      const device = new Tracer(below, 'picky', events);
      Object.defineProperty(device, 'limits', { value: strict });
      return device;
    });
    const chain = await buildChain(new SparseDevice(SIZE), [picky], context);
    expect(() => chain.read(512, Buffer.alloc(4096))).toThrow(/multiples of 4096/);
    expect(() => chain.read(0, Buffer.alloc(12_288))).toThrow(/at most 8192/);
    expect(() => chain.read(SIZE, Buffer.alloc(4096))).toThrow(/past the end/);
    expect(events).toEqual([]);
    await chain.read(4096, Buffer.alloc(4096));
    expect(events).toEqual(['picky read']);
  });

  it('keep a link that says readOnly from being written through', async () => {
    const disk = new RecorderDevice(new SparseDevice(SIZE));
    const frozen = link('frozen', (below) => {
      const device = new PassThrough(below);
      Object.defineProperty(device, 'limits', { value: { ...below.limits, readOnly: true } });
      return device;
    });
    const chain = await buildChain(disk, [frozen], context);
    for (const change of [
      () => chain.write(0, Buffer.alloc(512), false),
      () => chain.trim(0, 512, false),
      () => chain.writeZeroes(0, 512, false, true),
    ]) {
      expect(change).toThrow(expect.objectContaining({ code: 'EPERM' }));
    }
    await chain.read(0, Buffer.alloc(512));
    expect(disk.lines()).toEqual(['read 0+512']);
  });

  it('turn what a link throws into a BlockError and name the link in the log', async () => {
    const log = captureLog();
    class Buggy extends PassThrough {
      override flush(): MaybePromise<void> {
        throw new TypeError('undefined is not a function');
      }
    }
    const chain = await buildChain(
      new SparseDevice(SIZE),
      [tracer('above', []), link('buggy', (below) => new Buggy(below)), tracer('beneath', [])],
      { ...context, logger: log.logger },
    );
    expect(() => chain.flush()).toThrow(expect.objectContaining({ name: 'BlockError', code: 'EIO' }));
    expect(log.errors()).toEqual(['flush failed in buggy: undefined is not a function']);
    expect(log.lines()[0]).toMatchObject({ link: 'buggy', operation: 'flush', code: 'EIO' });
  });

  it('keep an answer at once synchronous through many links', async () => {
    const links = Array.from({ length: 50 }, (_, index) => tracer(`link${index}`, []));
    const chain = await buildChain(new PatternDevice(SIZE), links, context);
    const target = Buffer.alloc(512);
    expect(chain.read(1024, target)).toBeUndefined();
    expect(target).toEqual(patternBytes(1024, 512));
    expect(chain.write(0, target, false)).toBeUndefined();
    expect(chain.extents(0, 512)).not.toBeInstanceOf(Promise);
  });

  it('hand an error thrown at once to the caller at once, and a late one late', async () => {
    const fault = new FaultDevice(new SparseDevice(SIZE));
    const chain = await buildChain(fault, [tracer('a', []), tracer('b', [])], context);
    fault.fail({ times: 1 });
    expect(() => chain.flush()).toThrow('injected fault');
    fault.fail({ times: 1, rejects: true });
    await expect(chain.flush()).rejects.toThrow('injected fault');
    expect(chain.flush()).toBeUndefined();
  });

  it('leave the names of links in stack traces', async () => {
    const fault = new FaultDevice(new SparseDevice(SIZE));
    fault.fail();
    const chain = await buildChain(fault, [tracer('a', [])], context);
    const error = await Promise.resolve()
      .then(() => chain.read(0, Buffer.alloc(1)))
      .catch((caught: unknown) => caught);
    const frames = (error as Error).stack ?? '';
    for (const frame of ['FaultDevice.read', 'Guard.read', 'Tracer.read']) expect(frames).toContain(frame);
  });
});

describe('many calls at once', () => {
  it('are answered each on its own, in whatever order the disk ends them', async () => {
    const disk = new PatternDevice(SIZE);
    const held = new HeldDevice(disk);
    const chain = await buildChain(held, [tracer('a', []), tracer('b', [])], context);
    const targets = [0, 1, 2, 3].map(() => Buffer.alloc(512));
    const answers = targets.map((target, index) => chain.read(index * 512, target));
    for (const [release, done] of [
      [2, 2],
      [0, 0],
      [1, 3],
      [0, 1],
    ] as const) {
      await held.waiting[release]?.release();
      expect(await isPending(answers[done]!)).toBe(false);
      expect(targets[done]).toEqual(patternBytes(done * 512, 512));
    }
    await chain.close();
  });
});

describe('a link that fails to build', () => {
  it('closes what was built, outermost first, down to the disk', async () => {
    const events: string[] = [];
    const disk = new SparseDevice(SIZE);
    disk.close = async () => void events.push('disk closed');
    const links = [
      tracer('never', events),
      failingLink('broken', new Error('no')),
      tracer('second', events),
      tracer('first', events),
    ];
    await expect(buildChain(disk, links, context)).rejects.toThrow('filter broken: no');
    expect(events).toEqual([
      'first built',
      'second built',
      'second closing',
      'first closing',
      'disk closed',
      'first closed',
      'second closed',
    ]);
  });

  it('closes the disk when the very first link fails', async () => {
    const disk = new SparseDevice(SIZE);
    await expect(buildChain(disk, [failingLink('only', new Error('no'))], context)).rejects.toThrow('only');
    expect(disk.closes).toBe(1);
  });

  it('is named when it rejects, too', async () => {
    const late = link('late', () => Promise.reject(new Error('gone')));
    await expect(buildChain(new SparseDevice(SIZE), [late], context)).rejects.toThrow('filter late: gone');
  });

  it('keeps a UsageError one: the user gave a wrong option', async () => {
    const cause = new UsageError('offset is beyond the end');
    const failed = buildChain(new SparseDevice(SIZE), [failingLink('offset', cause)], context);
    await expect(failed).rejects.toBeInstanceOf(UsageError);
    await expect(failed).rejects.toMatchObject({ message: 'filter offset: offset is beyond the end', cause });
  });

  it('keeps the hint of an OperationError', async () => {
    const cause = new OperationError('no such directory', { hint: 'make it' });
    await expect(
      buildChain(new SparseDevice(SIZE), [failingLink('log', cause)], context),
    ).rejects.toMatchObject({
      name: 'OperationError',
      message: 'filter log: no such directory',
      hint: 'make it',
      cause,
    });
  });

  it('makes anything else an OperationError without a hint', async () => {
    for (const thrown of [new BlockError('EIO', 'unreadable'), 'unreadable']) {
      const failed = buildChain(new SparseDevice(SIZE), [failingLink('x', thrown)], context);
      await expect(failed).rejects.toBeInstanceOf(OperationError);
      await expect(failed).rejects.toMatchObject({ message: 'filter x: unreadable', hint: undefined });
    }
  });

  it('lets an AssertionError through, but closes first', async () => {
    const disk = new SparseDevice(SIZE);
    const error = new AssertionError('wrong program');
    await expect(buildChain(disk, [failingLink('x', error)], context)).rejects.toBe(error);
    expect(disk.closes).toBe(1);
  });

  it('is told even when closing fails as well; that goes to the log', async () => {
    const log = captureLog();
    const disk = new SparseDevice(SIZE);
    disk.close = () => Promise.reject(new BlockError('EIO', 'close failed'));
    const failed = buildChain(disk, [failingLink('x', new Error('no'))], { ...context, logger: log.logger });
    await expect(failed).rejects.toThrow('filter x: no');
    expect(log.errors()).toEqual(['closing an unfinished chain failed']);
  });

  it('waits for what a finished link still has in flight before it closes the disk', async () => {
    const held = new HeldDevice(new SparseDevice(SIZE));
    let closed = false;
    held.close = async () => {
      closed = true;
    };
    const busy = link('busy', (below) => {
      void below.read(0, Buffer.alloc(512));
      return new PassThrough(below);
    });
    const failed = expect(
      buildChain(held, [failingLink('x', new Error('no')), busy], context),
    ).rejects.toThrow();
    await settled();
    expect(closed).toBe(false);
    await held.releaseAll();
    await failed;
    expect(closed).toBe(true);
  });
});

describe('closing', () => {
  it('goes from the outermost link down to the disk, once', async () => {
    const events: string[] = [];
    const disk = new SparseDevice(SIZE);
    disk.close = async () => void events.push('disk closed');
    const chain = await buildChain(disk, [tracer('outer', events), tracer('inner', events)], context);
    events.length = 0;
    const closing = chain.close();
    expect(chain.close()).toBe(closing);
    await closing;
    await chain.close();
    expect(events).toEqual(['outer closing', 'inner closing', 'disk closed', 'inner closed', 'outer closed']);
  });

  it('refuses new calls at once, and finishes those in flight with the links still open', async () => {
    const held = new HeldDevice(new PatternDevice(SIZE));
    /** Reads twice below for each read above: the second only after the first was answered. */
    class Twice extends PassThrough {
      override async read(offset: number, target: Buffer): Promise<void> {
        await super.read(offset, target);
        await super.read(offset, target);
      }
    }
    const chain = await buildChain(
      held,
      [link('twice', (below) => new Twice(below)), tracer('a', [])],
      context,
    );
    const target = Buffer.alloc(8);
    const answer = chain.read(1024, target);
    const closing = chain.close();
    expect(() => chain.read(0, target)).toThrow(expect.objectContaining({ code: 'ESHUTDOWN' }));
    await held.waiting[0]?.release();
    expect(held.lines()).toEqual(['read 1024+8']);
    expect(await isPending(closing)).toBe(true);
    await held.releaseAll();
    await answer;
    await closing;
    expect(target).toEqual(patternBytes(1024, 8));
  });

  it('lets a link use those below while it closes', async () => {
    const spy = new RecorderDevice(new SparseDevice(SIZE));
    class Trailer extends PassThrough {
      override async close(): Promise<void> {
        await this.below.write(0, Buffer.from('bye'), true);
        await this.below.flush();
        await super.close();
      }
    }
    const chain = await buildChain(
      spy,
      [link('trailer', (below) => new Trailer(below)), tracer('a', [])],
      context,
    );
    await chain.close();
    expect(spy.lines()).toEqual(['write 0+3 fua', 'flush']);
    expect(spy.closes).toBe(1);
  });

  it('reaches the disk when a link forgets to pass it on, or fails', async () => {
    for (const close of [async () => {}, () => Promise.reject(new BlockError('EIO', 'could not'))]) {
      const events: string[] = [];
      const disk = new SparseDevice(SIZE);
      const bad = link('bad', (below) => {
        const device = new PassThrough(below);
        device.close = close;
        return device;
      });
      const chain = await buildChain(disk, [tracer('outer', events), bad, tracer('inner', events)], context);
      await chain.close().catch((error: unknown) => expect(error).toMatchObject({ message: 'could not' }));
      expect(disk.closes).toBe(1);
      expect(events).toContain('inner closed');
    }
  });

  it('tells the disk’s error through all links, once', async () => {
    const log = captureLog();
    const disk = new SparseDevice(SIZE);
    disk.close = () => Promise.reject(Object.assign(new Error('fsync failed'), { code: 'EIO' }));
    const chain = await buildChain(disk, [tracer('a', []), tracer('b', [])], {
      ...context,
      logger: log.logger,
    });
    await expect(chain.close()).rejects.toMatchObject({ name: 'BlockError', code: 'EIO' });
    expect(log.errors()).toEqual(['close failed in disk: fsync failed']);
  });
});
