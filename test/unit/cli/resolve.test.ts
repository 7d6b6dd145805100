// What serve, hub and wait make of their options.
import { describe, expect, it } from 'vitest';
import { resolveHub } from '../../../src/cli/commands/hub.ts';
import { resolveServe } from '../../../src/cli/commands/serve.ts';
import { parseTimeout } from '../../../src/cli/parse-values.ts';
import { limitsOf } from '../../../src/cli/run/serve.ts';

describe('resolveServe', () => {
  it('has defaults for everything but the image', () => {
    expect(resolveServe({ image: ['d.img'] })).toMatchObject({
      images: [{ name: 'd', source: 'd.img' }],
      format: 'raw',
      createSizeBytes: undefined,
      listen: [],
      hubs: [],
      filters: [],
      control: undefined,
      maxConnections: undefined,
      queueBytes: 64 * 2 ** 20,
      logLevel: 'info',
    });
  });

  it('reads sizes, counts and addresses', () => {
    const config = resolveServe({
      image: ['d.img'],
      create: '64M',
      'queue-bytes': '1M',
      'max-connections': '3',
      hub: ['h'],
      listen: ['127.0.0.1:0', 'unix:/a'],
    });
    expect(config).toMatchObject({
      createSizeBytes: 64 * 2 ** 20,
      queueBytes: 2 ** 20,
      maxConnections: 3,
      hubs: [{ name: 'h:9010', host: 'h', port: 9010 }],
      listen: [
        { kind: 'tcp', host: '127.0.0.1', port: 0 },
        { kind: 'unix', path: '/a' },
      ],
    });
  });

  it('has places for a client of every image, and one more of each, unless told otherwise', () => {
    const image = (count: number) => Array.from({ length: count }, (_, at) => `v${at}=v${at}.img`);
    expect(limitsOf(resolveServe({ image: image(512) }))).toEqual({
      maxConnections: 1024,
      maxConnectionsPerAddress: 1024,
    });
    expect(limitsOf(resolveServe({ image: image(1) }))).toMatchObject({ maxConnectionsPerAddress: 512 });
    expect(limitsOf(resolveServe({ image: image(1100), 'max-connections': '7' }))).toMatchObject({
      maxConnections: 7,
      maxConnectionsPerAddress: 2200,
    });
  });

  it('reads what clients may take: places and time', () => {
    const config = resolveServe({
      image: ['d.img'],
      'max-connections': '65536',
      'max-connections-per-address': '1',
      'handshake-timeout': '500ms',
      'idle-timeout': '1h',
    });
    expect(config).toMatchObject({
      maxConnections: 65_536,
      maxConnectionsPerAddress: 1,
      handshakeTimeoutMs: 500,
      idleTimeoutMs: 3_600_000,
    });
    expect(resolveServe({ image: ['d.img'], 'handshake-timeout': '2' }).handshakeTimeoutMs).toBe(2000);
    // The server has the defaults.
    expect(resolveServe({ image: ['d.img'] })).toMatchObject({
      maxConnectionsPerAddress: undefined,
      handshakeTimeoutMs: undefined,
      idleTimeoutMs: undefined,
    });
  });

  it('gives unix sockets their mode', () => {
    const listen = ['unix:/a', '127.0.0.1:0'];
    const { socketPermissions } = resolveServe({ image: ['d.img'], listen, 'socket-mode': '0660' });
    expect(socketPermissions).toEqual({ mode: 0o660, uid: undefined, gid: undefined });
  });

  it.each([
    [{}, 'name at least one image'],
    [{ create: '1000' }, 'no multiple of 512'],
    [{ create: '0' }, 'no multiple of 512'],
    [{ create: 'big' }, '--create: "big" is not a size'],
    [{ create: '64M', format: 'qcow2' }, 'qemu-img create -f qcow2'],
    [{ create: '64M', image: ['nbd://h/x'] }, 'every image here is an NBD server'],
    [{ format: 'raw;rm' }, 'is no format'],
    [{ 'queue-bytes': '1' }, 'at least 512 bytes'],
    [{ 'max-connections': '0' }, '--max-connections'],
    [{ 'max-connections': '65537' }, '--max-connections: "65537" is not a whole number from 1 to 65536'],
    [{ 'max-connections-per-address': '0' }, '--max-connections-per-address: "0" is not a whole number'],
    [{ 'max-connections-per-address': '1.5' }, '--max-connections-per-address: "1.5"'],
    [{ 'handshake-timeout': '0' }, '--handshake-timeout: must be longer than 0'],
    [{ 'handshake-timeout': 'soon' }, '--handshake-timeout: "soon" is not a duration'],
    [{ 'handshake-timeout': '-1' }, '--handshake-timeout: "-1" is not a duration'],
    [{ 'idle-timeout': '0ms' }, '--idle-timeout: must be longer than 0'],
    [{ 'idle-timeout': '600h' }, '--idle-timeout: at most 24 days'],
    [{ 'socket-mode': '0660' }, 'for unix sockets; add --listen unix:PATH'],
    [{ 'socket-owner': 'root', listen: ['127.0.0.1:0'] }, 'for unix sockets; add --listen unix:PATH'],
    [{ 'socket-mode': '9', listen: ['unix:/a'] }, '--socket-mode: "9" is no mode'],
    [{ stdio: true, listen: ['unix:/a'] }, 'leave --listen out'],
    [{ listen: ['0.0.0.0:1'] }, '--insecure'],
    [{ control: '0.0.0.0:1' }, '--control'],
  ])('refuses %j', (raw, message) => {
    const image = Object.keys(raw).length === 0 ? {} : { image: ['d.img'] };
    expect(() => resolveServe({ ...image, ...raw })).toThrow(message);
  });
});

describe('resolveHub', () => {
  it('has defaults', () => {
    expect(resolveHub({ volume: ['d=r.img'] })).toMatchObject({
      pairs: [{ name: 'd', source: 'r.img' }],
      storeDir: undefined,
      listen: { host: '127.0.0.1', port: 9010 },
      once: false,
    });
  });

  it('needs a place for replicas, and stays on loopback', () => {
    expect(() => resolveHub({})).toThrow('say where replicas are kept');
    expect(resolveHub({ store: '/s' }).storeDir).toBe('/s');
    expect(() => resolveHub({ store: '/s', listen: '0.0.0.0:9010' })).toThrow('--insecure');
    expect(resolveHub({ store: '/s', listen: '0.0.0.0:9010', insecure: true }).listen.host).toBe('0.0.0.0');
    expect(() => resolveHub({ store: '/s', listen: 'unix:/x' })).toThrow('is not an address');
  });
});

describe('parseTimeout', () => {
  it('is in seconds unless it says otherwise', () => {
    expect(parseTimeout(undefined, '--timeout')).toBeUndefined();
    expect(parseTimeout('2', '--timeout')).toBe(2000);
    expect(parseTimeout('250ms', '--timeout')).toBe(250);
    expect(() => parseTimeout('soon', '--timeout')).toThrow('--timeout');
    expect(() => parseTimeout('10000h', '--timeout')).toThrow('24 days');
  });
});
