// What the handshake knows about exports: facts to tell, never a device.

export interface ExportInfo {
  readonly name: string;
  /** For people; at most 4096 bytes of UTF-8. */
  readonly description: string | undefined;
  readonly sizeBytes: number;
  /** NBD_FLAG_* as sent to the client, without those that depend on what it negotiated. */
  readonly transmissionFlags: number;
  readonly minBlockBytes: number;
  readonly preferredBlockBytes: number;
  /** Largest READ or WRITE that is advertised, bytes. */
  readonly maxPayloadBytes: number;
  /** Names of the meta contexts that it offers; their ids are their places here. */
  readonly contexts: readonly string[];
}

/** Where the handshake looks exports up. Asked anew for every option, so that exports may come and go. */
export interface ExportDirectory<E extends ExportInfo> {
  /** Every export that this client may see, in the order to list them. */
  list(): readonly E[];
  /** The export of that name; "" is the default export. */
  find(name: string): E | undefined;
  /** Why an export of that name, which there is for this client, can't be had now. Default: `find` finds all there are. */
  absence?(name: string): string | undefined;
  /** Whether some export is only for clients that prove by TLS who they are. Default: none is. */
  readonly hasTlsOnly?: boolean;
}
