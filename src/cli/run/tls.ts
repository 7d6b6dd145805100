// Reads the TLS files of `serve`, at the start and again on SIGHUP, and says what an operator should know of them.
import type { Logger } from '../../base/log.ts';
import type { NbdServer } from '../../nbd/server.ts';
import type { TlsOptions } from '../../nbd/server-tls.ts';
import { loadServerCredentials, type ServerCredentials } from '../../transport/tls-credentials.ts';
import type { TlsConfig } from '../parse-tls.ts';
import type { ReloadWatch } from './reload.ts';

/**
 * @returns undefined when TLS is off
 * @throws OperationError naming the file that can't be used, and the command that makes a good one
 */
export async function loadTls(config: TlsConfig, logger: Logger): Promise<TlsOptions | undefined> {
  const { mode, verifyPeer } = config;
  if (mode === 'off') return undefined;
  return { mode, verifyPeer, credentials: await load(config, logger) };
}

/** From now on SIGHUP reads the files again. Clients that are connected stay, whatever the new files say. */
export function reloadTls(reloads: ReloadWatch, server: NbdServer, config: TlsConfig, logger: Logger): void {
  if (config.mode === 'off') return;
  reloads.add('TLS files', async () => server.setTlsCredentials(await load(config, logger)));
}

async function load({ dir, pskFile }: TlsConfig, logger: Logger): Promise<ServerCredentials> {
  const credentials = await loadServerCredentials({ dir, pskFile });
  for (const warning of credentials.warnings) logger.warn({ warning }, 'TLS files: this may be a mistake');
  return credentials;
}
