// What went wrong with TLS, in words that say whose fault it is. OpenSSL's own are about its internals.
import { errorCode, errorMessage } from '../base/errors.ts';

export type TlsSide = 'server' | 'client';

/** Reasons that read the same on both sides, by error code. PEER stands for the other side. */
const REASONS: Readonly<Record<string, string>> = {
  ERR_SSL_UNSUPPORTED_PROTOCOL: 'the PEER speaks no TLS version above 1.1; 1.2 or later is needed',
  ERR_SSL_VERSION_TOO_LOW: 'the PEER speaks no TLS version above 1.1; 1.2 or later is needed',
  ERR_SSL_WRONG_VERSION_NUMBER: 'the PEER sent something that is not TLS',
  ERR_SSL_HTTP_REQUEST: 'the PEER sent something that is not TLS',
  ERR_SSL_HTTPS_PROXY_REQUEST: 'the PEER sent something that is not TLS',
  ERR_SSL_UNEXPECTED_MESSAGE: 'the PEER sent something that is not TLS',
  ERR_SSL_BAD_RECORD_TYPE: 'the PEER sent something that is not TLS',
  ERR_SSL_UNKNOWN_PROTOCOL: 'the PEER sent something that is not TLS',
  ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION: 'the PEER wants another TLS version; 1.2 and 1.3 are spoken here',
  ERR_SSL_TLSV1_ALERT_UNKNOWN_CA:
    "the PEER doesn't trust the CA of our certificate: its ca-cert.pem is another",
  ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE: 'the PEER refused our certificate',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_UNKNOWN: 'the PEER refused our certificate',
  ERR_SSL_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE: 'the PEER refused our certificate: it is not for this purpose',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_EXPIRED: 'the PEER refused our certificate: it has expired',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_REVOKED: 'the PEER refused our certificate: it was revoked',
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'the PEER asks for a certificate, and we have none to show',
  ERR_SSL_TLSV1_ALERT_ACCESS_DENIED: 'the PEER denied us access',
  ERR_SSL_TLSV1_ALERT_UNKNOWN_PSK_IDENTITY: "the PEER doesn't know the user of our key",
  ERR_SSL_BINDER_DOES_NOT_VERIFY: 'the key of the PEER is not the one in our file',
  ERR_SSL_DECRYPTION_FAILED_OR_BAD_RECORD_MAC: 'the key of the PEER is not the one in our file',
  ERR_SSL_DIGEST_CHECK_FAILED: 'the key of the PEER is not the one in our file',
  ERR_SSL_SSLV3_ALERT_BAD_RECORD_MAC: 'the PEER found our key not to be the one in its file',
  ERR_SSL_TLSV1_ALERT_DECRYPT_ERROR: 'the PEER found our key not to be the one in its file',
  ERR_SSL_SSLV3_ALERT_ILLEGAL_PARAMETER: 'the PEER found our key not to be the one in its file',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'the certificate of the PEER is not signed by ca-cert.pem',
  UNABLE_TO_GET_ISSUER_CERT: 'the certificate of the PEER is not signed by ca-cert.pem',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'the certificate of the PEER is not signed by ca-cert.pem',
  SELF_SIGNED_CERT_IN_CHAIN: 'the certificate of the PEER is not signed by ca-cert.pem',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'the certificate of the PEER is not signed by ca-cert.pem',
  CERT_SIGNATURE_FAILURE: 'the certificate of the PEER is not signed by ca-cert.pem',
  CERT_UNTRUSTED: 'the certificate of the PEER is not signed by ca-cert.pem',
  CERT_HAS_EXPIRED: 'the certificate of the PEER has expired',
  CERT_NOT_YET_VALID: 'the certificate of the PEER is not valid yet: are the clocks right?',
  CERT_REVOKED: 'the certificate of the PEER was revoked',
  CRL_HAS_EXPIRED: 'the list of revoked certificates, ca-crl.pem, has expired',
  UNABLE_TO_GET_CRL: 'ca-crl.pem is not of the CA that signed the certificate of the PEER',
  INVALID_PURPOSE: 'the certificate of the PEER is not for this purpose (extendedKeyUsage)',
  ECONNRESET: 'the PEER went away during the TLS handshake',
  EPIPE: 'the PEER went away during the TLS handshake',
};

const OF_CLIENTS: Readonly<Record<string, string>> = {
  ERR_SSL_NO_SHARED_CIPHER:
    'the client offers no way of proving itself, or no cipher suite, that is accepted here',
  ERR_SSL_NO_SUITABLE_SIGNATURE_ALGORITHM:
    'the client offers no pre-shared key, or no signature algorithm, that is accepted here',
};

const OF_SERVERS: Readonly<Record<string, string>> = {
  ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE:
    'the server accepts neither our way of proving ourselves nor our cipher suites: is it certificates here and keys there?',
  ERR_TLS_CERT_ALTNAME_INVALID: "the server's certificate is for another name",
};

/**
 * Why TLS with the other side failed, in one clause.
 * @param peer which side the other one is
 */
export function tlsFailure(error: unknown, peer: TlsSide): string {
  const code = errorCode(error) ?? '';
  const own = peer === 'client' ? OF_CLIENTS : OF_SERVERS;
  const reason = own[code] ?? REASONS[code]?.replace('PEER', peer);
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') return `${reason}: ${errorMessage(error)}`;
  return reason ?? `TLS failed: ${errorMessage(error)}`;
}
