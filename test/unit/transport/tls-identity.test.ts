// DNS names read out of what Node prints of a certificate: one entry can't pass for two.
import { expect, it } from 'vitest';
import { dnsNames } from '../../../src/transport/tls-identity.ts';

it.each([
  [undefined, []],
  ['', []],
  ['DNS:a.example', ['a.example']],
  ['DNS:a.example, IP Address:192.0.2.1, DNS:*.b, URI:http://x/', ['a.example', '*.b']],
  ['IP Address:0:0:0:0:0:0:0:1, DNS:a', ['a']],
  ['URI:"http://x/, DNS:evil", DNS:good', ['good']],
  ['DNS:"a, DNS:evil"', ['a, DNS:evil']],
  ['DNS:"a\\", DNS:evil"', ['a", DNS:evil']],
  ['DNS:good, DNS:"unclosed', []],
  ['DNS:a b:c,DNS:evil', []],
] as const)('%j names %j', (text, names) => {
  expect(dnsNames(text)).toEqual(names);
});
