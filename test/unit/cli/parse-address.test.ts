import { describe, expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import {
  checkExposure,
  formatHostPort,
  parseControl,
  parseHostPort,
  parseHub,
  parseHubs,
  parseListen,
} from '../../../src/cli/parse-address.ts';

describe('parseListen', () => {
  it.each([
    ['127.0.0.1:10809', { kind: 'tcp', host: '127.0.0.1', port: 10809 }],
    ['localhost:0', { kind: 'tcp', host: 'localhost', port: 0 }],
    ['[::1]:65535', { kind: 'tcp', host: '::1', port: 65535 }],
    ['unix:/run/a b.sock', { kind: 'unix', path: '/run/a b.sock' }],
    ['unix:rel.sock', { kind: 'unix', path: 'rel.sock' }],
  ])('reads %s', (text, value) => expect(parseListen(text)).toEqual(value));

  it.each([
    '',
    ':1',
    '127.0.0.1',
    '127.0.0.1:',
    '::1:80',
    '[::1]',
    '[x]:1',
    'a:b',
    'a:1:2',
    'a:-1',
    'a:1e3',
    'a b:1',
    'nbd://a:1',
    'unix:',
    'a:999999',
  ])('refuses %j', (text) => expect(() => parseListen(text)).toThrow(UsageError));

  it('says what is allowed, and what was probably meant', () => {
    expect(() => parseListen('10809')).toThrow(
      '--listen: "10809" is not an address; use HOST:PORT, [IPV6]:PORT or unix:PATH; did you mean 127.0.0.1:10809?',
    );
    expect(() => parseListen('a:65536')).toThrow('--listen: port 65536 is outside 0..65535');
  });
});

describe('parseHubs', () => {
  it('calls each by its address, or as it was told to', () => {
    expect(parseHubs(['a', 'near=a:2', 'x.y-z=[::1]', 'repagent://b:1'])).toEqual([
      { name: 'a:9010', host: 'a', port: 9010 },
      { name: 'near', host: 'a', port: 2 },
      { name: 'x.y-z', host: '::1', port: 9010 },
      { name: 'b:1', host: 'b', port: 1 },
    ]);
    expect(parseHubs([])).toEqual([]);
  });

  it.each([
    [['a', 'a:9010'], '--hub: a:9010 is there twice; each hub makes one replica'],
    [['Hub.example', 'x=hub.EXAMPLE:9010'], '--hub: hub.example:9010 is there twice'],
    [['x=a', 'x=b'], '--hub: x is there twice'],
    [['a:1=b'], `--hub: "a:1=b" is not a hub's address`],
    [['=b'], `--hub: "=b" is neither a hub's address nor NAME=ADDRESS`],
    [['x='], `--hub: "" is not a hub's address`],
    [Array.from({ length: 9 }, (_, at) => `h${at}`), '--hub: 9 hubs are too many; at most 8'],
  ])('refuses %j', (texts, message) => expect(() => parseHubs(texts)).toThrow(message));
});

describe('parseHub', () => {
  it.each([
    ['hub.example', 'hub.example', 9010],
    ['hub.example:1', 'hub.example', 1],
    ['192.0.2.7', '192.0.2.7', 9010],
    ['[2001:db8::1]', '2001:db8::1', 9010],
    ['[2001:db8::1]:77', '2001:db8::1', 77],
    ['2001:db8::1', '2001:db8::1', 9010],
    ['repagent://127.0.0.1:9011', '127.0.0.1', 9011],
    ['repagent://[::1]:9011/', '::1', 9011],
  ])('reads %s', (text, host, port) => expect(parseHub(text)).toEqual({ host, port }));

  it.each(['', ':9010', 'a:', 'a:0', 'a:65536', 'http://a:1', 'a b', '[a]:1', 'unix:/x', 'a/b'])(
    'refuses %j',
    (text) => expect(() => parseHub(text)).toThrow(UsageError),
  );
});

describe('parseControl', () => {
  it('takes a socket path or loopback', () => {
    expect(parseControl('unix:/a')).toEqual({ kind: 'unix', path: '/a' });
    expect(parseControl('[::1]:7')).toEqual({ kind: 'tcp', host: '::1', port: 7 });
  });

  it.each(['0.0.0.0:7', '[::]:7', '192.0.2.1:7', 'example.org:7'])('refuses %s', (text) =>
    expect(() => parseControl(text)).toThrow(/can be reached from other machines/),
  );
});

describe('checkExposure', () => {
  const check = (text: string, insecure: boolean) =>
    checkExposure([parseListen(text)], insecure, 'NBD connections');

  it.each(['0.0.0.0:1', '[::]:1', '10.1.2.3:1', 'vm.example:1'])(
    'refuses %s unless it is accepted',
    (text) => {
      expect(() => check(text, false)).toThrow(/NBD connections are neither encrypted.*--insecure/);
      expect(() => check(text, true)).not.toThrow();
    },
  );

  it.each(['127.0.0.1:1', '[::1]:1', 'localhost:1', 'unix:/a'])('lets %s pass', (text) =>
    expect(() => check(text, false)).not.toThrow(),
  );
});

describe('formatHostPort', () => {
  it('is what parseHostPort reads', () => {
    for (const text of ['127.0.0.1:1', '[::1]:2', 'a.example:3']) {
      expect(formatHostPort(parseHostPort(text, 'x'))).toBe(text);
    }
  });
});
