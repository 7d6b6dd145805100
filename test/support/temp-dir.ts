// A directory for one test, gone afterwards. Never a fixed name: tests of several checkouts run side by side.
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

export interface TempDir {
  readonly path: string;
  /** A path inside. */
  file(name: string): string;
  remove(): void;
}

/** Makes an empty directory. @param root where; the system's temporary directory unless told */
export function tempDir(root: string = os.tmpdir()): TempDir {
  const directory = fs.mkdtempSync(path.join(root, 'repagent-test-'));
  return {
    path: directory,
    file: (name) => path.join(directory, name),
    remove: () => fs.rmSync(directory, { recursive: true, force: true }),
  };
}
