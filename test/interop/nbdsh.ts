// Runs one function of nbdsh-checks.py in nbdsh, libnbd's shell.
import { readFileSync } from 'node:fs';
import { runPeerOk } from '../support/peers.ts';

const SCRIPT = readFileSync(new URL('nbdsh-checks.py', import.meta.url), 'utf8');

/**
 * @param uri an export of `sizeBytes` that can be written
 * @param readOnlyUri for the check that wants one that cannot
 * @returns `ok NAME`
 * @throws Error with Python's traceback when the check fails
 */
export function runCheck(name: string, sizeBytes: number, uri: string, readOnlyUri = uri): Promise<string> {
  return runPeerOk('nbdsh', ['-n', '-c', '-'], {
    input: SCRIPT,
    env: { CHECK: name, URI: uri, READ_ONLY_URI: readOnlyUri, SIZE: String(sizeBytes) },
  });
}
