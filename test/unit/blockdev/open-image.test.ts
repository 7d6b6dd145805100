import fs from 'node:fs';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OperationError, UsageError } from '../../../src/base/errors.ts';
import { silentLogger } from '../../../src/base/log.ts';
import { guessFormat } from '../../../src/blockdev/image-format.ts';
import { isNbdSource, openImage } from '../../../src/blockdev/open-image.ts';
import { OrderedDevice } from '../../../src/blockdev/ordered-device.ts';
import { settled } from '../../support/block-device-suite.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

const HEADS: Record<string, Buffer> = {
  qcow2: Buffer.from('QFI\xfb\0\0\0\x03', 'latin1'),
  vmdk: Buffer.from('KDMV'),
  vhdx: Buffer.from('vhdxfile'),
  vpc: Buffer.from('conectix'),
  qed: Buffer.from('QED\0'),
  vdi: Buffer.concat([Buffer.alloc(64), Buffer.from([0x7f, 0x10, 0xda, 0xbe])]),
};

describe('openImage', () => {
  let dir: TempDir;

  beforeEach(() => {
    dir = tempDir();
  });

  afterEach(() => dir.remove());

  it('opens a path as a raw image whose changes are ordered', async () => {
    const device = await openImage({
      source: dir.file('a.img'),
      createSizeBytes: 4096,
      logger: silentLogger,
    });
    expect(device).toBeInstanceOf(OrderedDevice);
    expect(device.sizeBytes).toBe(4096);
    await device.close();
  });

  it('refuses options that do not go together', async () => {
    const common = { logger: silentLogger };
    const wrong = [
      { ...common, source: 'nbd://localhost', format: 'qcow2' },
      { ...common, source: 'nbd+unix:///?socket=/x', createSizeBytes: 512 },
      { ...common, source: dir.file('a.qcow2'), format: 'qcow2', createSizeBytes: 512 },
      { ...common, source: dir.file('a.img'), readOnly: true, createSizeBytes: 512 },
      { ...common, source: 'nbd:localhost:10809' },
    ];
    for (const options of wrong) expect(await settled(() => openImage(options))).toBeInstanceOf(UsageError);
    expect(fs.readdirSync(dir.path)).toEqual([]);
  });

  it('says what to do about an upstream server that is not there', async () => {
    const source = `nbd+unix:///?socket=${dir.file('none.sock')}`;
    expect(await settled(() => openImage({ source, logger: silentLogger }))).toBeInstanceOf(OperationError);
  });

  it('tells NBD addresses from paths', () => {
    for (const uri of [
      'nbd://h',
      'NBD://h',
      'nbd+unix:///?socket=/s',
      'nbds://h',
      'nbds+unix:///x',
      'nbd:h:1',
    ]) {
      expect(isNbdSource(uri), uri).toBe(true);
    }
    for (const path of ['/dev/nbd0', 'nbd.img', './nbd:x', 'disk', 'nbd/x', '/a/nbd://b']) {
      expect(isNbdSource(path), path).toBe(false);
    }
  });

  it('warns of an image in another format that is opened raw, and opens it', async () => {
    const lines: string[] = [];
    const logger = pino({ level: 'warn' }, { write: (line: string) => lines.push(line) });
    const source = dir.file('a.img');
    fs.writeFileSync(source, Buffer.concat([HEADS.qcow2!, Buffer.alloc(512)]).subarray(0, 512));
    await (await openImage({ source, logger })).close();
    expect(lines.join()).toContain('--format qcow2');
    fs.writeFileSync(source, Buffer.alloc(512));
    lines.length = 0;
    await (await openImage({ source, logger })).close();
    expect(lines).toEqual([]);
  });
});

describe('guessFormat', () => {
  it('knows formats by their first bytes', () => {
    for (const [format, head] of Object.entries(HEADS)) {
      expect(guessFormat(Buffer.concat([head, Buffer.alloc(512)]))).toBe(format);
    }
    expect(guessFormat(Buffer.alloc(512))).toBeUndefined();
    expect(guessFormat(Buffer.from('QF'))).toBeUndefined();
    expect(guessFormat(Buffer.alloc(0))).toBeUndefined();
  });
});
