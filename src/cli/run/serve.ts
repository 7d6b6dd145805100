// `repagent serve`: opens the images, builds their chains, serves them over NBD, and replicates them to a hub.
import { assert } from '../../base/assert.ts';
import { BlockError, OperationError, UsageError } from '../../base/errors.ts';
import { createLogger, type Logger } from '../../base/log.ts';
import type { ProcessStatus, VolumeStatus } from '../../control/status.ts';
import type { BoundAddress, ListenAddress } from '../../nbd/listen-address.ts';
import { type NbdServer, type NbdServerOptions, startNbdServer } from '../../nbd/server.ts';
import type { TlsOptions } from '../../nbd/server-tls.ts';
import { openStdio } from '../../nbd/stdio.ts';
import type { ServeConfig } from '../commands/serve.ts';
import { DEFAULT_NBD_LISTEN, parseListen } from '../parse-address.ts';
import type { ExportSettings } from '../parse-export.ts';
import { isNbdUri } from '../parse-image.ts';
import { checkNbdExposure } from '../parse-tls.ts';
import { packageVersion } from '../version.ts';
import { openVolume, type PlannedLink, planLinks, type Volume } from './build-volume.ts';
import { startOwnControl } from './control-socket.ts';
import { exportList, listenError, nbdUrl } from './listening.ts';
import { ReloadWatch } from './reload.ts';
import { changedAtStartOnly, reloadedVisibility } from './reload-exports.ts';
import { createReplication, type Replication, unprotectedVolume } from './replication.ts';
import { type Running, runService, type Startup } from './service.ts';
import { takeActivatedFds } from './socket-activation.ts';
import { loadTls, reloadTls } from './tls.ts';

/**
 * @param reread the configuration as its file has it now
 * @returns the exit status
 */
export async function runServe(config: ServeConfig, reread: () => ServeConfig): Promise<number> {
  // Everything that can be wrong in the arguments is found before anything is opened.
  const listen = listenAddresses(config);
  const plan = await planLinks(config.filters, config.hubs.length > 0);
  const logger = createLogger(config.logLevel, 'serve');
  const tls = await loadTls(config.tls, logger);
  return runService({
    logger,
    start: async (startup) => {
      return new ServeProcess(config, logger, reread).start(startup, listen, plan, tls);
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

class ServeProcess {
  readonly #config: ServeConfig;
  readonly #logger: Logger;
  readonly #reread: () => ServeConfig;
  readonly #volumes: Volume[] = [];
  #replication: Replication | undefined;
  #server: NbdServer | undefined;
  /** What is read again on SIGHUP. */
  readonly #reloads: ReloadWatch;

  constructor(config: ServeConfig, logger: Logger, reread: () => ServeConfig) {
    this.#config = config;
    this.#logger = logger;
    this.#reread = reread;
    this.#reloads = new ReloadWatch(logger);
  }

  /**
   * Starts in the reverse order of stopping: clients drain first, then the hub hears of it, then images close.
   * @returns with --stdio it is finished when the client has left
   */
  async start(
    startup: Startup,
    listen: readonly ListenAddress[],
    plan: readonly PlannedLink[],
    tls: TlsOptions | undefined,
  ): Promise<Running> {
    // Before anything is opened: what is there may be a terminal.
    const stdio = this.#config.stdio ? openStdio() : undefined;
    await startup.step('SIGHUP', Promise.resolve(this.#reloads), (reloads) => reloads.close());
    await startup.step('control API', this.#startControl(), (control) => control.close());
    const replication = await createReplication(this.#config, this.#logger, this.#reloads);
    this.#replication = replication;
    for (const image of this.#config.images) {
      const { format, upstreamConnections } = this.#config;
      const { readOnly } = this.#settings(image.name);
      const createSizeBytes = isNbdUri(image.source) ? undefined : this.#config.createSizeBytes;
      const from = { image, format, readOnly, createSizeBytes, upstreamConnections };
      const options = { ...from, plan, replication, logger: this.#logger };
      const volume = await startup.step(`volume ${image.name}`, openVolume(options), (one) =>
        one.device.close(),
      );
      this.#volumes.push(volume);
    }
    // Before the images: until the goodbye the hub may still read what it lacks.
    await startup.step('replication', Promise.resolve(replication), (one) => one.close());
    const server = await startup.step('NBD server', this.#startServer(listen, tls), (one) => one.close());
    // What is held would keep clients' requests in flight, and the server waits for those.
    await startup.step('pauses', Promise.resolve(), () => {
      for (const { pauser } of this.#volumes) pauser.close();
    });
    // A socket that was passed to us shows its address only now.
    checkNbdExposure(server.addresses, this.#config.tls, this.#config.insecure);
    this.#server = server;
    reloadTls(this.#reloads, server, this.#config.tls, this.#logger);
    this.#reloads.add('exports', () => this.#reloadExports(server));
    replication.start();
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

  #settings(name: string): ExportSettings {
    const settings = this.#config.exports.get(name);
    assert(settings !== undefined, `no settings for the export ${name}`);
    return settings;
  }

  async #startServer(listen: readonly ListenAddress[], tls: TlsOptions | undefined): Promise<NbdServer> {
    const { format, hubs } = this.#config;
    const kind = hubs.length > 0 ? `${format} image, replicated` : `${format} image`;
    const exports = this.#volumes.map(({ name, device, contexts }) => {
      const { description = kind, ...settings } = this.#settings(name);
      return { name, device, description, contexts, ...settings };
    });
    try {
      return await startNbdServer({
        exports,
        listen,
        tls,
        logger: this.#logger,
        oldstyle: this.#config.oldstyle,
        ...givenLimits(this.#config),
      });
    } catch (error) {
      throw listenError(error);
    }
  }

  #startControl(): ReturnType<typeof startOwnControl> {
    return startOwnControl({
      kind: 'serve',
      address: this.#config.control,
      logger: this.#logger,
      handlers: {
        status: () => this.#status(),
        stats: () => ({
          filters: Object.fromEntries(this.#volumes.map((volume) => [volume.name, volume.stats()])),
          agent: this.#replication?.stats(),
        }),
        verify: (volume, onProgress, hub) => this.#replication!.verify(volume, onProgress, hub),
        resize: (volume, sizeBytes) => this.#resize(volume, sizeBytes),
        chains: {
          pause: (volume, order, signal) => this.#volume(volume).pauser.pause({ ...order, signal }),
          resume: (volume) => this.#volume(volume).pauser.resume(),
          adjust: async (volume, filter, changes) => {
            const one = this.#volume(volume);
            await one.adjust(filter, changes);
            return one.stats()[filter];
          },
        },
      },
    });
  }

  async #resize(name: string, sizeBytes: number): Promise<void> {
    const volume = this.#volume(name);
    try {
      await volume.device.resize(sizeBytes);
    } catch (error) {
      if (error instanceof BlockError) throw new OperationError(error.message, { cause: error });
      throw error;
    }
    this.#logger.info({ volume: name, sizeBytes }, 'resized');
  }

  #volume(name: string): Volume {
    const volume = this.#volumes.find((one) => one.name === name);
    if (!volume) throw new OperationError(`there is no volume ${JSON.stringify(name)}`);
    return volume;
  }

  /** What the chain says of a volume, beside what replication does. */
  #chainStatus(name: string): Pick<VolumeStatus, 'paused' | 'readOnly'> {
    const volume = this.#volumes.find((one) => one.name === name);
    if (!volume) return {};
    const paused = volume.pauser.status();
    return {
      paused: paused
        ? { forMs: paused.pausedMs, leftMs: paused.leftMs, waitingCalls: paused.waitingCalls }
        : null,
      readOnly: this.#settings(name).readOnly || volume.device.limits.readOnly,
    };
  }

  #status(): ProcessStatus {
    const replicated = this.#replication?.status();
    const known = new Set(replicated?.volumes.map((volume) => volume.name));
    const others = this.#volumes.filter((volume) => !known.has(volume.name));
    return {
      role: 'agent',
      pid: process.pid,
      version: packageVersion(),
      listening: this.#urls(),
      link: replicated?.link ?? null,
      ...(replicated?.links && { links: replicated.links }),
      ...(replicated?.resyncReads && { resyncReads: replicated.resyncReads }),
      volumes: [
        ...(replicated?.volumes ?? []),
        ...others.map(({ name, device }) => unprotectedVolume(name, this.#config.vmName, device.sizeBytes)),
      ].map((volume) => ({ ...volume, ...this.#chainStatus(volume.name) })),
    };
  }

  #urls(): string[] {
    const needsTls = this.#config.tls.mode === 'require';
    return (this.#server?.addresses ?? []).map((address: BoundAddress) => nbdUrl(address, needsTls));
  }
}

/** The limits that were given; the server has defaults for the others. */
function givenLimits(config: ServeConfig): Partial<NbdServerOptions> {
  const { maxConnections, maxConnectionsPerAddress, handshakeTimeoutMs, idleTimeoutMs } = config;
  return {
    ...(maxConnections !== undefined && { maxConnections }),
    ...(maxConnectionsPerAddress !== undefined && { maxConnectionsPerAddress }),
    ...(handshakeTimeoutMs !== undefined && { handshakeTimeoutMs }),
    ...(idleTimeoutMs !== undefined && { idleTimeoutMs }),
  };
}
