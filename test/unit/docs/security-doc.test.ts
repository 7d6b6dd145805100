// docs/SECURITY.md names a test for each lesson: the test must be there, and name the CVE where it is the CVE's own.
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { expect, it } from 'vitest';

const ROOT = resolve(import.meta.dirname, '../../..');
const page = readFileSync(resolve(ROOT, 'docs/SECURITY.md'), 'utf8');
const rows = page.split('\n').filter((line) => line.startsWith('| ') && line.includes('`test/'));
const testsOf = (row: string): string[] => [...row.matchAll(/`(test\/[^`]+)`/g)].map((match) => match[1]!);

it('names only tests that are there', () => {
  const named = rows.flatMap(testsOf);
  expect(named.length).toBeGreaterThan(40);
  expect(named.filter((path) => !existsSync(resolve(ROOT, path)))).toEqual([]);
});

it('has a test under the name of each CVE that it says has its own', () => {
  const own = 'test/fault/nbd-cves.test.ts';
  const text = readFileSync(resolve(ROOT, own), 'utf8');
  const listed = rows.filter((row) => row.startsWith('| CVE-') && testsOf(row).includes(own));
  const cves = listed.flatMap((row) => row.match(/CVE-\d+-\d+/g) ?? []);
  expect(cves.length).toBeGreaterThan(8);
  expect(cves.filter((cve) => !text.includes(cve))).toEqual([]);
});
