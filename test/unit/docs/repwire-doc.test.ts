// The protocol page is what other implementers read: its tables must be the code's.
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { RESYNC_REASONS } from '../../../src/base/resync-reason.ts';
import { FRAME_PARAMS_OFFSET, MAX_PAYLOAD_BYTES, REP_CMD } from '../../../src/repwire/constants.ts';
import { frameHead, PARAM_LAYOUTS } from '../../../src/repwire/layouts.ts';

const page = readFileSync(resolve(import.meta.dirname, '../../../docs/protocol/repwire.md'), 'utf8');

interface Section {
  readonly id: number;
  readonly rows: string[][];
  readonly payloadLimit: number;
}

function rowsOf(text: string): string[][] {
  return [...text.matchAll(/^\| (\d+) \| ([^|]+) \| (\w+) \|/gm)].map((m) => [m[1]!, m[2]!.trim(), m[3]!]);
}

const sections = new Map<string, Section>(
  page
    .split(/^### /m)
    .slice(1)
    .map((text) => {
      const head = /^(\w+) \((\d+)\)/.exec(text)!;
      const limit = Number(/^Payload \(limit (\d+) bytes\)/m.exec(text)?.[1]);
      return [head[1]!, { id: Number(head[2]), rows: rowsOf(text), payloadLimit: limit }];
    }),
);

describe('docs/protocol/repwire.md', () => {
  test('has a section for every command with parameters, and no other', () => {
    expect([...sections.keys()].sort()).toEqual(Object.keys(PARAM_LAYOUTS).sort());
  });

  test.each(Object.entries(PARAM_LAYOUTS))('%s is as the code has it', (name, layout) => {
    const section = sections.get(name)!;
    const id = REP_CMD[name as keyof typeof REP_CMD];
    expect(section.id).toBe(id);
    expect(section.payloadLimit).toBe(MAX_PAYLOAD_BYTES[id]);
    expect(section.rows).toEqual(
      layout.fields
        .filter((field) => field.type !== 'padding')
        .map((field) => [String(field.offset + FRAME_PARAMS_OFFSET), field.type, field.name]),
    );
  });

  test('names every reason with its number', () => {
    const table = page.split('## Reasons\n')[1]!.split('\n## ')[0]!;
    const rows = [...table.matchAll(/^\| ([a-z-]+) \| (\d+) \| (.+) \|$/gm)].map((row) => row.slice(1));
    expect(rows).toEqual(
      Object.entries(RESYNC_REASONS).map(([name, text], number) => [name, String(number), text]),
    );
  });

  test('the frame is as the code has it', () => {
    const frame = rowsOf(page.split('## Commands')[0]!);
    const head = frameHead.fields.map((field) => [String(field.offset), field.type, field.name]);
    expect(frame.slice(0, head.length)).toEqual(head);
    expect(frame.map((row) => row[2])).toEqual([
      'magic1',
      'cmdid',
      'data_size_bytes',
      'params',
      'magic2',
      'payload',
    ]);
  });
});
