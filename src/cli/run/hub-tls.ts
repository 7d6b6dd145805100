// Reads the TLS files of the link between agent and hub, for either side, at the start and again on SIGHUP. Connections
// that are up stay; those made from then on use the new files.
import type { Logger } from '../../base/log.ts';
import { loadClientCredentials, loadServerCredentials } from '../../transport/tls-credentials.ts';
import type { ReloadWatch } from './reload.ts';

/** Credentials that may be replaced while they are in use. */
export interface Replaceable<C> {
  readonly current: () => C;
  /** SIGHUP reads the files again; what can't be read leaves the old ones in force. */
  reloadOn(reloads: ReloadWatch): void;
}

/** What an agent shows its hub. @throws OperationError naming the file that can't be used */
export const loadAgentTls = (dir: string, logger: Logger) => replaceable(dir, logger, loadClientCredentials);

/** What a hub shows its agents. @throws OperationError naming the file that can't be used */
export const loadHubTls = (dir: string, logger: Logger) => replaceable(dir, logger, loadServerCredentials);

async function replaceable<C extends { readonly warnings: readonly string[] }>(
  dir: string,
  logger: Logger,
  load: (files: { dir: string }) => Promise<C>,
): Promise<Replaceable<C>> {
  const read = async (): Promise<C> => {
    const credentials = await load({ dir });
    for (const warning of credentials.warnings)
      logger.warn({ warning }, 'TLS files of the hub link: this may be a mistake');
    return credentials;
  };
  let current = await read();
  return {
    current: () => current,
    reloadOn: (reloads) =>
      reloads.add('TLS files of the hub link', async () => {
        current = await read();
      }),
  };
}
