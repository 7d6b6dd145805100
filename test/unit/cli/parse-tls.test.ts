// What the TLS options of `serve` mean together.
import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { resolveServe } from '../../../src/cli/commands/serve.ts';
import { parseTls } from '../../../src/cli/parse-tls.ts';

describe('TLS options', () => {
  it('are off by default, and require TLS once files are given', () => {
    expect(parseTls({}).mode).toBe('off');
    const given = parseTls({ 'tls-dir': 'pki', 'tls-psk': '/k', 'tls-verify-peer': true });
    expect(given).toEqual({ mode: 'require', dir: resolve('pki'), pskFile: '/k', verifyPeer: true });
    expect(parseTls({ 'tls-psk': 'k' }).mode).toBe('require');
    expect(parseTls({ 'tls-psk': 'k', tls: 'allow' }).mode).toBe('allow');
    expect(parseTls({ 'tls-psk': 'k', tls: 'off' }).mode).toBe('off');
  });

  it.each([
    [{ tls: 'require' }, '--tls require needs --tls-dir DIR or --tls-psk FILE'],
    [{ tls: 'allow' }, '--tls allow needs'],
    [{ 'tls-verify-peer': true }, '--tls-verify-peer needs TLS'],
    [{ 'tls-verify-peer': true, 'tls-dir': 'd', tls: 'off' }, '--tls-verify-peer needs TLS'],
    [{ 'tls-verify-peer': true, 'tls-psk': 'f' }, 'add --tls-dir'],
  ] as const)('%j are refused', (raw, message) => {
    expect(() => parseTls(raw)).toThrow(message);
  });
});

describe('serve', () => {
  const resolved = (more: Parameters<typeof resolveServe>[0]): unknown =>
    resolveServe({ image: ['a.img'], ...more });

  it.each([
    [{ export: ['a,allow-cert=x'] }, 'allow-cert needs TLS with certificates'],
    [{ export: ['a,allow-cert=x'], 'tls-psk': 'f' }, 'allow-cert needs TLS with certificates'],
    [{ export: ['a,allow-psk=x'], 'tls-dir': 'd' }, 'allow-psk needs TLS with pre-shared keys'],
    [{ export: ['a,allow-psk=x'], 'tls-psk': 'f', tls: 'off' }, 'allow-psk needs TLS with pre-shared keys'],
    [{ listen: ['0.0.0.0:1'] }, 'require TLS with --tls-dir or --tls-psk, or accept it with --insecure'],
    [{ listen: ['0.0.0.0:1'], 'tls-dir': 'd', tls: 'allow' }, 'can be reached from other machines'],
  ] as const)('refuses %j', (raw, message) => {
    expect(() => resolved(raw)).toThrow(message);
  });

  it.each([
    { export: ['a,allow-cert=x'], 'tls-dir': 'd' },
    { export: ['a,allow-psk=x'], 'tls-psk': 'f', tls: 'allow' },
    { listen: ['0.0.0.0:1'], 'tls-psk': 'f' },
    { listen: ['0.0.0.0:1'], 'tls-psk': 'f', tls: 'allow', insecure: true },
  ] as const)('takes %j', (raw) => {
    expect(() => resolved(raw)).not.toThrow();
  });
});
