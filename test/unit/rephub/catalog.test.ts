// Where replicas lie: pairs, the store's folder, names that try to get out of it, images reached by two paths.
import fs from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OperationError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { safeName } from '../../../src/base/safe-name.ts';
import { Catalog } from '../../../src/rephub/catalog.ts';
import { fileImages } from '../../../src/rephub/image-opener.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

let dir: TempDir;

beforeEach(() => {
  dir = tempDir();
});

afterEach(() => dir.remove());

function image(name: string, sizeBytes = 65_536): string {
  const file = dir.file(name);
  fs.writeFileSync(file, '');
  fs.truncateSync(file, sizeBytes);
  return file;
}

function catalogOf(pairs: Readonly<Record<string, string>>, storeDir?: string): Catalog {
  return new Catalog({ pairs: new Map(Object.entries(pairs)), storeDir, images: fileImages(silentLogger) });
}

describe('safeName', () => {
  const name = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 300 }),
    fc.constantFrom(
      '',
      '.',
      '..',
      '...',
      '/',
      'a/b',
      '../../etc/passwd',
      '%',
      '%2E',
      '%~',
      '\0',
      'a.',
      '.a',
      'CON',
    ),
  );

  it('gives one path component for any name, and another one for another name', () => {
    fc.assert(
      fc.property(name, name, (a, b) => {
        const safe = safeName(a);
        expect(safe).toMatch(/^[A-Za-z0-9_%~-][A-Za-z0-9_.%~-]*$/);
        expect(Buffer.byteLength(safe)).toBeLessThanOrEqual(200);
        expect(path.join('/store', safe, 'x')).toBe(`/store/${safe}/x`);
        expect(safeName(b) === safe).toBe(a === b);
      }),
      { numRuns: 2000 },
    );
  });

  it('leaves ordinary names as they are', () => {
    expect(['vda', 'root-disk_1', 'win10.qcow2'].map(safeName)).toEqual([
      'vda',
      'root-disk_1',
      'win10.qcow2',
    ]);
    expect(['..', 'a/b', '', 'ä', '%41'].map(safeName)).toEqual(['%2E.', 'a%2Fb', '%', '%C3%A4', '%2541']);
  });

  it('tells long names apart that begin alike', () => {
    const long = 'x'.repeat(250);
    expect(safeName(`${long}1`)).not.toBe(safeName(`${long}2`));
    expect(safeName('ä'.repeat(120))).toMatch(/^(%C3%A4)+(%C3)?%~[0-9a-f]{32}$/);
  });
});

describe('pairs', () => {
  it('are opened once at the start, and their sizes known', async () => {
    const catalog = catalogOf({ a: image('a.img'), b: image('b.img', 512) });
    expect(await catalog.checkPairs()).toEqual(
      new Map([
        ['pair:a', 65_536],
        ['pair:b', 512],
      ]),
    );
    expect(catalog.locate('any', 'a')).toMatchObject({ isPaired: true, path: dir.file('a.img') });
    expect(catalog.locate('any', 'c')).toBeUndefined();
  });

  it('whose image is missing say how to create it', async () => {
    const file = dir.file('none.img');
    await expect(catalogOf({ disk: file }).checkPairs()).rejects.toMatchObject({
      name: 'OperationError',
      message: `volume disk: its image ${file} does not exist`,
      hint: `create it with the volume's size: truncate -s SIZE ${file}, or use --store DIR`,
    });
  });

  it('whose image is no image, or has an odd size, say so', async () => {
    await expect(catalogOf({ disk: dir.path }).checkPairs()).rejects.toThrow('not a disk image');
    await expect(catalogOf({ disk: image('odd.img', 1000) }).checkPairs()).rejects.toThrow(
      'not a multiple of 512',
    );
    await expect(catalogOf({ disk: '/dev/null/x' }).checkPairs()).rejects.toBeInstanceOf(OperationError);
  });

  it('must not share an image, by whatever path it is reached', async () => {
    const file = image('a.img');
    fs.symlinkSync(file, dir.file('symlink.img'));
    fs.linkSync(file, dir.file('hardlink.img'));
    fs.mkdirSync(dir.file('sub'));
    for (const other of ['symlink.img', 'hardlink.img', 'sub/../a.img', 'a.img']) {
      await expect(catalogOf({ a: file, b: `${dir.path}/${other}` }).checkPairs()).rejects.toMatchObject({
        message: expect.stringContaining(`volumes a and b have the same image: ${file}`),
        hint: 'give each volume an image of its own',
      });
    }
  });

  it('whose size is not the volume’s name both sizes and the way out', async () => {
    const file = image('a.img');
    const catalog = catalogOf({ a: file });
    const place = catalog.locate('vm', 'a')!;
    await expect(catalog.openStore(place, 131_072)).rejects.toMatchObject({
      message: `volume a has 131072 bytes, its replica ${file} has 65536 bytes`,
      hint: `truncate -s 131072 ${file}`,
    });
    fs.truncateSync(file, 131_072);
    const store = await catalog.openStore(place, 131_072);
    expect(store.sizeBytes).toBe(131_072);
    await store.close();
  });

  it('whose image was removed since the start say so', async () => {
    const file = image('a.img');
    const catalog = catalogOf({ a: file });
    await catalog.checkPairs();
    fs.rmSync(file);
    await expect(catalog.openStore(catalog.locate('vm', 'a')!, 65_536)).rejects.toThrow('does not exist');
  });
});

describe('the store', () => {
  it('creates sparse images by machine and volume, and finds them again', async () => {
    const catalog = catalogOf({}, dir.file('store'));
    const place = catalog.locate('web 1', '../vda')!;
    expect(place.path).toBe(dir.file('store/web%201/%2E.%2Fvda'));
    const store = await catalog.openStore(place, 2 ** 30);
    await store.append([{ kind: 'write', offset: 0, data: Buffer.alloc(512, 5), fua: false }]);
    await store.close();
    const stat = fs.statSync(place.path);
    expect(stat.size).toBe(2 ** 30);
    expect(stat.blocks * 512).toBeLessThan(2 ** 20);
    const again = await catalog.openStore(place, 2 ** 30);
    const bytes = Buffer.alloc(512);
    await again.read(0, bytes);
    expect(bytes).toEqual(Buffer.alloc(512, 5));
    await again.close();
  });

  it('keeps an image that exists with another size', async () => {
    const catalog = catalogOf({}, dir.path);
    const place = catalog.locate('vm', 'vda')!;
    await (await catalog.openStore(place, 65_536)).close();
    await expect(catalog.openStore(place, 512)).rejects.toMatchObject({
      message: expect.stringContaining('has 512 bytes, its replica'),
      hint: `truncate -s 512 ${place.path}`,
    });
    expect(fs.statSync(place.path).size).toBe(65_536);
  });

  it('yields to pairs, and never has an image that a pair has', async () => {
    const store = dir.file('store');
    fs.mkdirSync(`${store}/vm`, { recursive: true });
    const file = image('store/vm/other');
    const catalog = catalogOf({ disk: file }, store);
    await catalog.checkPairs();
    expect(catalog.locate('vm', 'disk')).toMatchObject({ path: file, isPaired: true });
    const place = catalog.locate('vm', 'other')!;
    expect(place.path).toBe(file);
    await expect(catalog.openStore(place, 65_536)).rejects.toThrow('have the same image');
  });

  it('gives an image whose number the file system used again to whoever has it now', async () => {
    const catalog = catalogOf({}, dir.path);
    const first = catalog.locate('vm', 'first')!;
    const second = catalog.locate('vm', 'second')!;
    await (await catalog.openStore(first, 512)).close();
    // The same inode under the name of the second.
    fs.renameSync(first.path, second.path);
    await (await catalog.openStore(second, 512)).close();
    await (await catalog.openStore(first, 512)).close();
  });

  it('that cannot be written to says so', async () => {
    fs.writeFileSync(dir.file('file'), '');
    const catalog = catalogOf({}, dir.file('file/store'));
    await expect(catalog.openStore(catalog.locate('vm', 'vda')!, 512)).rejects.toBeInstanceOf(OperationError);
  });
});
