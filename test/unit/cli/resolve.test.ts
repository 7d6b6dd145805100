// What serve, hub and wait make of their options.
import { describe, expect, it } from 'vitest';
import { resolveHub } from '../../../src/cli/commands/hub.ts';
import { resolveServe } from '../../../src/cli/commands/serve.ts';
import { parseTimeout } from '../../../src/cli/parse-values.ts';

describe('resolveServe', () => {
  it('has defaults for everything but the image', () => {
    expect(resolveServe({ image: ['d.img'] })).toMatchObject({
      images: [{ name: 'd', source: 'd.img' }],
      format: 'raw',
      createSizeBytes: undefined,
      listen: [],
      hub: undefined,
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
      hub: 'h',
      listen: ['127.0.0.1:0', 'unix:/a'],
    });
    expect(config).toMatchObject({
      createSizeBytes: 64 * 2 ** 20,
      queueBytes: 2 ** 20,
      maxConnections: 3,
      hub: { host: 'h', port: 9010 },
      listen: [
        { kind: 'tcp', host: '127.0.0.1', port: 0 },
        { kind: 'unix', path: '/a' },
      ],
    });
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
