// The TLS options of `serve`, as one value. Nothing is read here: files are run/tls.ts's business.
import { resolve } from 'node:path';
import { UsageError } from '../base/errors.ts';
import type { TlsMode } from '../nbdwire/server-handshake.ts';
import type { OptionTable, RawOptions } from './option-table.ts';
import { checkExposure, type ListenAddress } from './parse-address.ts';
import type { ExportSettings } from './parse-export.ts';

export const TLS_OPTIONS = {
  tls: {
    type: 'text',
    describe: 'encryption of NBD connections',
    choices: ['off', 'allow', 'require'],
    fallback: 'off; require once --tls-dir or --tls-psk is given',
  },
  'tls-dir': {
    type: 'text',
    describe: 'directory of ca-cert.pem, server-cert.pem, server-key.pem, and ca-crl.pem if there is one',
  },
  'tls-psk': { type: 'text', describe: 'file of pre-shared keys, as psktool makes it; `USER:HEXKEY` a line' },
  'tls-verify-peer': {
    type: 'flag',
    describe: 'let in only clients with a certificate of ca-cert.pem, or a pre-shared key',
  },
} as const satisfies OptionTable;

export interface TlsConfig {
  readonly mode: TlsMode;
  /** Absolute. With a mode other than `off` at least one of the two is there. */
  readonly dir: string | undefined;
  readonly pskFile: string | undefined;
  readonly verifyPeer: boolean;
}

/** @throws UsageError for options that contradict each other: none of them is quietly ignored but by `--tls off` */
export function parseTls(raw: RawOptions<typeof TLS_OPTIONS>): TlsConfig {
  const dir = raw['tls-dir'];
  const pskFile = raw['tls-psk'];
  const verifyPeer = raw['tls-verify-peer'] ?? false;
  const hasFiles = dir !== undefined || pskFile !== undefined;
  const mode = raw.tls ?? (hasFiles ? 'require' : 'off');
  if (mode !== 'off' && !hasFiles) {
    throw new UsageError(`--tls ${mode} needs --tls-dir DIR or --tls-psk FILE, or both`);
  }
  if (verifyPeer && mode === 'off') throw new UsageError('--tls-verify-peer needs TLS, and that is off');
  if (verifyPeer && dir === undefined) {
    throw new UsageError('--tls-verify-peer is about certificates: add --tls-dir; a key is always verified');
  }
  return {
    mode,
    dir: dir === undefined ? undefined : resolve(dir),
    pskFile: pskFile === undefined ? undefined : resolve(pskFile),
    verifyPeer,
  };
}

/** Refuses an export that nobody could ever open. @throws UsageError */
export function checkTlsRules(exports: ReadonlyMap<string, ExportSettings>, tls: TlsConfig): void {
  const isOn = tls.mode !== 'off';
  for (const [name, { visibility }] of exports) {
    const { certificates, keys } = visibility.access;
    if (certificates && !(isOn && tls.dir !== undefined)) {
      throw new UsageError(`export ${name}: allow-cert needs TLS with certificates; add --tls-dir DIR`);
    }
    if (keys && !(isOn && tls.pskFile !== undefined)) {
      throw new UsageError(`export ${name}: allow-psk needs TLS with pre-shared keys; add --tls-psk FILE`);
    }
  }
}

/** Refuses an address that other machines reach, unless every client there must use TLS. @throws UsageError */
export function checkNbdExposure(
  addresses: readonly ListenAddress[],
  tls: TlsConfig,
  insecure: boolean,
): void {
  const remedy = 'require TLS with --tls-dir or --tls-psk';
  checkExposure(addresses, insecure || tls.mode === 'require', 'NBD connections', remedy);
}
