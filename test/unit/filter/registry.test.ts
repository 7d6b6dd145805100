import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { AssertionError } from '../../../src/base/assert.ts';
import { UsageError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { buildChain } from '../../../src/filter/chain.ts';
import { createFilterContext } from '../../../src/filter/context.ts';
import { defineFilter } from '../../../src/filter/define-filter.ts';
import { PassThrough } from '../../../src/filter/pass-through.ts';
import {
  describeFilters,
  FilterRegistry,
  filterLink,
  parseFilterSpec,
  registerFilter,
} from '../../../src/filter/registry.ts';
import { captureLog } from '../../support/capture-log.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';
import { SparseDevice } from '../../support/test-devices.ts';

const NAMES = [
  ...['align', 'cow', 'delay', 'error', 'evil', 'log', 'offset', 'pause'],
  ...['protect', 'rate', 'readonly', 'retry', 'stats'],
];

describe('built-in filters', () => {
  it('are described, sorted by name', () => {
    expect(describeFilters().map(({ name }) => name)).toEqual(NAMES);
  });

  for (const filter of describeFilters()) {
    it(`${filter.name} has texts in one style, and an example`, () => {
      for (const text of [filter.summary, ...filter.examples.map((example) => example.text)]) {
        expect(text).toMatch(/^[A-Z\d].*[^.]$/);
      }
      for (const option of filter.options) expect(option.description).toMatch(/^[a-z\d`].*[^.]$/);
      expect(filter.examples).not.toEqual([]);
    });

    it(`${filter.name}: each example is a spec of it`, async () => {
      for (const { spec } of filter.examples) {
        expect((await parseFilterSpec(spec)).name).toBe(filter.name);
      }
    });
  }
});

describe('parseFilterSpec', () => {
  it('finds the filter and checks its options', async () => {
    const spec = await parseFilterSpec('offset,offset=1M,size=64K');
    expect(spec.name).toBe('offset');
    expect(spec.options).toEqual({ offset: 2 ** 20, size: 65_536 });
  });

  for (const [text, message] of [
    [
      'compress',
      `unknown filter "compress": there are ${NAMES.join(', ')}, or a path such as ./my-filter.js`,
    ],
    ['dely,read=5ms', 'did you mean delay?'],
    ['delay,raed=5ms', 'did you mean read?'],
    ['delay,read=fast', 'filter delay: option read: "fast" is not a duration'],
    ['error,rate=2', 'filter error: option rate: 2 is out of range; allowed is 0 to 1'],
    ['error,error=EWHAT', 'use one of EIO, ENOSPC, EPERM'],
    ['offset,offset=100', '100 is not a multiple of 512 bytes'],
    ['pause,x', 'it takes none'],
    ['readonly,x', 'it takes active'],
    ['', 'must start with a name'],
    ['__proto__', 'unknown filter "__proto__"'],
  ] as const) {
    it(`refuses ${JSON.stringify(text)} and says what is allowed`, async () => {
      const refused = parseFilterSpec(text);
      await expect(refused).rejects.toBeInstanceOf(UsageError);
      await expect(refused).rejects.toThrow(message);
    });
  }
});

describe('a filter of one’s own', () => {
  let dir: TempDir;
  beforeEach(() => {
    dir = tempDir();
  });
  afterEach(() => {
    dir.remove();
  });

  function write(name: string, text: string): string {
    fs.writeFileSync(dir.file(name), text);
    return dir.file(name);
  }

  const SOUND = `export const filter = {
    name: 'quiet', summary: 'Does nothing', options: { level: { kind: 'integer', default: 3, description: 'how much' } },
    create(below, options) { globalThis.lastLevel = options.level; return below; },
  };`;

  it('is loaded from an absolute path, with its options', async () => {
    const spec = await parseFilterSpec(`${write('quiet.mjs', SOUND)},level=7`);
    expect(spec.name).toBe('quiet');
    expect(spec.options).toEqual({ level: 7 });
    expect(describeFilters().map(({ name }) => name)).not.toContain('quiet');
  });

  it('is loaded from a path relative to the working directory', async () => {
    const relative = path.relative(process.cwd(), write('quiet.mjs', SOUND));
    expect(relative.startsWith('../')).toBe(true);
    expect((await parseFilterSpec(relative)).name).toBe('quiet');
    await expect(parseFilterSpec('./no-such-filter.mjs')).rejects.toThrow(
      /^filter \.\/no-such-filter\.mjs can't be loaded: /,
    );
  });

  it('may have a comma in its path', async () => {
    const file = write('a,b.mjs', SOUND);
    expect((await parseFilterSpec(file.replaceAll(',', ',,'))).name).toBe('quiet');
  });

  it('is checked as strictly as a built-in one', async () => {
    const file = write('quiet.mjs', SOUND);
    await expect(parseFilterSpec(`${file},levle=1`)).rejects.toThrow('did you mean level?');
    await expect(parseFilterSpec(`${file},level=x`)).rejects.toThrow('"x" is not a whole number');
  });

  it('that throws while it loads is a UsageError with the reason', async () => {
    const file = write('bad.mjs', `throw new Error('not today');`);
    await expect(parseFilterSpec(file)).rejects.toThrow(`filter ${file} can't be loaded: not today`);
    await expect(parseFilterSpec(file)).rejects.not.toThrow('TypeScript');
    await expect(parseFilterSpec('./no-such.ts')).rejects.toThrow(/\(.*compile TypeScript first\)$/);
  });

  it('that exports something else is told what to export', async () => {
    const nothing = write('nothing.mjs', '');
    await expect(parseFilterSpec(nothing)).rejects.toThrow(
      'must export `filter`, made by defineFilter; it exports nothing',
    );
    const wrong = write('wrong.mjs', 'export const fliter = {}; export default 1;');
    await expect(parseFilterSpec(wrong)).rejects.toThrow(/it exports .*fliter/);
    const broken = write('broken.mjs', 'export const filter = { name: "x", summary: "y", options: {} };');
    await expect(parseFilterSpec(broken)).rejects.toThrow('filter x has no create function');
    await expect(parseFilterSpec(broken)).rejects.toBeInstanceOf(UsageError);
  });

  it('can be registered by name instead', async () => {
    const filter = defineFilter({ name: 'mine', summary: 'Mine', options: {}, create: (below) => below });
    registerFilter(filter);
    registerFilter(filter);
    expect((await parseFilterSpec('mine')).definition).toBe(filter);
    expect(describeFilters().map(({ name }) => name)).toContain('mine');
    expect(() => registerFilter({ ...filter })).toThrow('a filter named mine exists already');
    expect(() => registerFilter({ ...filter, name: 'log' })).toThrow(AssertionError);
  });
});

describe('FilterRegistry', () => {
  it('knows only what it was given', async () => {
    const registry = new FilterRegistry();
    expect(registry.describe()).toEqual([]);
    registry.register(defineFilter({ name: 'only', summary: 'One', options: {}, create: (below) => below }));
    await expect(registry.parse('log')).rejects.toThrow('there are only, or a path');
  });

  it('refuses a definition that is wrong', () => {
    const filter = defineFilter({ name: 'fine', summary: 'Fine', options: {}, create: (below) => below });
    expect(() => new FilterRegistry([{ ...filter, name: 'Not Fine' }])).toThrow(AssertionError);
  });

  it('describes options with their types and defaults', () => {
    const registry = new FilterRegistry([
      defineFilter({
        name: 'probe',
        summary: 'A probe',
        options: {
          size: { kind: 'size', required: true, multipleOf: 512, description: 'how much' },
          wait: { kind: 'duration', default: 1500, description: 'how long' },
          file: { kind: 'string', description: 'where' },
        },
        examples: [{ spec: 'probe,size=1K', text: 'A small probe' }],
        create: (below) => below,
      }),
    ]);
    expect(registry.describe()).toEqual([
      {
        name: 'probe',
        summary: 'A probe',
        options: [
          { name: 'size', type: 'size, multiple of 512', default: 'required', description: 'how much' },
          { name: 'wait', type: 'duration', default: '1500ms', description: 'how long' },
          { name: 'file', type: 'string', default: '', description: 'where' },
        ],
        examples: [{ spec: 'probe,size=1K', text: 'A small probe' }],
      },
    ]);
  });
});

describe('filterLink', () => {
  class Counting extends PassThrough {
    calls = 0;
    override flush() {
      this.calls += 1;
      return super.flush();
    }
    status() {
      return { calls: this.calls };
    }
  }
  const counting = defineFilter({
    name: 'counting',
    summary: 'Counts flushes',
    options: { label: { kind: 'string', default: 'none', description: 'shown in the log' } },
    async create(below, options, { logger, exportName, publish }) {
      logger.info({ exportName }, options.label);
      publish('extra', () => ({ label: options.label }));
      return new Counting(below);
    },
  });
  const registry = new FilterRegistry([counting]);

  it('gives create its options, the export’s name and a logger that names the filter', async () => {
    const log = captureLog();
    const context = createFilterContext({ logger: log.logger, exportName: 'disk7' });
    const link = filterLink(await registry.parse('counting,label=hello'), context);
    expect(link.name).toBe('counting');
    await buildChain(new SparseDevice(512), [link], context);
    expect(log.lines()).toEqual([
      expect.objectContaining({ filter: 'counting', exportName: 'disk7', msg: 'hello' }),
    ]);
  });

  it('shows the status of filters that have one, and what they publish', async () => {
    const context = createFilterContext({ logger: silentLogger, exportName: 'disk' });
    const links = [
      filterLink(await registry.parse('counting,label=outer'), context),
      filterLink(await parseFilterSpec('pause'), context),
      filterLink(await registry.parse('counting,label=inner'), context),
    ];
    expect(context.status()).toEqual({});
    const chain = await buildChain(new SparseDevice(512), links, context);
    await chain.flush();
    await chain.flush();
    expect(context.status()).toEqual({
      counting: { calls: 2 },
      extra: { label: 'inner' },
      'counting#2': { calls: 2 },
      'extra#2': { label: 'outer' },
    });
  });

  it('names the filter whose options don’t fit the disk', async () => {
    const context = createFilterContext({ logger: silentLogger, exportName: 'disk' });
    const disk = new SparseDevice(65_536);
    const link = filterLink(await parseFilterSpec('offset,offset=1M'), context);
    const failed = buildChain(disk, [link], context);
    await expect(failed).rejects.toBeInstanceOf(UsageError);
    await expect(failed).rejects.toThrow('filter offset: offset 1048576 is not inside the disk');
    expect(disk.closes).toBe(1);
  });
});
