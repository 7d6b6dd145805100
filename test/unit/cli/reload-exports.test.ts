// What a configuration that was read anew changes for exports that are served, and what has to wait.
import { describe, expect, it } from 'vitest';
import { resolveServe, type SERVE_OPTIONS } from '../../../src/cli/commands/serve.ts';
import type { RawOptions } from '../../../src/cli/option-table.ts';
import { changedAtStartOnly, reloadedVisibility } from '../../../src/cli/run/reload-exports.ts';

describe('a configuration read anew', () => {
  const config = (raw: RawOptions<typeof SERVE_OPTIONS> = {}) =>
    resolveServe({ image: ['root=a.img', 'data=b.img'], ...raw });

  it('changes who sees the exports that are served', () => {
    const next = config({ export: ['data,hidden,allow=unix'] });
    const visibility = reloadedVisibility(config().exports, next.exports);
    expect(visibility.get('data')).toMatchObject({ hidden: true, access: { from: { local: true } } });
    expect(visibility.get('root')).toEqual(config().exports.get('root')?.visibility);
    expect(changedAtStartOnly(config(), next)).toEqual([]);
  });

  it('never opens an export by forgetting it', () => {
    const served = config({ export: ['data,allow=unix'] });
    const next = resolveServe({ image: ['root=a.img'] });
    expect(reloadedVisibility(served.exports, next.exports).get('data')?.access.from?.local).toBe(true);
    expect(reloadedVisibility(served.exports, next.exports).size).toBe(2);
  });

  it('names what takes effect at the next start only', () => {
    expect(changedAtStartOnly(config(), config())).toEqual([]);
    expect(changedAtStartOnly(config(), config({ export: ['data,read-only'] }))).toEqual(['exports']);
    expect(changedAtStartOnly(config(), config({ export: ['root,description=x'] }))).toEqual(['exports']);
    const more = config({ listen: ['127.0.0.1:5'], 'max-connections': '3', filter: ['stats'] });
    expect(changedAtStartOnly(config(), more)).toEqual(['listen', 'filters', 'maxConnections']);
  });
});
