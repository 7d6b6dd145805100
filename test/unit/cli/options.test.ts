// Option tables, config files, and how the two are put together.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { LOG_LEVELS } from '../../../src/base/log.ts';
import { parseConfig, readConfigFile } from '../../../src/cli/config-file.ts';
import { fromArguments, fromConfig, mergeOptions, type OptionTable } from '../../../src/cli/option-table.ts';
import { parseReplication } from '../../../src/cli/parse-replication.ts';
import {
  agentStateDir,
  hubStateDir,
  LOG_LEVEL_CHOICES,
  parseCount,
  parseVmName,
} from '../../../src/cli/parse-values.ts';

const TABLE = {
  image: { type: 'text', describe: '', repeatable: true, positional: 'IMAGE' },
  listen: { type: 'text', describe: '', repeatable: true },
  hub: { type: 'text', describe: '', alias: 'repagent' },
  level: { type: 'text', describe: '', choices: ['info', 'warn'] },
  'read-only': { type: 'flag', describe: '' },
} as const satisfies OptionTable;

const config = (text: string) => fromConfig(TABLE, parseConfig(text, 'vm.yaml'), 'vm.yaml');

describe('fromArguments', () => {
  it('takes what was given and nothing else', () => {
    expect(
      fromArguments(TABLE, { image: [], listen: ['a', 'b'], 'read-only': false, _: ['serve'], $0: 'x' }),
    ).toEqual({
      listen: ['a', 'b'],
      'read-only': false,
    });
  });

  it('refuses what came twice, is empty, or is no choice', () => {
    expect(() => fromArguments(TABLE, { hub: ['a', 'b'] })).toThrow('--hub was given twice');
    expect(() => fromArguments(TABLE, { listen: ['a', ''] })).toThrow('--listen has an empty value');
    expect(() => fromArguments(TABLE, { level: 'wran' })).toThrow(
      '--level: "wran" is unknown (did you mean warn?); allowed: info, warn',
    );
  });
});

describe('a config file', () => {
  it('has the names of the options, single values or lists', () => {
    expect(config('image: a.img\nlisten:\n  - 127.0.0.1:1\n  - "[::1]:2"\nhub: h\nread-only: true')).toEqual({
      image: ['a.img'],
      listen: ['127.0.0.1:1', '[::1]:2'],
      hub: 'h',
      'read-only': true,
    });
  });

  it('may use an alias, and numbers as texts', () => {
    expect(config('repagent: 17')).toEqual({ hub: '17' });
  });

  it('may be empty', () => {
    expect(config('')).toEqual({});
    expect(config('# nothing yet')).toEqual({});
  });

  it.each([
    [
      'lisen: x',
      /vm\.yaml: unknown key "lisen" \(did you mean listen\?\); allowed: image, listen, hub, level, read-only/,
    ],
    ['__proto__: x', /unknown key "__proto__"/],
    ['toString: x', /unknown key "toString"/],
    ['- a', /something else/],
    ['just text', /something else/],
    ['hub: [a, b]', /vm\.yaml: hub: expected a text, found a list/],
    ['hub: {a: b}', /found a map/],
    ['hub: true', /found true/],
    ['hub:', /hub has no value/],
    ['hub: ""', /hub has an empty value/],
    ['listen: [a, [b]]', /expected texts, found a list/],
    ['read-only: yes', /expected true or false, found "yes"/],
    ['level: loud', /"loud" is unknown; allowed: info, warn/],
    ['hub: a\nrepagent: b', /stands there twice/],
    ['hub: a\nhub: b', /vm\.yaml: .*unique.* line 2/],
    ['a: [', /vm\.yaml: .*line 1/],
  ])('%j is refused', (text, message) => {
    expect(() => config(text)).toThrow(UsageError);
    expect(() => config(text)).toThrow(message);
  });

  it('does not expand into more than it is', () => {
    const bomb = [
      'a: &a [x,x,x,x,x,x,x,x,x]',
      ...'bcdefgh'.split('').map((c, i) => `${c}: &${c} [${`*${'abcdefg'[i]},`.repeat(9)}]`),
    ];
    expect(() => parseConfig(bomb.join('\n'), 'bomb')).toThrow(UsageError);
  });

  it('says that a file is missing or too large', () => {
    expect(() => readConfigFile('/nonexistent/x.yaml')).toThrow(
      /--config: can't read \/nonexistent\/x\.yaml/,
    );
    const dir = mkdtempSync(join(tmpdir(), 'repagent-cfg-'));
    try {
      writeFileSync(join(dir, 'big.yaml'), '#'.repeat(2 ** 20 + 1));
      expect(() => readConfigFile(join(dir, 'big.yaml'))).toThrow(/larger than 1 MiB/);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});

describe('mergeOptions', () => {
  it('lets the command line win, option by option, lists whole', () => {
    expect(
      mergeOptions(TABLE, { hub: 'file', listen: ['f'], level: 'info' }, { hub: 'line', listen: ['l'] }),
    ).toEqual({
      hub: 'line',
      listen: ['l'],
      level: 'info',
    });
  });
});

describe('values', () => {
  it('log levels are those of the logger', () => {
    expect([...LOG_LEVEL_CHOICES]).toEqual([...LOG_LEVELS]);
  });

  it('counts are whole and within their limit', () => {
    expect(parseCount('7', '--n', 10)).toBe(7);
    for (const text of ['0', '11', '-1', '1.5', '1e1', '', 'x', '99999999999']) {
      expect(() => parseCount(text, '--n', 10)).toThrow('is not a whole number from 1 to 10');
    }
  });

  it('takes a rate of resyncs, or auto', () => {
    const rate = (text: string) => parseReplication({ hub: ['192.0.2.7'], 'resync-rate': text }).resyncRate;
    expect(parseReplication({}).resyncRate).toBe('auto');
    expect(rate('auto')).toBe('auto');
    expect(rate('1.5M')).toBe(1.5 * 2 ** 20);
    expect(rate('256K')).toBe(2 ** 18);
    expect(() => rate('255K')).toThrow('less than the least, 256K a second');
    expect(() => rate('fast')).toThrow('use auto, or bytes a second as 20M');
    expect(() => parseReplication({ 'resync-rate': 'auto' })).toThrow('add --hub HOST');
  });

  it('machine names are one path component', () => {
    expect(parseVmName('web-1')).toBe('web-1');
    expect(parseVmName(undefined)).not.toBe('');
    for (const text of ['', 'a/b', '..', 'a\0', 'x'.repeat(256)]) {
      expect(() => parseVmName(text)).toThrow(UsageError);
    }
  });

  it('state directories are the named ones', () => {
    expect(agentStateDir('/x', 'vm', 'a.img', {})).toBe('/x');
    expect(hubStateDir('/x', {})).toBe('/x');
    expect(hubStateDir(undefined, { XDG_STATE_HOME: '/s' })).toBe('/s/repagent/hub');
    expect(hubStateDir(undefined, {})).toMatch(/\/\.local\/state\/repagent\/hub$/);
  });

  it('no two agents share a state directory by default', () => {
    const of = (vm: string, image: string) => agentStateDir(undefined, vm, image, { XDG_STATE_HOME: '/s' });
    const dirs = [of('a', '/1.img'), of('b', '/1.img'), of('a', '/2.img'), of('a', 'nbd://h/1')];
    expect(new Set(dirs).size).toBe(4);
    for (const dir of dirs) expect(dir).toMatch(/^\/s\/repagent\/agents\/[0-9a-f]{16}$/);
    expect(of('a', '/x/../1.img')).toBe(of('a', '/1.img'));
  });
});
