// What `--export` and `--allow` make of each image.
import { describe, expect, it } from 'vitest';
import { resolveServe } from '../../../src/cli/commands/serve.ts';
import { type ExportDefaults, type ExportSettings, parseExports } from '../../../src/cli/parse-export.ts';
import { mayUse } from '../../../src/nbd/access.ts';
import { localClient } from '../../../src/nbd/client-identity.ts';

const NAMES = ['root', 'data', 'odd,name'];

function parse(texts: string[], defaults: Partial<ExportDefaults> = {}): (name: string) => ExportSettings {
  const all = parseExports(texts, NAMES, { allow: undefined, readOnly: false, ...defaults });
  return (name) => all.get(name)!;
}

function admits(settings: ExportSettings, address: string | undefined): boolean {
  return mayUse(settings.visibility.access, { ...localClient(), address });
}

describe('parseExports', () => {
  it('gives every image settings that shut nobody out', () => {
    const of = parse([]);
    for (const name of NAMES) {
      expect(of(name)).toMatchObject({ readOnly: false, rotational: false, description: undefined });
      expect(of(name).visibility.hidden).toBe(false);
      expect([admits(of(name), '192.0.2.1'), admits(of(name), undefined)]).toEqual([true, true]);
    }
  });

  it('reads every option, for that image alone', () => {
    const of = parse([
      'root,read-only,hidden,rotational=on,description=my disk,, the first,allow=10.0.0.0/8+unix,allow=fd00::/8',
    ]);
    const root = of('root');
    expect(root).toMatchObject({ readOnly: true, rotational: true, description: 'my disk, the first' });
    expect(root.visibility.hidden).toBe(true);
    expect(admits(root, '10.1.1.1') && admits(root, 'fd00::2') && admits(root, undefined)).toBe(true);
    expect(admits(root, '11.1.1.1')).toBe(false);
    expect(of('data')).toMatchObject({ readOnly: false, visibility: { hidden: false } });
    expect(admits(of('data'), '11.1.1.1')).toBe(true);
  });

  it('takes names of certificates and keys', () => {
    const { access } = parse(['data,allow-cert=anna+bert,allow-psk=carl'])('data').visibility;
    expect(access.certificates).toEqual(new Set(['anna', 'bert']));
    expect(access.keys).toEqual(new Set(['carl']));
    expect(mayUse(access, localClient())).toBe(false);
  });

  it('lets --allow be the default, and an allow of its own replace it', () => {
    const of = parse(['data,allow=192.0.2.1'], { allow: ['10.0.0.0/8+unix', 'fd00::/8'] });
    expect([admits(of('root'), '10.0.0.1'), admits(of('root'), undefined)]).toEqual([true, true]);
    expect([admits(of('root'), 'fd00::1'), admits(of('root'), '192.0.2.1')]).toEqual([true, false]);
    expect([admits(of('data'), '192.0.2.1'), admits(of('data'), '10.0.0.1')]).toEqual([true, false]);
  });

  it('never takes --read-only back', () => {
    expect(parse(['root,read-only=off'], { readOnly: true })('root').readOnly).toBe(true);
  });

  it('finds names with commas', () => {
    expect(parse(['odd,,name,hidden'])('odd,name').visibility.hidden).toBe(true);
  });

  it.each([
    [['rot,hidden'], '--export: no image is called "rot"; the images are root, data, odd,name'],
    [['root,hidden', 'root,read-only'], '--export: root was given twice'],
    [['root,hiden'], 'export root: unknown option "hiden": it takes read-only, hidden, rotational, desc'],
    [['root,hidden=maybe'], 'export root: option hidden: "maybe" is neither on nor off'],
    [['root,allow=10.0.0.1/8'], 'export root: option allow: 10.0.0.1/8 has bits beyond its prefix'],
    [['root,allow=localhost'], 'export root: option allow: "localhost" is no network'],
    [['root,allow='], 'export root: option allow has an empty element'],
    [[',hidden'], 'export ",hidden": must start with a name'],
  ])('refuses %j', (texts, message) => {
    expect(() => parse(texts)).toThrow(message);
  });

  it('names --allow where that is wrong', () => {
    expect(() => parse([], { allow: ['10.0.0.0/33'] })).toThrow('--allow: the prefix of 10.0.0.0/33');
    expect(() => parse([], { allow: ['a+'] })).toThrow('--allow has an empty element');
  });
});

it('resolveServe hands the options over, under the names of the images', () => {
  const { exports } = resolveServe({
    image: ['/a/one.img', 'two=b.img'],
    export: ['two,hidden'],
    allow: ['unix'],
    'read-only': true,
  });
  expect([...exports.keys()]).toEqual(['one', 'two']);
  expect(exports.get('two')).toMatchObject({ readOnly: true, visibility: { hidden: true } });
  expect(exports.get('one')?.visibility.access.from).toEqual({ local: true, networks: [] });
});
