// Adds up vitest's JSON reports and prints the gate's closing line, `N passed, N failed, N skipped`.
// Must never call a run good that it knows too little of: a missing or unreadable report, a report without tests,
// or a skipped test where none may be skipped gives exit code 1.
//   node closing-line.mjs REPORT...
import { readFileSync } from 'node:fs';

/** Suites with someone else's program on the other side: a test that is skipped there means a peer that is missing. */
const NEVER_SKIPPED = /[\\/]test[\\/](interop|guest|examples)[\\/]/;

const total = { passed: 0, failed: 0, skipped: 0 };
const problems = [];

for (const path of process.argv.slice(2)) {
  let report;
  try {
    report = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    problems.push(`no report ${path}: ${error.message}`);
    continue;
  }
  const before = total.passed;
  for (const file of report.testResults ?? []) {
    let failedHere = 0;
    for (const test of file.assertionResults ?? []) {
      if (test.status === 'passed') total.passed += 1;
      else if (test.status === 'failed') failedHere += 1;
      else {
        total.skipped += 1;
        if (NEVER_SKIPPED.test(file.name)) problems.push(`skipped: ${file.name}: ${test.fullName}`);
      }
    }
    // A file that could not be loaded, or whose hooks failed, has no failed test of its own.
    if (file.status === 'failed' && failedHere === 0) failedHere = 1;
    total.failed += failedHere;
  }
  if (report.success !== true) problems.push(`${path}: vitest calls this run failed`);
  if (total.passed === before) problems.push(`${path}: no test passed`);
}
if (process.argv.length < 3) problems.push('no reports named');

for (const problem of problems) console.log(problem);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = problems.length === 0 && total.failed === 0 ? 0 : 1;
