// --hub-compress: off unless asked for, and what docs/LINK.md says of it is what the code does.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { MiB } from '../../../src/base/limits.ts';
import { resolveServe, SERVE_OPTIONS } from '../../../src/cli/commands/serve.ts';
import { fromArguments } from '../../../src/cli/option-table.ts';
import { COMPRESS_MODES, FASTEST_QUALITY, QUALITY_STEPS } from '../../../src/repagent/compression.ts';

const page = readFileSync(new URL('../../../docs/LINK.md', import.meta.url), 'utf8');
const image = ['disk.img'];

describe('--hub-compress', () => {
  it('is off unless asked for', () => {
    expect(resolveServe({ image }).compress).toBe('off');
    expect(resolveServe({ image, hub: ['h'] }).compress).toBe('off');
    expect(SERVE_OPTIONS['hub-compress'].fallback).toBe('off');
  });

  it('knows its modes, and needs a hub', () => {
    expect([...SERVE_OPTIONS['hub-compress'].choices]).toEqual([...COMPRESS_MODES]);
    for (const mode of COMPRESS_MODES) {
      expect(resolveServe({ image, hub: ['h'], 'hub-compress': mode }).compress).toBe(mode);
    }
    expect(() => resolveServe({ image, 'hub-compress': 'auto' })).toThrow('add --hub HOST');
    expect(() => fromArguments(SERVE_OPTIONS, { image, 'hub-compress': 'deflate' })).toThrow(
      'allowed: off, auto, always',
    );
  });
});

describe('docs/LINK.md', () => {
  it('has a row for each mode', () => {
    const rows = [...page.matchAll(/^\| `(\w+)` \|/gm)].map(([, mode]) => mode);
    expect(rows).toEqual([...COMPRESS_MODES]);
  });

  it('has the rule by which the quality is chosen', () => {
    const rows = [...page.matchAll(/^\| less than (\d+) MiB\/s \| (\d+) \|$/gm)].map(
      ([, below, quality]) => ({
        belowBytesPerSecond: Number(below) * MiB,
        quality: Number(quality),
      }),
    );
    expect(rows).toEqual([...QUALITY_STEPS]);
    expect(page).toContain(`\`always\`: ${FASTEST_QUALITY} |`);
  });
});
