// The units in packaging/ say only what `repagent serve` and `repagent hub` understand, and leave them time to stop.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { HUB_OPTIONS, resolveHub } from '../../../src/cli/commands/hub.ts';
import { SERVE_OPTIONS } from '../../../src/cli/commands/serve.ts';
import { parseConfig } from '../../../src/cli/config-file.ts';
import { fromConfig, mergeOptions, type OptionTable } from '../../../src/cli/option-table.ts';
import { parseControl } from '../../../src/cli/parse-address.ts';
import { DEFAULT_SHUTDOWN_TIMEOUT_MS } from '../../../src/nbd/limits.ts';
import { readUnit, UNIT_NAMES } from '../../support/unit-files.ts';

const ROOT = new URL('../../../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, ROOT), 'utf8');

const SERVICES: ReadonlyArray<readonly [unit: string, command: string, table: OptionTable]> = [
  ['repagent.service', 'serve', SERVE_OPTIONS],
  ['repagent-hub.service', 'hub', HUB_OPTIONS],
];

it('there are two services and the sockets of one', () => {
  expect([...UNIT_NAMES].sort()).toEqual(['repagent-hub.service', 'repagent.service', 'repagent.socket']);
});

describe.each(SERVICES)('%s', (name, command, table) => {
  const unit = readUnit(name);
  const words = unit.one('Service', 'ExecStart').split(' ');

  it(`runs repagent ${command} with options that it has`, () => {
    expect(words.slice(0, 2)).toEqual(['repagent', command]);
    const options = words.slice(2).filter((word) => word.startsWith('--'));
    expect(options).toEqual(['--config', '--control']);
    // --config is of every command that has a config file.
    for (const option of options.slice(1)) expect(Object.keys(table)).toContain(option.slice(2));
  });

  it('has its control socket in the runtime directory, and only there', () => {
    const runtime = `/run/${unit.one('Service', 'RuntimeDirectory')}`;
    const control = parseControl(words.at(-1)!.replace('%t', '/run'));
    expect(control).toEqual({ kind: 'unix', path: `${runtime}/${command}.sock` });
    // Two services share the directory: the one that stops must not take the other's socket away.
    expect(unit.one('Service', 'RuntimeDirectoryPreserve')).toBe('yes');
    expect(read('packaging/README.md')).toContain(`${runtime}/${command}.sock`);
  });

  it('has more time to stop than stopping may take', () => {
    const [, seconds] = /^(\d+)s$/.exec(unit.one('Service', 'TimeoutStopSec')) ?? [];
    // The clients first, then the link to the hub, for which the agent has the same time.
    expect(Number(seconds) * 1000).toBeGreaterThan(2 * DEFAULT_SHUTDOWN_TIMEOUT_MS + 10_000);
    expect(unit.one('Service', 'KillSignal')).toBe('SIGTERM');
    expect(unit.one('Service', 'KillMode')).toBe('mixed');
  });

  it('may compile code, and use the sockets that it is for', () => {
    expect(unit.all('Service', 'MemoryDenyWriteExecute')).toEqual([]);
    const families = unit.one('Service', 'RestrictAddressFamilies').split(' ');
    expect(families).toEqual(expect.arrayContaining(['AF_UNIX', 'AF_INET', 'AF_INET6']));
  });
});

it('the user of the units is the one that is made for them', () => {
  const user = read('packaging/systemd/repagent.sysusers').match(/^u (\S+) /m)?.[1];
  for (const [name] of SERVICES) expect(readUnit(name).one('Service', 'User')).toBe(user);
  expect(readUnit('repagent.socket').one('Socket', 'SocketUser')).toBe(user);
});

it('images and replicas of the examples lie where the units allow writing', () => {
  const images = read('examples/vm.yaml').match(/(?<==)\/\S+\.img$/gm) ?? [];
  expect(images).not.toHaveLength(0);
  const writable = readUnit('repagent.service').one('Service', 'ReadWritePaths').replace(/^-/, '');
  for (const image of images) expect(image.startsWith(`${writable}/`), image).toBe(true);

  const content = parseConfig(read('examples/hub.yaml'), 'hub.yaml');
  const hub = resolveHub(mergeOptions(HUB_OPTIONS, fromConfig(HUB_OPTIONS, content, 'hub.yaml'), {}));
  expect(readUnit('repagent-hub.service').one('Service', 'ReadWritePaths')).toBe(`-${hub.storeDir}`);
});

it('the package holds them', () => {
  expect((JSON.parse(read('package.json')) as { files: string[] }).files).toContain('packaging');
});
