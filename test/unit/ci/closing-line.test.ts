// The gate's verdict must not be green for a run that it knows too little of.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';

const SCRIPT = fileURLToPath(new URL('../../../.ci/closing-line.mjs', import.meta.url));

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'repagent-closing-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

interface ReportedFile {
  readonly name: string;
  readonly status: string;
  readonly assertionResults: ReadonlyArray<{ readonly status: string; readonly fullName: string }>;
}

function file(name: string, statuses: readonly string[], status = 'passed'): ReportedFile {
  return {
    name,
    status,
    assertionResults: statuses.map((each, index) => ({ status: each, fullName: `t${index}` })),
  };
}

let reports = 0;
function report(success: boolean, ...testResults: ReportedFile[]): string {
  reports += 1;
  const path = join(folder, `${reports}.json`);
  writeFileSync(path, JSON.stringify({ success, testResults }));
  return path;
}

function close(...paths: string[]): { code: number | null; lines: string[] } {
  const run = spawnSync(process.execPath, [SCRIPT, ...paths], { encoding: 'utf8' });
  return { code: run.status, lines: run.stdout.trimEnd().split('\n') };
}

it('adds up good reports', () => {
  const one = report(true, file('/r/test/unit/a.test.ts', ['passed', 'passed', 'skipped']));
  const two = report(true, file('/r/test/guest/b.test.ts', ['passed']));
  expect(close(one, two)).toEqual({ code: 0, lines: ['3 passed, 0 failed, 1 skipped'] });
});

it.each(['interop', 'guest', 'examples'])('fails on a skipped test in %s', (suite) => {
  for (const status of ['skipped', 'pending', 'todo']) {
    const path = report(true, file(`/r/test/${suite}/a.test.ts`, ['passed', status]));
    const { code, lines } = close(path);
    expect(code).toBe(1);
    expect(lines.at(-1)).toBe('1 passed, 0 failed, 1 skipped');
  }
});

it('fails on a failed test, and counts a file that could not run', () => {
  const path = report(
    false,
    file('/r/test/unit/a.test.ts', ['passed', 'failed'], 'failed'),
    file('/r/test/unit/b.test.ts', [], 'failed'),
    file('/r/test/unit/c.test.ts', ['passed'], 'failed'),
  );
  const { code, lines } = close(path);
  expect(code).toBe(1);
  expect(lines.at(-1)).toBe('2 passed, 3 failed, 0 skipped');
});

it('fails when vitest calls the run failed although every test passed', () => {
  expect(close(report(false, file('/r/test/unit/a.test.ts', ['passed']))).code).toBe(1);
});

it('fails on a report that is missing, broken, or without tests', () => {
  const good = report(true, file('/r/test/unit/a.test.ts', ['passed']));
  const broken = join(folder, 'broken.json');
  writeFileSync(broken, '{');
  for (const bad of [join(folder, 'nothing.json'), broken, report(true)]) {
    const { code, lines } = close(good, bad);
    expect(code).toBe(1);
    expect(lines.at(-1)).toBe('1 passed, 0 failed, 0 skipped');
  }
  expect(close()).toMatchObject({ code: 1 });
});
