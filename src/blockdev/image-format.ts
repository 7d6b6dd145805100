// Tells image formats by their first bytes, only to warn about one that is opened as raw by mistake. Must never
// decide how an image is opened: a guest writes those bytes, and could choose a format for us.

interface Magic {
  readonly format: string;
  readonly offset: number;
  readonly bytes: Buffer;
}

const MAGICS: readonly Magic[] = [
  { format: 'qcow2', offset: 0, bytes: Buffer.from('QFI\xfb', 'latin1') },
  { format: 'vmdk', offset: 0, bytes: Buffer.from('KDMV') },
  { format: 'vhdx', offset: 0, bytes: Buffer.from('vhdxfile') },
  { format: 'vpc', offset: 0, bytes: Buffer.from('conectix') },
  { format: 'vdi', offset: 0x40, bytes: Buffer.from([0x7f, 0x10, 0xda, 0xbe]) },
  { format: 'qed', offset: 0, bytes: Buffer.from('QED\0') },
];

/** The format that an image's first 512 bytes look like, as qemu-img names it; undefined when like none. */
export function guessFormat(head: Buffer): string | undefined {
  return MAGICS.find(({ offset, bytes }) => head.subarray(offset, offset + bytes.length).equals(bytes))
    ?.format;
}
