// The config file in examples/ says only what `repagent serve` understands.
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { resolveServe, SERVE_OPTIONS } from '../../../src/cli/commands/serve.ts';
import { parseConfig } from '../../../src/cli/config-file.ts';
import { fromConfig, mergeOptions } from '../../../src/cli/option-table.ts';

const FILE = new URL('../../../examples/vm.yaml', import.meta.url);

it('examples/vm.yaml means what it says', () => {
  const given = fromConfig(SERVE_OPTIONS, parseConfig(readFileSync(FILE, 'utf8'), 'vm.yaml'), 'vm.yaml');
  const config = resolveServe(mergeOptions(SERVE_OPTIONS, given, {}));
  expect(config.resyncRate).toBe('auto');
  expect(config.images.map((image) => image.name)).toEqual(['root', 'data', 'tools']);
  expect(config.listen).toHaveLength(2);
  expect(config.exports.get('root')?.visibility.access.from).toEqual({ local: true, networks: [] });
  expect(config.exports.get('tools')).toMatchObject({ readOnly: true, visibility: { hidden: true } });
  expect(config.exports.get('data')).toMatchObject({ readOnly: false, rotational: true });
});
