// What --socket-mode and --socket-owner take, and what they refuse.
import { describe, expect, it, vi } from 'vitest';
import { type IdLookup, parseSocketPermissions } from '../../../src/cli/parse-socket.ts';

const IDS: Record<'passwd' | 'group', Record<string, number>> = {
  passwd: { vm: 1000, root: 0 },
  group: { kvm: 78, root: 0 },
};
const lookup: IdLookup = (database, name) => IDS[database][name];
const permissions = (mode?: string, owner?: string) => parseSocketPermissions(mode, owner, lookup);

describe('parseSocketPermissions', () => {
  it('says nothing when nothing was given', () => {
    expect(permissions()).toBeUndefined();
  });

  it.each([
    ['0660', 0o660],
    ['660', 0o660],
    ['0000', 0],
    ['777', 0o777],
  ])('reads the mode %s', (text, mode) => {
    expect(permissions(text)).toEqual({ mode, uid: undefined, gid: undefined });
  });

  it.each(['', '66', '0o660', '0680', '1660', '01660', '06600', ' 660', 'rw-rw----', '-660'])(
    'refuses the mode %j',
    (text) => {
      expect(() => permissions(text)).toThrow(`--socket-mode: ${JSON.stringify(text)} is no mode`);
    },
  );

  it.each([
    ['vm', 1000, undefined],
    ['vm:kvm', 1000, 78],
    [':kvm', undefined, 78],
    ['root:root', 0, 0],
    ['12:34', 12, 34],
    [':34', undefined, 34],
    ['4294967294', 4_294_967_294, undefined],
  ])('finds the owner %s', (text, uid, gid) => {
    expect(permissions(undefined, text)).toEqual({ mode: undefined, uid, gid });
  });

  it.each(['', ':', 'vm:', 'vm:kvm:x', '::'])('refuses the owner %j', (text) => {
    expect(() => permissions(undefined, text)).toThrow(/^--socket-owner: .* is no owner; use USER/);
  });

  it.each([
    ['nobody-here', 'there is no user "nobody-here"'],
    ['vm:nobody-here', 'there is no group "nobody-here"'],
    // The user of that name is no group of that name.
    [':vm', 'there is no group "vm"'],
    // This number means "leave it as it is" to the system.
    ['4294967295', 'there is no user "4294967295"'],
    [':99999999999', 'there is no group "99999999999"'],
  ])('does not know %s', (text, message) => {
    expect(() => permissions(undefined, text)).toThrow(`--socket-owner: ${message}`);
  });

  it('asks for names only, and for each where it belongs', () => {
    const asked = vi.fn(lookup);
    parseSocketPermissions('0600', 'vm:78', asked);
    expect(asked.mock.calls).toEqual([['passwd', 'vm']]);
  });

  it('asks the system: root is there, and what looks like an option is a name', () => {
    expect(parseSocketPermissions(undefined, 'root:root')).toMatchObject({ uid: 0, gid: 0 });
    expect(() => parseSocketPermissions(undefined, '--help')).toThrow('there is no user "--help"');
  });
});
