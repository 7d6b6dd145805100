// How `--filter` and `--hub` become a chain, and how a volume is opened and closed.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { BlockDevice } from '../../../src/blockdev/block-device.ts';
import { openVolume, planLinks, type VolumeOptions } from '../../../src/cli/run/build-volume.ts';
import { filterList } from '../../../src/cli/run/filters.ts';
import { PassThrough } from '../../../src/filter/pass-through.ts';
import { describeFilters } from '../../../src/filter/registry.ts';

const names = async (specs: string[], hasHub: boolean) =>
  (await planLinks(specs, hasHub)).map((link) => (link === 'mirror' ? link : link.name));

describe('planLinks', () => {
  it('puts the mirror innermost unless it is placed', async () => {
    expect(await names([], false)).toEqual([]);
    expect(await names([], true)).toEqual(['mirror']);
    expect(await names(['log', 'delay,read=1ms'], true)).toEqual(['log', 'delay', 'mirror']);
    expect(await names(['log', 'repagent', 'delay,read=1ms'], true)).toEqual(['log', 'mirror', 'delay']);
  });

  it.each([
    [['nosuch'], true, /unknown filter "nosuch"/],
    [['repagent'], false, /needs a hub/],
    [['repagent', 'repagent'], true, /given twice/],
    [['repagent,x'], true, /takes no options/],
  ])('refuses %j', async (specs, hasHub, message) => {
    await expect(planLinks(specs, hasHub)).rejects.toThrow(UsageError);
    await expect(planLinks(specs, hasHub)).rejects.toThrow(message);
  });
});

describe('openVolume', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'repagent-vol-'));
    writeFileSync(join(dir, 'd.img'), Buffer.alloc(8192, 1));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  /** A mirror that only notes what reaches it. */
  class Mirror extends PassThrough {
    readonly seen: number[];

    constructor(below: BlockDevice, seen: number[]) {
      super(below);
      this.seen = seen;
    }

    override get limits(): BlockDevice['limits'] {
      return { ...super.limits, minBlockBytes: 512 };
    }

    override write(offset: number, data: Buffer, fua: boolean): ReturnType<BlockDevice['write']> {
      this.seen.push(offset, data.length);
      return super.write(offset, data, fua);
    }
  }

  const options = async (
    filters: string[],
    protect: (name: string, below: BlockDevice) => BlockDevice,
    hasHub = true,
  ) =>
    ({
      image: { name: 'd', source: join(dir, 'd.img') },
      format: 'raw',
      readOnly: false,
      createSizeBytes: undefined,
      upstreamConnections: undefined,
      plan: await planLinks(filters, hasHub),
      replication: { protect, dirtyContext: () => undefined },
      logger: silentLogger,
    }) satisfies VolumeOptions;

  it('gives the mirror whole sectors', async () => {
    const seen: number[] = [];
    const volume = await openVolume(
      await options(['stats,quiet'], (_name, below) => new Mirror(below, seen)),
    );
    await volume.device.write(700, Buffer.alloc(100, 2), false);
    await volume.device.close();
    expect(seen).toEqual([512, 512]);
    expect(volume.stats()).toMatchObject({ stats: { write: { calls: 1 } } });
  });

  it('names the volume to the mirror, and only with a hub', async () => {
    const asked: string[] = [];
    const protect = (name: string, below: BlockDevice): BlockDevice => {
      asked.push(name);
      return below;
    };
    await (await openVolume(await options([], protect, false))).device.close();
    expect(asked).toEqual([]);
    await (await openVolume(await options([], protect))).device.close();
    expect(asked).toEqual(['d']);
  });

  it('closes the image when a link fails', async () => {
    let below: BlockDevice | undefined;
    const failing = await options([], (_name, device) => {
      below = device;
      throw new OperationError('no');
    });
    await expect(openVolume(failing)).rejects.toThrow('repagent: no');
    expect(() => below!.read(0, Buffer.alloc(512))).toThrow();
  });
});

describe('filterList', () => {
  it('has every filter and option, within the columns', () => {
    const text = filterList(describeFilters(), 80);
    for (const filter of describeFilters()) {
      expect(text).toContain(`\n${filter.name}\n`.slice(filter.name === 'align' ? 1 : 0));
      for (const option of filter.options) expect(text).toContain(`    ${option.name} `);
    }
    expect(text).toContain('\nrepagent\n');
    const long = text.split('\n').filter((line) => line.length > 80);
    expect(long.filter((line) => line.trim().includes(' '))).toEqual([]);
  });
});
