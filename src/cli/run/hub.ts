// `repagent hub`: accepts agents and keeps their replicas, until it is asked to stop or its work is done.
import { createLogger, type Logger } from '../../base/log.ts';
import type { ProcessStatus } from '../../control/status.ts';
import { type Hub, startHub } from '../../rephub/hub.ts';
import type { HubConfig } from '../commands/hub.ts';
import { formatHostPort } from '../parse-address.ts';
import { packageVersion } from '../version.ts';
import { startOwnControl } from './control-socket.ts';
import { loadHubTls } from './hub-tls.ts';
import { listenError } from './listening.ts';
import { ReloadWatch } from './reload.ts';
import { type Running, runService, type Startup } from './service.ts';

/** @returns the exit status */
export function runHub(config: HubConfig): Promise<number> {
  const logger = createLogger(config.logLevel, 'hub');
  return runService({ logger, start: (startup) => start(config, logger, startup) });
}

async function start(config: HubConfig, logger: Logger, startup: Startup): Promise<Running> {
  let hub: Hub | undefined;
  const reloads = await startup.step('SIGHUP', Promise.resolve(new ReloadWatch(logger)), (one) =>
    one.close(),
  );
  const control = startOwnControl({
    kind: 'hub',
    address: config.control,
    logger,
    handlers: {
      status: () => statusOf(hub),
      stats: () => ({}),
      verify: (volume, onProgress) => hub!.verify(volume, onProgress),
      resolve: (volume, use, agentId) => hub!.resolve(volume, use, agentId),
    },
  });
  await startup.step('control API', control, (server) => server.close());
  hub = await startup.step('hub', listen(config, logger, reloads), (one) => one.close());
  process.stdout.write(`listening ${hubUrl(hub)}\n`);
  return config.once ? { finished: hub.completed } : {};
}

async function listen(config: HubConfig, logger: Logger, reloads: ReloadWatch): Promise<Hub> {
  const { storeDir, stateDir, tlsDir, tlsAnyName, undo } = config;
  const files = tlsDir === undefined ? undefined : await loadHubTls(tlsDir, logger);
  files?.reloadOn(reloads);
  try {
    return await startHub({
      listen: config.listen,
      pairs: new Map(config.pairs.map(({ name, source }) => [name, source])),
      ...(storeDir === undefined ? {} : { storeDir }),
      stateDir,
      verify: config.verify,
      undo,
      ...(files && { tls: { credentials: files.current, anyName: tlsAnyName } }),
      logger,
    });
  } catch (error) {
    throw listenError(error);
  }
}

function statusOf(hub: Hub | undefined): ProcessStatus {
  return {
    role: 'hub',
    pid: process.pid,
    version: packageVersion(),
    listening: hub ? [hubUrl(hub)] : [],
    link: null,
    volumes: hub?.status() ?? [],
  };
}

function hubUrl(hub: Hub): string {
  return `repagent://${formatHostPort(hub.address)}`;
}
