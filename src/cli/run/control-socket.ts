// Starts the control API where the user wants it, or at this process's place in the runtime directory.
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
  logger.info({ control: formatControlAddress(server.address) }, 'control API ready');
  return server;
}

function ownAddress(kind: ProcessKind): ControlAddress {
  const dir = runtimeDirs()[0]!;
  prepareRuntimeDir(dir);
  return { kind: 'unix', path: ownSocketPath(dir, kind) };
}
