import { describe, expect, it } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import { parseImage, parseImages, parsePairs } from '../../../src/cli/parse-image.ts';

describe('parseImage', () => {
  it.each([
    ['disk.img', 'disk', 'disk.img'],
    ['/var/lib/vm.1.qcow2', 'vm.1', '/var/lib/vm.1.qcow2'],
    ['plain', 'plain', 'plain'],
    ['.hidden', '.hidden', '.hidden'],
    ['root=/a/b.img', 'root', '/a/b.img'],
    ['a b=c=d.img', 'a b', 'c=d.img'],
    ['./a=b.img', 'a=b', './a=b.img'],
    ['/dir=x/a.img', 'a', '/dir=x/a.img'],
    ['/dev/sda', 'sda', '/dev/sda'],
    ['nbd://192.0.2.7/data', 'data', 'nbd://192.0.2.7/data'],
    ['nbd://host.example:10810', 'host.example', 'nbd://host.example:10810'],
    ['nbd://[::1]/', '::1', 'nbd://[::1]/'],
    ['nbd+unix:///x%20y?socket=/run/a.sock', 'x y', 'nbd+unix:///x%20y?socket=/run/a.sock'],
    ['nbd+unix:///?socket=/run/a.sock', 'a', 'nbd+unix:///?socket=/run/a.sock'],
    ['up=nbd://h/e?', 'up', 'nbd://h/e?'],
  ])('reads %s', (text, name, source) => expect(parseImage(text)).toEqual({ name, source }));

  it.each([
    '=x',
    'x=',
    '/',
    'a\nb=x',
    `${'n'.repeat(256)}=x`,
    'nbd://h:port/',
    'nbd:unix:/a',
    'nbd://h/a?socket=x',
  ])('refuses %j', (text) => expect(() => parseImage(text)).toThrow(UsageError));

  it('knows the notation that QEMU used before', () => {
    expect(() => parseImage('nbd:localhost:10809')).toThrow('use nbd://localhost:10809/');
  });
});

describe('parseImages', () => {
  it('keeps the order, the first is the default export', () => {
    expect(parseImages(['b.img', 'a.img']).map((one) => one.name)).toEqual(['b', 'a']);
  });

  it('refuses none, one name twice, and one file twice', () => {
    expect(() => parseImages([])).toThrow('name at least one image');
    expect(() => parseImages(['x/d.img', 'y/d.img'])).toThrow(
      'two images are called "d"; tell them apart with NAME=y/d.img',
    );
    expect(() => parseImages(['a=d.img', 'b=./d.img'])).toThrow('./d.img is given as "a" and as "b"');
  });
});

describe('parsePairs', () => {
  it('reads pairs', () => {
    expect(parsePairs(['a=/x/y=z.img'])).toEqual([{ name: 'a', source: '/x/y=z.img' }]);
  });

  it.each([['disk.img'], ['/a=b'], ['a='], ['a=x', 'a=y'], ['a=x', 'b=x'], ['a=nbd://h/x']])(
    'refuses %j %j',
    (...texts) => expect(() => parsePairs(texts)).toThrow(UsageError),
  );
});
