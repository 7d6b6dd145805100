// NBD URIs: what they mean, and what is wrong with those that mean nothing.
import { describe, expect, it } from 'vitest';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { type NbdAddress, parseNbdUri } from '../../../src/blockdev/nbd-uri.ts';

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
    ['nbd://host/?x-colour=red', /unknown parameter "x-colour"; allowed: socket/],
    ['nbd+unix:///x', /socket is missing/],
    ['nbd+unix:///x?socket=', /socket is missing/],
    ['nbd+unix:///x?socket', /socket is missing/],
    ['nbd+unix://host/x?socket=s', /no host/],
    ['nbd+unix:/x?socket=s', /use nbd/],
    ['nbd+unix:///x?socket=a&socket=b', /twice/],
    ['nbd+unix:///x?socket=a%00b', /no NUL/],
    [`nbd+unix:///x?socket=/${'a'.repeat(107)}`, /at most 107 bytes/],
    ['nbd+unix:///x?sokcet=a', /unknown parameter "sokcet"/],
  ];
  it.each(WRONG)('refuses %s', (uri, words) => {
    const parse = (): NbdAddress => parseNbdUri(uri);
    expect(parse).toThrow(UsageError);
    expect(parse).toThrow(words);
    expect(parse).toThrow(JSON.stringify(uri));
  });

  it.each(['nbds://host/x', 'NBDS://host', 'nbds+unix:///x?socket=s', 'nbd://host/x?tls-type=psk'])(
    'says that TLS comes later: %s',
    (uri) => {
      expect(() => parseNbdUri(uri)).toThrow(OperationError);
      expect(() => parseNbdUri(uri)).toThrow(/TLS.*comes later/);
    },
  );
});
