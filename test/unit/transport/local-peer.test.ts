// Pacing goes from connections within this machine, from no others, and only where the system paces.
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { describe, expect, it } from 'vitest';
import { loadNativeCalls, type NativeCalls } from '../../../src/base/native-calls.ts';
import { congestionControl, descriptorOf, stopLocalPacing } from '../../../src/transport/local-peer.ts';

/** A socket with these addresses, on a system with that congestion control; `chosen` is what was asked for. */
function fake(localAddress: string | undefined, remoteAddress: string | undefined, control?: string) {
  const chosen: string[] = [];
  const native = {
    getSocketName: () => control,
    setSocketName: (_fd: number, _level: number, _option: number, name: string) => {
      chosen.push(name);
      return undefined;
    },
  } as unknown as NativeCalls;
  const socket = { localAddress, remoteAddress, _handle: { fd: 5 } } as unknown as Socket;
  return { socket, native, chosen };
}

describe('stopLocalPacing', () => {
  it.each([
    ['127.0.0.1', '127.0.0.1', 'bbr'],
    ['::1', '::1', 'bbr3'],
    ['::ffff:127.0.0.1', '::ffff:127.0.0.1', 'bbr'],
    ['192.0.2.7', '192.0.2.7', 'bbr'],
  ])('takes pacing off a connection from %s to %s under %s', (local, remote, control) => {
    const { socket, native, chosen } = fake(local, remote, control);
    stopLocalPacing(socket, native);
    expect(chosen).toEqual(['reno']);
  });

  it.each([
    ['another machine', '192.0.2.7', '192.0.2.8', 'bbr'],
    ['a peer that is gone', '127.0.0.1', undefined, 'bbr'],
    ['a unix socket', undefined, undefined, 'bbr'],
    ['a system that does not pace', '127.0.0.1', '127.0.0.1', 'cubic'],
    ['a system that does not tell', '127.0.0.1', '127.0.0.1', undefined],
  ])('changes nothing for %s', (_what, local, remote, control) => {
    const { socket, native, chosen } = fake(local, remote, control);
    stopLocalPacing(socket, native);
    expect(chosen).toEqual([]);
  });

  it('does without native access, and without a descriptor', () => {
    const { socket, native, chosen } = fake('127.0.0.1', '127.0.0.1', 'bbr');
    stopLocalPacing(socket, undefined);
    stopLocalPacing({ ...socket, _handle: null } as unknown as Socket, native);
    expect(chosen).toEqual([]);
  });

  it.runIf(loadNativeCalls())('works on the real socket, whatever the system has', async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
    const socket = await accepted;
    const fd = descriptorOf(socket)!;
    const before = congestionControl(fd)!;
    expect(before).toMatch(/^[a-z0-9_]+$/);
    // Claimed to pace, so that the change is seen on a system that doesn't.
    const native = loadNativeCalls()!;
    stopLocalPacing(socket, { ...native, getSocketName: () => 'bbr' });
    expect(congestionControl(fd)).toBe('reno');
    client.destroy();
    socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
});
