// Who may use an export: rules by themselves, and what a client sees of exports that are not for it.
import { afterEach, describe, expect, it } from 'vitest';
import { MiB } from '../../../src/base/limits.ts';
import { type AccessRules, mayUse, OPEN_TO_ALL, parsePlaces } from '../../../src/nbd/access.ts';
import { type ClientIdentity, localClient, type TlsIdentity } from '../../../src/nbd/client-identity.ts';
import { ExportList, type ExportVisibility } from '../../../src/nbd/exports.ts';
import { NBD_CMD, NBD_REP_ERR } from '../../../src/nbdwire/constants.ts';
import { NbdRig } from '../../support/nbd-rig.ts';
import { infoData, optionBytes } from '../../support/raw-nbd-client.ts';
import { SparseDevice } from '../../support/test-devices.ts';

const EXPORT_NAME = 1;
const LIST = 3;
const INFO = 6;
const GO = 7;

function from(address: string | undefined, tls?: TlsIdentity): ClientIdentity {
  return { address, credentials: undefined, tls };
}

function rules(
  places: string[] | undefined,
  names: { certificates?: string[]; keys?: string[] } = {},
): AccessRules {
  return {
    from: places && parsePlaces(places, 'allow'),
    certificates: names.certificates && new Set(names.certificates),
    keys: names.keys && new Set(names.keys),
  };
}

const ANNA: TlsIdentity = { kind: 'certificate', names: ['anna', 'anna.example'] };
const KEY: TlsIdentity = { kind: 'psk', user: 'anna' };

describe('rules', () => {
  it('that are not there let everybody in', () => {
    expect(mayUse(OPEN_TO_ALL, from('192.0.2.1'))).toBe(true);
    expect(mayUse(OPEN_TO_ALL, localClient())).toBe(true);
  });

  it('of places deny every other place, and those that nobody knows', () => {
    const some = rules(['10.0.0.0/8', 'fd00::/8']);
    expect(mayUse(some, from('10.1.2.3'))).toBe(true);
    expect(mayUse(some, from('::ffff:10.1.2.3'))).toBe(true);
    expect(mayUse(some, from('fd00::1'))).toBe(true);
    expect(mayUse(some, from('192.0.2.1'))).toBe(false);
    expect(mayUse(some, from('gone'))).toBe(false);
    expect(mayUse(some, localClient())).toBe(false);
    expect(mayUse(rules(['unix']), localClient())).toBe(true);
    expect(mayUse(rules(['unix']), from('127.0.0.1'))).toBe(false);
    expect(mayUse(rules([]), localClient())).toBe(false);
  });

  it('of names ask for TLS, and for the very name', () => {
    const anna = rules(undefined, { certificates: ['anna.example'] });
    expect(mayUse(anna, from('10.0.0.1'))).toBe(false);
    expect(mayUse(anna, from('10.0.0.1', { kind: 'anonymous' }))).toBe(false);
    expect(mayUse(anna, from('10.0.0.1', ANNA))).toBe(true);
    expect(mayUse(anna, from('10.0.0.1', { kind: 'certificate', names: ['anna.example.org'] }))).toBe(false);
    // A key is no certificate, though it may be called the same.
    expect(mayUse(rules(undefined, { certificates: ['anna'] }), from('10.0.0.1', KEY))).toBe(false);
    expect(mayUse(rules(undefined, { keys: ['anna'] }), from('10.0.0.1', ANNA))).toBe(false);
    const either = rules(undefined, { certificates: ['bert'], keys: ['anna'] });
    expect(mayUse(either, from('10.0.0.1', KEY))).toBe(true);
  });

  it('of places and names must agree both', () => {
    const both = rules(['10.0.0.0/8'], { certificates: ['anna'] });
    expect(mayUse(both, from('10.0.0.1', ANNA))).toBe(true);
    expect(mayUse(both, from('10.0.0.1'))).toBe(false);
    expect(mayUse(both, from('192.0.2.1', ANNA))).toBe(false);
  });

  it('are asked anew once TLS told more', () => {
    const device = new SparseDevice(1 * MiB);
    const visibility = { access: rules(undefined, { certificates: ['anna'] }), hidden: false };
    const client = from('10.0.0.1');
    const seen = new ExportList([{ name: 'disk', device, visibility }]).forClient(client);
    expect(seen.list()).toEqual([]);
    client.tls = ANNA;
    expect(seen.list().map((one) => one.name)).toEqual(['disk']);
  });
});

describe('an export', () => {
  let rig: NbdRig;
  afterEach(() => rig.stop());

  const nobody: ExportVisibility = { access: rules([]), hidden: false };

  async function serve(visibility: ExportVisibility): Promise<void> {
    const device = new SparseDevice(1 * MiB);
    rig = await NbdRig.start(
      [
        { name: 'first', device, visibility },
        { name: 'open', device },
      ],
      { tcp: true },
    );
  }

  async function ask(option: number, data?: Buffer): Promise<string[]> {
    const client = await rig.connect();
    await client.greet();
    const replies = await client.option(option, data);
    await client.destroy();
    return replies.map((reply) => `${reply.type} ${reply.data.toString('latin1')}`);
  }

  /** What EXPORT_NAME brings: everything until the end. */
  async function byOldName(name: string): Promise<string> {
    const client = await rig.connect();
    await client.greet();
    client.send(optionBytes(EXPORT_NAME, Buffer.from(name)));
    client.socket.end();
    return (await client.readToEnd()).toString('latin1');
  }

  it('that a client may not use looks as if it did not exist', async () => {
    await serve(nobody);
    expect((await ask(LIST)).join()).not.toContain('first');
    expect((await ask(LIST)).join()).toContain('open');
    for (const name of ['first', '']) {
      for (const option of [INFO, GO]) {
        const replies = await ask(option, infoData(name));
        const missing = await ask(option, infoData(name === '' ? '' : 'other'));
        expect(replies).toEqual(missing.map((text) => text.replace('other', name)));
        expect(replies[0]).toContain(`${NBD_REP_ERR.UNKNOWN} no export is named`);
      }
      expect(await byOldName(name)).toBe(await byOldName('nosuch'));
    }
    expect((await byOldName('open')).length).toBeGreaterThan(0);
  });

  it('that is hidden is not listed, and opens by name', async () => {
    await serve({ access: OPEN_TO_ALL, hidden: true });
    expect((await ask(LIST)).join()).not.toContain('first');
    const client = await rig.open('first');
    expect((await client.request({ type: NBD_CMD.READ, length: 512 })).error).toBe(0);
  });

  it('may be opened and closed to clients while others use it', async () => {
    await serve(nobody);
    const open: ExportVisibility = { access: rules(['127.0.0.0/8']), hidden: false };
    rig.server.setVisibility(new Map([['first', open]]));
    const client = await rig.open('first');
    rig.server.setVisibility(new Map([['first', nobody]]));
    expect((await client.request({ type: NBD_CMD.READ, length: 512 })).error).toBe(0);
    expect((await ask(LIST)).join()).not.toContain('first');
    rig.server.setVisibility(new Map());
    expect((await ask(LIST)).join()).toContain('first');
  });
});
