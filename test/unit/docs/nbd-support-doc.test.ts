// The page of what NBD is spoken names every option, command and error of the protocol once: none is left in the dark.
import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import * as constants from '../../../src/nbdwire/constants.ts';
import {
  NBD_CMD,
  NBD_ERROR,
  NBD_INFO,
  NBD_OPT,
  NBD_REP,
  NBD_REP_ERR,
  NBD_REPLY_TYPE,
} from '../../../src/nbdwire/constants.ts';
import { RequestHeader } from '../../../src/nbdwire/request.ts';
import { checkRequest } from '../../../src/nbdwire/request-check.ts';
import { ServerHandshake } from '../../../src/nbdwire/server-handshake.ts';

const page = readFileSync(resolve(import.meta.dirname, '../../../docs/protocol/nbd-support.md'), 'utf8');

/** The rows of the table under a heading: first and second cell. */
function table(heading: string): Map<string, string> {
  const section = page.split(`## ${heading}\n`)[1]!.split('\n## ')[0]!;
  return new Map(
    [...section.matchAll(/^\| ([A-Z_]+) \| ([^|]+) \|/gm)].map((row) => [row[1]!, row[2]!.trim()]),
  );
}

/** The type of the server's reply to an option without data. */
function replyTo(option: number): number {
  const handshake = new ServerHandshake<never>({ list: () => [], find: () => undefined });
  const bytes = Buffer.alloc(20);
  bytes.writeUInt32BE(1, 0);
  bytes.write('IHAVEOPT', 4, 'latin1');
  bytes.writeUInt32BE(option, 12);
  const flagsBytes = handshake.step(bytes, 0, bytes.length);
  handshake.takeOutput();
  handshake.step(bytes, flagsBytes, bytes.length);
  return Buffer.concat(handshake.takeOutput()).readUInt32BE(12);
}

describe('docs/protocol/nbd-support.md', () => {
  test('names every option', () => {
    expect([...table('Options').keys()]).toEqual(Object.keys(NBD_OPT));
  });

  test('names every command', () => {
    expect([...table('Commands').keys()]).toEqual(Object.keys(NBD_CMD));
  });

  test('names every command flag and every chunk', () => {
    const flags = Object.keys(constants).flatMap((name) => name.match(/^NBD_CMD_FLAG_(\w+)$/)?.[1] ?? []);
    expect([...table('Command flags').keys()].sort()).toEqual(flags.sort());
    expect([...table('Chunks').keys()]).toEqual(Object.keys(NBD_REPLY_TYPE));
  });

  test('names every option reply, every information and every transmission flag', () => {
    const replies = [...Object.keys(NBD_REP), ...Object.keys(NBD_REP_ERR)];
    expect([...table('Option replies').keys()]).toEqual(replies);
    expect([...table('Information').keys()]).toEqual(Object.keys(NBD_INFO));
    const flags = Object.keys(constants).flatMap((name) => {
      const flag = name.match(/^NBD_FLAG_(\w+)$/)?.[1];
      // Those of the handshake, either side's.
      return flag === undefined || /^(C_|FIXED_NEWSTYLE$|NO_ZEROES$)/.test(flag) ? [] : [flag];
    });
    expect([...table('Transmission flags').keys()].sort()).toEqual(flags.sort());
  });

  test.each(['Options', 'Option replies', 'Information', 'Commands', 'Transmission flags', 'Errors'])(
    'says of everything in %s which test shows it, unless it never happens',
    (heading) => {
      const section = page.split(`## ${heading}\n`)[1]!.split('\n## ')[0]!;
      for (const row of section.match(/^\| [A-Z_]+ \|.*$/gm) ?? []) {
        expect(row).toMatch(/\| test\/[\w/.-]+\.test\.ts \|$|\| never\b/);
      }
    },
  );

  test('names only tests that there are', () => {
    const named = [...page.matchAll(/test\/[\w/.-]+\.ts/g)].map((match) => match[0]);
    expect(named.length).toBeGreaterThan(10);
    for (const file of named)
      expect(existsSync(resolve(import.meta.dirname, '../../..', file)), file).toBe(true);
  });

  test('names every error but success', () => {
    expect([...table('Errors').keys()]).toEqual(Object.keys(NBD_ERROR).filter((name) => name !== 'OK'));
  });

  test.each(Object.entries(NBD_OPT))(
    'option %s is refused as unknown exactly where the page says so',
    (name, id) => {
      if (name === 'EXPORT_NAME') return; // has no form for an error
      const refused = replyTo(id) === NBD_REP_ERR.UNSUP;
      expect(refused).toBe(table('Options').get(name)!.startsWith('ERR_UNSUP'));
    },
  );

  test.each(Object.entries(NBD_CMD))('command %s is refused exactly where the page says so', (name, id) => {
    if (name === 'DISC') return;
    const request = new RequestHeader();
    Object.assign(request, { type: id, flags: 0, offset: 0, length: id === NBD_CMD.FLUSH ? 0 : 512 });
    const rules = {
      sizeBytes: 1024,
      readOnly: false,
      minBlockBytes: 1,
      maxPayloadBytes: 1024,
      fastZero: 'always',
      style: 'structured',
      contexts: [0],
    } as const;
    const refused = checkRequest(request, rules) === NBD_ERROR.EINVAL;
    expect(refused).toBe(table('Commands').get(name)!.startsWith('EINVAL'));
  });
});
