// Oldstyle, as clients of 2012 know it: the server speaks first, and requests follow at once.
import { afterEach, describe, expect, it } from 'vitest';
import { MiB } from '../../../src/base/limits.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { type NbdServer, startNbdServer } from '../../../src/nbd/server.ts';
import { RawNbdClient } from '../../support/raw-nbd-client.ts';
import { SparseDevice } from '../../support/test-devices.ts';

let server: NbdServer | undefined;
let client: RawNbdClient | undefined;
afterEach(async () => {
  await client?.destroy();
  await server?.close();
  client = undefined;
  server = undefined;
});

async function connect(visible = true): Promise<RawNbdClient> {
  const nobody = { from: { networks: [], local: false }, certificates: undefined, keys: undefined };
  const visibility = visible ? undefined : { access: nobody, hidden: false };
  const one = { name: 'disk', device: new SparseDevice(8 * MiB), ...(visibility && { visibility }) };
  server = await startNbdServer({
    exports: [one, { name: 'other', device: new SparseDevice(1 * MiB) }],
    listen: [{ kind: 'tcp', host: '127.0.0.1', port: 0 }],
    logger: silentLogger,
    oldstyle: true,
  });
  const address = server.addresses[0]!;
  if (address.kind !== 'tcp') throw new Error('not TCP');
  client = await RawNbdClient.connect({ host: address.host, port: address.port });
  return client;
}

describe('oldstyle', () => {
  it('greets with 152 bytes that describe the default export', async () => {
    const one = await connect();
    const greeting = await one.read(152);
    expect(greeting.toString('latin1', 0, 8)).toBe('NBDMAGIC');
    expect(greeting.readBigUInt64BE(8)).toBe(0x00420281861253n);
    expect(greeting.readBigUInt64BE(16)).toBe(BigInt(8 * MiB));
    // No handshake flags; then transmission flags, without any that have to be negotiated.
    expect(greeting.readUInt16BE(24)).toBe(0);
    expect(greeting.readUInt16BE(26)).toBe(0b1101_0110_1101);
    expect(greeting.subarray(28).equals(Buffer.alloc(124))).toBe(true);
  });

  it('carries requests out with simple replies', async () => {
    const one = await connect();
    await one.read(152);
    const data = Buffer.alloc(4096, 7);
    expect((await one.request({ type: 1, offset: 512, data })).error).toBe(0);
    expect((await one.request({ type: 0, offset: 512, length: 4096 })).data.equals(data)).toBe(true);
    expect((await one.request({ type: 7, length: 512 })).error).toBe(22);
    expect((await one.request({ type: 3 })).error).toBe(0);
  });

  it('closes without a word where the default export is not for the client', async () => {
    const one = await connect(false);
    expect((await one.readToEnd()).length).toBe(0);
  });

  it('is refused together with TLS', async () => {
    const tls = {} as never;
    const options = { exports: [], listen: [], logger: silentLogger, oldstyle: true, tls };
    await expect(startNbdServer(options)).rejects.toThrow('oldstyle');
  });
});
