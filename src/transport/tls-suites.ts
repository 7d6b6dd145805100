// Which TLS versions and cipher suites are spoken, by both sides.

/** TLS 1.2 and later: the NBD protocol demands no less. */
export const TLS_MIN_VERSION = 'TLSv1.2';

/** Of TLS 1.3: every one of them is sound. */
const SUITES_13 = ['TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256', 'TLS_AES_128_GCM_SHA256'];

/**
 * The same where there are pre-shared keys: those go with SHA-256 only, and a server that holds a certificate too and
 * prefers another hash would pass over the key that a client offers.
 */
const SUITES_13_PSK = ['TLS_AES_128_GCM_SHA256', 'TLS_CHACHA20_POLY1305_SHA256', 'TLS_AES_256_GCM_SHA384'];

/** Of TLS 1.2 with certificates: forward secrecy and authenticated encryption, nothing else. */
const CERTIFICATE_SUITES_12 = [
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
];

/** Of TLS 1.2 with pre-shared keys: forward secrecy; CBC last, for clients that know nothing better. */
const PSK_SUITES_12 = [
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'ECDHE-PSK-AES128-CBC-SHA256',
];

/** The suites for one kind of proof or both, as OpenSSL takes them. */
export function cipherSuites(proofs: { readonly certificate: boolean; readonly psk: boolean }): string {
  return [
    ...(proofs.psk ? SUITES_13_PSK : SUITES_13),
    ...(proofs.psk ? PSK_SUITES_12 : []),
    ...(proofs.certificate ? CERTIFICATE_SUITES_12 : []),
  ].join(':');
}
