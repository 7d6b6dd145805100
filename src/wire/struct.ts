// Fixed binary layouts with names and types, over buffer-layout. The only file that imports it: it adds exact
// 64-bit fields (buffer-layout's own lose precision above 2^53) and refuses a missing field instead of skipping it.
import * as layout from 'buffer-layout';
import { fail } from '../base/assert.ts';

/** Bytes that do not mean what their layout says. The connection that sent them can't be trusted further. */
export class WireError extends Error {
  override readonly name = 'WireError';
}

export type FieldKind = 'u8' | 'u16' | 'u32' | 'i32' | 'u64' | 'size64' | BytesField | PaddingField;
export interface BytesField {
  readonly bytes: number;
}
export interface PaddingField {
  readonly padding: number;
}

/** `length` raw bytes, decoded as a Buffer that shares memory with its source. */
export const bytes = (length: number): BytesField => ({ bytes: length });

/** `length` bytes that are written as zero and ignored when read. */
export const padding = (length: number): PaddingField => ({ padding: length });

type FieldValue<K extends FieldKind> = K extends 'u64' ? bigint : K extends BytesField ? Buffer : number;

export type FieldSpec = Readonly<Record<string, FieldKind>>;

/** The values of a layout: u64 as bigint; size64 as a number, which is refused above 2^53 - 1. */
export type StructValue<S extends FieldSpec> = {
  [K in keyof S as S[K] extends PaddingField ? never : K]: FieldValue<S[K]>;
};

/** One row of a layout, as documentation shows it. */
export interface FieldInfo {
  readonly name: string;
  readonly offset: number;
  readonly sizeBytes: number;
  readonly type: string;
}

export interface Struct<S extends FieldSpec> {
  readonly name: string;
  readonly sizeBytes: number;
  readonly fields: readonly FieldInfo[];
  /** @throws WireError when `source` is too short or a size64 is above 2^53 - 1 */
  decode(source: Buffer, offset?: number): StructValue<S>;
  /** Writes the value at `offset`. @throws AssertionError when a field is missing or doesn't fit */
  encodeInto(value: StructValue<S>, target: Buffer, offset?: number): void;
  encode(value: StructValue<S>): Buffer;
}

export type Endian = 'le' | 'be';

class U64 extends layout.Layout<bigint> {
  readonly #endian: Endian;

  constructor(endian: Endian, property?: string) {
    super(8, property);
    this.#endian = endian;
  }

  override decode(source: Uint8Array, offset = 0): bigint {
    const view = asBuffer(source);
    return this.#endian === 'le' ? view.readBigUInt64LE(offset) : view.readBigUInt64BE(offset);
  }

  override encode(value: bigint, target: Uint8Array, offset = 0): number {
    const view = asBuffer(target);
    if (this.#endian === 'le') view.writeBigUInt64LE(value, offset);
    else view.writeBigUInt64BE(value, offset);
    return 8;
  }

  override replicate(property: string): U64 {
    return new U64(this.#endian, property);
  }
}

class Size64 extends layout.Layout<number> {
  readonly #wide: U64;
  readonly #label: string;
  readonly #endian: Endian;

  constructor(endian: Endian, label: string, property?: string) {
    super(8, property);
    this.#endian = endian;
    this.#wide = new U64(endian);
    this.#label = label;
  }

  override decode(source: Uint8Array, offset = 0): number {
    const value = this.#wide.decode(source, offset);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw new WireError(`${this.#label} is ${value}; at most ${Number.MAX_SAFE_INTEGER} is allowed`);
    }
    return Number(value);
  }

  override encode(value: number, target: Uint8Array, offset = 0): number {
    if (!Number.isSafeInteger(value) || value < 0) fail(`${this.#label} ${value} is not an exact size`);
    return this.#wide.encode(BigInt(value), target, offset);
  }

  override replicate(property: string): Size64 {
    return new Size64(this.#endian, this.#label, property);
  }
}

/**
 * Defines a packed layout: fields follow each other in the order given, without implicit alignment.
 * @param name how errors and documentation call it
 * @param endian byte order of every field
 */
export function struct<const S extends FieldSpec>(name: string, endian: Endian, spec: S): Struct<S> {
  const entries = Object.entries(spec);
  const fields: FieldInfo[] = [];
  let sizeBytes = 0;
  const layouts = entries.map(([field, kind]) => {
    const one = fieldLayout(name, field, kind, endian);
    fields.push({ name: field, offset: sizeBytes, sizeBytes: one.span, type: describe(kind) });
    sizeBytes += one.span;
    return one as layout.Layout<never>;
  });
  const inner = layout.struct(layouts);
  const required = entries.filter(([, kind]) => !isPadding(kind)).map(([field]) => field);
  const pads = fields.filter((field) => field.type === 'padding');

  function encodeInto(value: StructValue<S>, target: Buffer, offset = 0): void {
    const record = value as Record<string, unknown>;
    for (const field of required) {
      if (record[field] === undefined) fail(`${name}.${field} is missing`);
    }
    if (offset + sizeBytes > target.length) fail(`${name} needs ${sizeBytes} bytes at ${offset}`);
    for (const pad of pads) target.fill(0, offset + pad.offset, offset + pad.offset + pad.sizeBytes);
    inner.encode(record, target, offset);
  }

  return {
    name,
    sizeBytes,
    fields,
    decode(source, offset = 0) {
      if (source.length - offset < sizeBytes) {
        throw new WireError(`${name} takes ${sizeBytes} bytes, got ${Math.max(0, source.length - offset)}`);
      }
      const record = inner.decode(source, offset);
      for (const [field, kind] of entries) {
        if (isPadding(kind)) delete record[field];
        else if (typeof kind === 'object') record[field] = asBuffer(record[field] as Uint8Array);
      }
      return record as StructValue<S>;
    },
    encodeInto,
    encode(value) {
      const target = Buffer.alloc(sizeBytes);
      encodeInto(value, target);
      return target;
    },
  };
}

function fieldLayout(owner: string, field: string, kind: FieldKind, endian: Endian): layout.Layout<unknown> {
  if (typeof kind === 'object') return layout.blob('bytes' in kind ? kind.bytes : kind.padding, field);
  const le = endian === 'le';
  switch (kind) {
    case 'u8':
      return layout.u8(field);
    case 'u16':
      return le ? layout.u16(field) : layout.u16be(field);
    case 'u32':
      return le ? layout.u32(field) : layout.u32be(field);
    case 'i32':
      return le ? layout.s32(field) : layout.s32be(field);
    case 'u64':
      return new U64(endian, field);
    case 'size64':
      return new Size64(endian, `${owner}.${field}`, field);
  }
}

function describe(kind: FieldKind): string {
  if (typeof kind !== 'object') return kind === 'size64' ? 'u64' : kind;
  return isPadding(kind) ? 'padding' : `${kind.bytes} bytes`;
}

function isPadding(kind: FieldKind): kind is PaddingField {
  return typeof kind === 'object' && 'padding' in kind;
}

function asBuffer(view: Uint8Array): Buffer {
  return Buffer.isBuffer(view) ? view : Buffer.from(view.buffer, view.byteOffset, view.byteLength);
}
