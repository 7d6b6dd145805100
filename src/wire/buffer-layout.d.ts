// The part of buffer-layout 1.2 that struct.ts uses; the package ships no types.
declare module 'buffer-layout' {
  export class Layout<T> {
    constructor(span: number, property?: string);
    readonly span: number;
    readonly property: string | undefined;
    decode(buffer: Uint8Array, offset?: number): T;
    encode(value: T, buffer: Uint8Array, offset?: number): number;
    replicate(property: string): Layout<T>;
  }
  export function u8(property?: string): Layout<number>;
  export function u16(property?: string): Layout<number>;
  export function u16be(property?: string): Layout<number>;
  export function u32(property?: string): Layout<number>;
  export function u32be(property?: string): Layout<number>;
  export function s32(property?: string): Layout<number>;
  export function s32be(property?: string): Layout<number>;
  export function blob(length: number, property?: string): Layout<Uint8Array>;
  export function struct(
    fields: ReadonlyArray<Layout<never>>,
    property?: string,
  ): Layout<Record<string, unknown>>;
}
