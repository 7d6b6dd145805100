// Starts the control API where the user wants it, or at this process's place in the runtime directory.
import { rmSync } from 'node:fs';
import type { Logger } from '../../base/log.ts';
import { type ControlAddress, formatControlAddress } from '../../control/address.ts';
import {
  ownSocketPath,
  type ProcessKind,
  prepareRuntimeDir,
  runtimeDirs,
} from '../../control/runtime-dir.ts';
import { type ControlHandlers, type ControlServer, startControlServer } from '../../control/server.ts';

export interface OwnControlOptions {
  readonly kind: ProcessKind;
  /** What `--control` said. */
  readonly address: ControlAddress | undefined;
  readonly handlers: ControlHandlers;
  readonly logger: Logger;
}

/** @throws UsageError or OperationError when the API can't listen there */
export async function startOwnControl(options: OwnControlOptions): Promise<ControlServer> {
  const { kind, handlers, logger } = options;
  const server = await startControlServer({ address: options.address ?? ownAddress(kind), handlers, logger });
  const { address } = server;
  logger.info({ control: formatControlAddress(address) }, 'control API ready');
  const removeFile = (): void => {
    if (address.kind === 'unix') rmSync(address.path, { force: true });
  };
  // A second signal exits without closing anything.
  process.once('exit', removeFile);
  return {
    address,
    close: async () => {
      await server.close();
      process.off('exit', removeFile);
    },
  };
}

function ownAddress(kind: ProcessKind): ControlAddress {
  const dir = runtimeDirs()[0]!;
  prepareRuntimeDir(dir);
  return { kind: 'unix', path: ownSocketPath(dir, kind) };
}
