// `repagent serve`: opens the images, builds their chains, serves them over NBD, and replicates them to a hub.
import { OperationError, UsageError } from '../../base/errors.ts';
import { createLogger, type Logger } from '../../base/log.ts';
import { andThen } from '../../base/maybe.ts';
import { loadNativeCalls } from '../../base/native-calls.ts';
import type { ProcessStatus } from '../../control/status.ts';
import { DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_CONNECTIONS_PER_ADDRESS } from '../../nbd/limits.ts';
import type { BoundAddress, ListenAddress } from '../../nbd/listen-address.ts';
import { type NbdServer, type NbdServerOptions, startNbdServer } from '../../nbd/server.ts';
import type { TlsOptions } from '../../nbd/server-tls.ts';
import { openStdio } from '../../nbd/stdio.ts';
import type { SERVE_OPTIONS, ServeConfig } from '../commands/serve.ts';
import type { RawOptions } from '../option-table.ts';
import { DEFAULT_NBD_LISTEN, parseListen } from '../parse-address.ts';
import { checkNbdExposure } from '../parse-tls.ts';
import { packageVersion } from '../version.ts';
import { type PlannedLink, planLinks } from './build-volume.ts';
import { startOwnControl } from './control-socket.ts';
import { exportList, listenError, nbdUrl } from './listening.ts';
import { LocalVolumes } from './local-volumes.ts';
import { ReloadWatch } from './reload.ts';
import { changedAtStartOnly, reloadedVisibility } from './reload-exports.ts';
import { createReplication, openAgentState, type Replication } from './replication.ts';
import { type Running, runService, type Startup } from './service.ts';
import { takeActivatedFds } from './socket-activation.ts';
import { loadTls, reloadTls } from './tls.ts';
import type { HostStatus, VolumeHost } from './volume-host.ts';
import { workerConfig } from './workers/worker-config.ts';

/**
 * @param reread the configuration as its file has it now
 * @returns the exit status
 */
export async function runServe(
  config: ServeConfig,
  reread: () => ServeConfig,
  raw: RawOptions<typeof SERVE_OPTIONS>,
): Promise<number> {
  // Everything that can be wrong in the arguments is found before anything is opened.
  const listen = listenAddresses(config);
  const plan = await planLinks(config.filters, config.hubs.length > 0);
  const logger = createLogger(config.logLevel, 'serve');
  checkWorkers(config);
  const tls = await loadTls(config.tls, logger);
  return runService({
    logger,
    start: async (startup) => {
      const reloads = new ReloadWatch(logger);
      const volumes = await chooseHost({ config, plan, logger, reloads, raw });
      return new ServeProcess(config, volumes, reloads, logger, reread).start(startup, listen, tls);
    },
  });
}

/** What was asked for and what systemd passed; the default when that is nothing. @throws UsageError */
function listenAddresses({ listen, stdio, socketPermissions }: ServeConfig): ListenAddress[] {
  const passed = takeActivatedFds().map((fd) => ({ kind: 'fd' as const, fd }));
  if (stdio && passed.length > 0) {
    throw new UsageError(
      '--stdio serves one client, and LISTEN_FDS passed sockets to listen on; use one of them',
    );
  }
  if (stdio) return [];
  const asked = listen.map((address): ListenAddress => {
    return address.kind === 'unix' && socketPermissions
      ? { ...address, permissions: socketPermissions }
      : address;
  });
  const all = [...asked, ...passed];
  return all.length > 0 ? all : [parseListen(DEFAULT_NBD_LISTEN)];
}

interface HostOptions {
  readonly config: ServeConfig;
  readonly plan: readonly PlannedLink[];
  readonly logger: Logger;
  readonly reloads: ReloadWatch;
  readonly raw: RawOptions<typeof SERVE_OPTIONS>;
}

/** Who has the volumes: this process, or workers. */
async function chooseHost({ config, plan, logger, reloads, raw }: HostOptions): Promise<VolumeHost> {
  const openState = (): ReturnType<typeof openAgentState> => openAgentState(config, logger);
  if (config.placement.length === 1) {
    const replication = async (): Promise<Replication> =>
      createReplication(config, await openState(), logger, reloads);
    return new LocalVolumes({ config, plan, replication, logger });
  }
  const { WorkerPool } = await import('./workers/worker-pool.ts');
  return new WorkerPool({ config, raw, openState, reloads, logger });
}

/** Says before anything is opened what workers could not do. @throws UsageError or OperationError */
function checkWorkers(config: ServeConfig): void {
  if (config.placement.length === 1) return;
  for (const volumes of config.placement) workerConfig(config, volumes);
  if (config.tls.mode === 'off' || loadNativeCalls()) return;
  throw new OperationError('clients inside TLS can only go to workers where koffi is installed', {
    hint: 'install it (npm install koffi), or leave --workers out',
  });
}

class ServeProcess {
  readonly #config: ServeConfig;
  readonly #logger: Logger;
  readonly #reread: () => ServeConfig;
  readonly #volumes: VolumeHost;
  #server: NbdServer | undefined;
  /** What is read again on SIGHUP. */
  readonly #reloads: ReloadWatch;

  constructor(
    config: ServeConfig,
    volumes: VolumeHost,
    reloads: ReloadWatch,
    logger: Logger,
    reread: () => ServeConfig,
  ) {
    this.#config = config;
    this.#volumes = volumes;
    this.#reloads = reloads;
    this.#logger = logger;
    this.#reread = reread;
  }

  /**
   * Starts in the reverse order of stopping: clients drain first, then the hub hears of it, then images close.
   * @returns with --stdio it is finished when the client has left
   */
  async start(
    startup: Startup,
    listen: readonly ListenAddress[],
    tls: TlsOptions | undefined,
  ): Promise<Running> {
    // Before anything is opened: what is there may be a terminal.
    const stdio = this.#config.stdio ? openStdio() : undefined;
    await startup.step('SIGHUP', Promise.resolve(this.#reloads), (reloads) => reloads.close());
    await startup.step('control API', this.#startControl(), (control) => control.close());
    await this.#volumes.open(startup);
    const server = await startup.step('NBD server', this.#startServer(listen, tls), (one) => one.close());
    await startup.step('pauses', Promise.resolve(), () => this.#volumes.endPauses());
    // A socket that was passed to us shows its address only now.
    checkNbdExposure(server.addresses, this.#config.tls, this.#config.insecure);
    this.#server = server;
    reloadTls(this.#reloads, server, this.#config.tls, this.#logger);
    this.#reloads.add('exports', () => this.#reloadExports(server));
    this.#volumes.start();
    if (stdio) {
      this.#logger.info('serving one client on standard input and output');
      return { finished: server.serveOne(stdio.client, stdio.openEngine) };
    }
    // Who passed sockets needn't wait for a line, and may have given us its own standard output, as nbdinfo does.
    if (listen.every((address) => address.kind === 'fd')) return {};
    const names = exportList(this.#config.images.map((image) => image.name));
    process.stdout.write(`listening ${this.#urls().join(' ')} exports=${names}\n`);
    return {};
  }

  /** Takes over what of a new configuration can change while clients are connected, and says what can't. */
  #reloadExports(server: NbdServer): void {
    const next = this.#reread();
    server.setVisibility(reloadedVisibility(this.#config.exports, next.exports));
    const later = changedAtStartOnly(this.#config, next);
    if (later.length > 0)
      this.#logger.warn({ changed: later }, 'these changes take effect at the next start');
  }

  async #startServer(listen: readonly ListenAddress[], tls: TlsOptions | undefined): Promise<NbdServer> {
    try {
      return await startNbdServer({
        exports: this.#volumes.exports,
        taker: this.#volumes.taker,
        listen,
        tls,
        logger: this.#logger,
        oldstyle: this.#config.oldstyle,
        ...limitsOf(this.#config),
      });
    } catch (error) {
      throw listenError(error);
    }
  }

  #startControl(): ReturnType<typeof startOwnControl> {
    const volumes = this.#volumes;
    return startOwnControl({
      kind: 'serve',
      address: this.#config.control,
      logger: this.#logger,
      handlers: {
        status: () => andThen(volumes.status(), (status) => this.#status(status)),
        stats: () => volumes.stats(),
        verify: (volume, onProgress, hub) => volumes.verify(volume, onProgress, hub),
        resize: (volume, sizeBytes) => volumes.resize(volume, sizeBytes),
        chains: volumes.chains,
      },
    });
  }

  #status(status: HostStatus): ProcessStatus {
    const { pid } = process;
    return { role: 'agent', pid, version: packageVersion(), listening: this.#urls(), ...status };
  }

  #urls(): string[] {
    const needsTls = this.#config.tls.mode === 'require';
    return (this.#server?.addresses ?? []).map((address: BoundAddress) => nbdUrl(address, needsTls));
  }
}

/**
 * The limits that were given; the server has defaults for the others. Those of connections let every image have a client,
 * and one more that comes while the last has not gone yet, from one address.
 */
export function limitsOf(config: ServeConfig): Partial<NbdServerOptions> {
  const { images, maxConnections, maxConnectionsPerAddress, handshakeTimeoutMs, idleTimeoutMs } = config;
  const least = 2 * images.length;
  return {
    maxConnections: maxConnections ?? Math.max(DEFAULT_MAX_CONNECTIONS, least),
    maxConnectionsPerAddress:
      maxConnectionsPerAddress ?? Math.max(DEFAULT_MAX_CONNECTIONS_PER_ADDRESS, least),
    ...(handshakeTimeoutMs !== undefined && { handshakeTimeoutMs }),
    ...(idleTimeoutMs !== undefined && { idleTimeoutMs }),
  };
}
