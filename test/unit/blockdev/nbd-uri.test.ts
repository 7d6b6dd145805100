// NBD URIs: what they mean, and what is wrong with those that mean nothing.
import { describe, expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { type NbdAddress, type NbdTls, parseNbdUri, secureForm } from '../../../src/blockdev/nbd-uri.ts';

type Expected = Partial<{ host: string; port: number; path: string; exportName: string }>;

describe('parseNbdUri', () => {
  const TCP: Array<[string, Expected]> = [
    ['nbd://example.com/disk', { host: 'example.com', port: 10809, exportName: 'disk' }],
    ['nbd://example.com/', { exportName: '' }],
    ['nbd://example.com', { exportName: '' }],
    ['nbd://example.com//disk', { exportName: '/disk' }],
    ['nbd://example.com/hello%20world', { exportName: 'hello world' }],
    ['nbd://example.com/a/../b/./c', { exportName: 'a/../b/./c' }],
    ['nbd://example.com/%E3%83%87%E3%82%A3', { exportName: 'ディ' }],
    ['nbd://example.com/a%2Fb%3Fc%23d%25', { exportName: 'a/b?c#d%' }],
    ['nbd://example.com/a+b', { exportName: 'a+b' }],
    ['nbd://example.com/x?', { exportName: 'x' }],
    ['NBD://Example.com:1/x', { host: 'Example.com', port: 1 }],
    ['nbd://127.0.0.1:65535', { host: '127.0.0.1', port: 65535 }],
    ['nbd://host:/x', { host: 'host', port: 10809 }],
    ['nbd://[::1]/x', { host: '::1', port: 10809, exportName: 'x' }],
    ['nbd://[2001:db8::7]:4444/x', { host: '2001:db8::7', port: 4444 }],
    ['nbd://[fe80::1%25eth0]:4444', { host: 'fe80::1%eth0', port: 4444 }],
    ['nbd:///x', { host: 'localhost', port: 10809, exportName: 'x' }],
    ['nbd://', { host: 'localhost', exportName: '' }],
  ];
  it.each(TCP)('reads %s', (uri, expected) => {
    expect(parseNbdUri(uri)).toMatchObject({ kind: 'tcp', uri, ...expected });
  });

  const UNIX: Array<[string, Expected]> = [
    ['nbd+unix:///disk?socket=/run/nbd.sock', { path: '/run/nbd.sock', exportName: 'disk' }],
    ['nbd+unix:///?socket=nbd.sock', { path: 'nbd.sock', exportName: '' }],
    ['nbd+unix://?socket=nbd.sock', { path: 'nbd.sock', exportName: '' }],
    ['nbd+unix:////disk?socket=s', { exportName: '/disk' }],
    ['nbd+unix:///?socket=/a%20b/%2525+', { path: '/a b/%25+' }],
    ['nbd+unix:///?socket=/a=b', { path: '/a=b' }],
    ['nbd+unix:///?socket=%00/abstract', { path: '\0/abstract' }],
    ['nbd+unix:///?&socket=s&', { path: 's' }],
  ];
  it.each(UNIX)('reads %s', (uri, expected) => {
    expect(parseNbdUri(uri)).toMatchObject({ kind: 'unix', uri, ...expected } satisfies Partial<NbdAddress>);
  });

  const WRONG: Array<[string, RegExp]> = [
    ['', /no NBD URI; use nbd:\/\/HOST/],
    ['disk.img', /no NBD URI/],
    ['http://example.com', /no NBD URI/],
    ['nbd+vsock://2', /no NBD URI/],
    ['nbd:localhost:10809', /use nbd:\/\/localhost:10809\//],
    ['nbd:localhost:10809:exportname=a b', /use nbd:\/\/localhost:10809\/a%20b/],
    ['nbd:unix:/run/s:exportname=x', /use nbd\+unix:\/\/\/x\?socket=\/run\/s/],
    ['nbd:nonsense', /use nbd:\/\/HOST/],
    ['nbd://host:0', /port of 1 to 65535/],
    ['nbd://host:65536', /port of 1 to 65535/],
    ['nbd://host:http', /port of 1 to 65535/],
    ['nbd://host:-1', /port of 1 to 65535/],
    ['nbd://::1/x', /\[IPv6\]/],
    ['nbd://[::1', /\[IPv6\]/],
    ['nbd://[localhost]/', /not an IPv6 address/],
    ['nbd://a%20b/', /not a host name/],
    ['nbd://user@host/', /user name.*TLS/],
    ['nbd://host/a#b', /%23/],
    ['nbd://host/%zz', /percent-encoded/],
    ['nbd://host/%ff', /percent-encoded UTF-8/],
    ['nbd://host/%00', /no NUL/],
    [`nbd://host/${'a'.repeat(4097)}`, /at most 4096 bytes/],
    [`nbd://host/${'%C3%BC'.repeat(2049)}`, /at most 4096 bytes/],
    ['nbd://host/?socket=s', /nbd\+unix/],
    ['nbd://host/?x-colour=red', /unknown parameter "x-colour"; allowed: socket, tls-type/],
    ['nbd+unix:///x', /socket is missing/],
    ['nbd+unix:///x?socket=', /socket is missing/],
    ['nbd+unix:///x?socket', /socket is missing/],
    ['nbd+unix://host/x?socket=s', /no host/],
    ['nbd+unix:/x?socket=s', /use nbd/],
    ['nbd+unix:///x?socket=a&socket=b', /twice/],
    ['nbd+unix:///x?socket=a%00b', /no NUL/],
    [`nbd+unix:///x?socket=/${'a'.repeat(107)}`, /at most 107 bytes/],
    ['nbds://host/x', /tls-certificates=DIR or tls-psk-file=FILE/],
    ['nbds+unix:///x?socket=s', /tls-certificates=DIR or tls-psk-file=FILE/],
    ['nbds://host/x?tls-certificates=d&tls-psk-file=k', /either/],
    ['nbds://host/x?tls-certificates=', /either/],
    ['nbds://host/x?tls-type=psk&tls-certificates=d', /either/],
    ['nbds://host/x?tls-type=anon', /x509 and psk/],
    ['nbds://host/x?tls-certificates=d&tls-verify-peer=0', /always verified/],
    ['nbds://host/x?tls-certificates=d&socket=s', /nbd\+unix/],
    ['nbds://a%ff@host/x?tls-psk-file=k', /percent-encoded/],
    ['nbd://host/x?tls-certificates=d', /only with TLS/],
    ['nbd+unix:///x?socket=s&tls-hostname=h', /only with TLS/],
    ['nbd+unix:///x?sokcet=a', /unknown parameter "sokcet"/],
  ];
  it.each(WRONG)('refuses %s', (uri, words) => {
    const parse = (): NbdAddress => parseNbdUri(uri);
    expect(parse).toThrow(UsageError);
    expect(parse).toThrow(words);
    expect(parse).toThrow(JSON.stringify(uri));
  });

  const TLS: Array<[string, Expected, Partial<NbdTls>]> = [
    [
      'nbds://disk.example/x?tls-certificates=/etc/pki/nbd',
      { host: 'disk.example', port: 10809, exportName: 'x' },
      { dir: '/etc/pki/nbd', pskFile: undefined, username: undefined, hostname: 'disk.example' },
    ],
    [
      'NBDS://alice@10.0.0.7:1/?tls-psk-file=/k%20eys.psk',
      { host: '10.0.0.7', port: 1, exportName: '' },
      { dir: undefined, pskFile: '/k eys.psk', username: 'alice', hostname: '10.0.0.7' },
    ],
    ['nbds://h?tls-psk-file=k&tls-username=bob&tls-type=psk', { host: 'h' }, { username: 'bob' }],
    ['nbds://h?tls-certificates=d&tls-hostname=other&tls-type=x509', { host: 'h' }, { hostname: 'other' }],
    ['nbds://h?tls-certificates=d&tls-verify-peer=1', { host: 'h' }, { hostname: 'h' }],
    ['nbds://[::1]:7/?tls-certificates=d', { host: '::1' }, { hostname: '::1' }],
    [
      'nbds+unix:///x?socket=/s&tls-certificates=d',
      { path: '/s', exportName: 'x' },
      { hostname: 'localhost' },
    ],
    ['nbds+unix://alice@/x?socket=/s&tls-psk-file=k', { path: '/s' }, { username: 'alice' }],
    ['nbds+unix:///?socket=s&tls-hostname=h&tls-certificates=d', { path: 's' }, { hostname: 'h' }],
  ];
  it.each(TLS)('reads %s', (uri, place, tls) => {
    const address = parseNbdUri(uri);
    expect(address).toMatchObject({ uri, ...place });
    expect(address.tls).toMatchObject(tls);
  });

  it('means no TLS without the s', () => {
    expect(parseNbdUri('nbd://host/x').tls).toBeUndefined();
    expect(parseNbdUri('nbd+unix:///x?socket=s').tls).toBeUndefined();
  });

  it.each([
    ['nbd://h:1/x', 'nbds://h:1/x?tls-certificates=DIR'],
    ['nbd+unix:///x?socket=s', 'nbds+unix:///x?socket=s&tls-certificates=DIR'],
  ])('names the secure form of %s', (uri, start) => {
    expect(secureForm(uri).startsWith(start)).toBe(true);
  });
});
