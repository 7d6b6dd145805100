// The volumes of `serve`, spread over workers: which of them has what, and one answer out of all of theirs. No request of a
// client passes here: a client goes to its worker with its socket.
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { errorMessage, OperationError } from '../../../base/errors.ts';
import { within } from '../../../base/lifecycle.ts';
import type { Logger } from '../../../base/log.ts';
import { loadNativeCalls } from '../../../base/native-calls.ts';
import type { ChainHandlers } from '../../../control/server.ts';
import type { VerifyProgress, VerifyResult, VolumeStatus, WorkerStatus } from '../../../control/status.ts';
import type { ExportSpec } from '../../../nbd/exports.ts';
import type { ClientTaker, NegotiatedClient } from '../../../nbd/hand-over.ts';
import type { AgentState } from '../../../repagent/state-dir.ts';
import { relay } from '../../../transport/relay.ts';
import type { GivenSocket, SocketHandle } from '../../../transport/socket-engine.ts';
import type { ServeConfig } from '../../commands/serve.ts';
import { formatHostPort } from '../../parse-address.ts';
import { describeExport } from '../local-volumes.ts';
import type { ReloadWatch } from '../reload.ts';
import { unprotectedVolume } from '../replication.ts';
import type { Startup } from '../service.ts';
import type { HostStatus, VolumeHost } from '../volume-host.ts';
import { addFigures, mergeStatus } from './merge-status.ts';
import type { ExportFacts, RawServe, WorkerOrder } from './messages.ts';
import { RemoteDevice } from './remote-device.ts';
import { type WorkerChild, WorkerProcess } from './worker-process.ts';

/** A worker that says nothing for so long does not answer, ms. */
const STATUS_TIMEOUT_MS = 4000;

export interface WorkerPoolOptions {
  readonly config: ServeConfig;
  readonly raw: RawServe;
  /** Locks the state directory; undefined: nothing is replicated. */
  readonly openState: () => Promise<AgentState | undefined>;
  readonly reloads: ReloadWatch;
  readonly logger: Logger;
}

/** What is known of a volume here. */
interface RemoteVolume {
  readonly worker: WorkerProcess;
  readonly device: RemoteDevice;
  contexts: readonly string[];
}

export class WorkerPool implements VolumeHost, ClientTaker {
  readonly #options: WorkerPoolOptions;
  readonly #workers: WorkerProcess[] = [];
  readonly #volumes = new Map<string, RemoteVolume>();
  readonly taker = this;
  readonly chains: ChainHandlers = {
    pause: async (volume, order, signal) => {
      await this.#owner(volume).ask({ what: 'pause', volume, order }, { signal });
    },
    resume: async (volume) => (await this.#owner(volume).ask({ what: 'resume', volume })) as number,
    adjust: (volume, filter, changes) => this.#owner(volume).ask({ what: 'adjust', volume, filter, changes }),
  };

  constructor(options: WorkerPoolOptions) {
    this.#options = options;
  }

  async open(startup: Startup): Promise<void> {
    const { config, raw, logger, reloads } = this.#options;
    const state = await this.#options.openState();
    for (const [at, volumes] of config.placement.entries()) {
      const order: WorkerOrder = { number: at + 1, options: raw, volumes, places: state?.places };
      const worker: WorkerProcess = new WorkerProcess({
        order,
        launch: () => launch(state?.lockFd),
        onFacts: (facts) => this.#learn(worker, facts),
        onResized: (name, sizeBytes) => this.#volumes.get(name)?.device.resized(sizeBytes),
        logger,
      });
      this.#workers.push(worker);
    }
    await startup.step('workers', Promise.resolve(), () => this.#close());
    await startup.step('workers', Promise.all(this.#workers.map((worker) => worker.start())));
    reloads.add('workers', async () => {
      await Promise.all(this.#workers.map((worker) => worker.ask({ what: 'reload' })));
    });
  }

  get exports(): readonly ExportSpec[] {
    return this.#options.config.images.map(({ name }) => {
      const { device, contexts, worker } = this.#volumes.get(name)!;
      const specs = contexts.map((context) => ({ name: context, runs: () => device.extents() }));
      const absence = (): string | undefined => worker.absence;
      return { ...describeExport(this.#options.config, { name, device, contexts: specs }), absence };
    });
  }

  /** The workers dial by themselves. */
  start(): void {}

  /** The workers end theirs before they wait for requests. */
  endPauses(): void {}

  take(client: NegotiatedClient, socket: GivenSocket, gone: () => void): void {
    let handle: SocketHandle;
    try {
      handle = socket.kind === 'handle' ? socket.handle : relay(socket.stream, loadNativeCalls()!);
    } catch (error) {
      this.#options.logger.warn(
        { peer: client.peer, err: errorMessage(error) },
        'an NBD client could not be relayed',
      );
      if (socket.kind === 'stream') socket.stream.destroy();
      gone();
      return;
    }
    this.#owner(client.exportName).take(client, handle, gone);
  }

  async status(): Promise<HostStatus> {
    const parts: HostStatus[] = [];
    const missing: VolumeStatus[] = [];
    await Promise.all(
      this.#workers.map(async (worker) => {
        const answer = await this.#statusOf(worker);
        if (typeof answer === 'string')
          missing.push(
            ...worker.status.volumes.map((name) => this.#missing(name, answer, worker.status.state)),
          );
        else parts.push(answer);
      }),
    );
    const { images, hubs } = this.#options.config;
    const merged = mergeStatus(
      parts,
      missing,
      images.map(({ name }) => name),
    );
    const workers = this.#workers.map((worker) => worker.status);
    if (merged.link || hubs.length === 0) return { ...merged, workers };
    // There are hubs all the same.
    const links = hubs.map((hub) => ({
      name: hub.name,
      hub: formatHostPort(hub),
      state: 'idle',
      lastError: 'no worker answers',
    }));
    return { ...merged, link: links[0]!, links, workers };
  }

  async stats(): Promise<unknown> {
    const running = this.#workers.filter(({ absence }) => absence === undefined);
    const each = await Promise.all(running.map((worker) => within(worker.look('stats'), STATUS_TIMEOUT_MS)));
    return each.reduce(addFigures, {});
  }

  async verify(
    volume: string,
    onProgress: (progress: VerifyProgress) => void,
    hub?: string,
  ): Promise<VerifyResult> {
    return (await this.#owner(volume).ask({ what: 'verify', volume, hub }, { onProgress })) as VerifyResult;
  }

  async resize(volume: string, sizeBytes: number): Promise<void> {
    await this.#owner(volume).ask({ what: 'resize', volume, sizeBytes });
  }

  /** A worker's part of a status, or why there is none. */
  async #statusOf(worker: WorkerProcess): Promise<HostStatus | string> {
    try {
      const answer = await within(worker.look('status'), STATUS_TIMEOUT_MS);
      return (
        (answer as HostStatus | undefined) ?? `its worker has not answered for ${STATUS_TIMEOUT_MS / 1000} s`
      );
    } catch (error) {
      return worker.absence ?? errorMessage(error);
    }
  }

  /** A volume that its worker tells nothing of: only while it should be there has it failed. */
  #missing(name: string, lastError: string, worker: WorkerStatus['state']): VolumeStatus {
    const sizeBytes = this.#volumes.get(name)?.device.sizeBytes ?? 0;
    const volume = unprotectedVolume(name, this.#options.config.vmName, sizeBytes);
    if (worker === 'starting' || worker === 'stopping') return volume;
    return { ...volume, state: 'failed', lastError };
  }

  #owner(volume: string): WorkerProcess {
    const found = this.#volumes.get(volume);
    if (!found) throw new OperationError(`there is no volume ${JSON.stringify(volume)}`);
    return found.worker;
  }

  #learn(worker: WorkerProcess, facts: readonly ExportFacts[]): void {
    for (const one of facts) {
      const known = this.#volumes.get(one.name);
      if (known) known.device.update(one);
      else this.#volumes.set(one.name, { worker, device: new RemoteDevice(one), contexts: one.contexts });
    }
  }

  async #close(): Promise<void> {
    const ends = await Promise.allSettled(this.#workers.map((worker) => worker.close()));
    const failed = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as Error] : []));
    if (failed.length > 0) throw new AggregateError(failed, failed.map(errorMessage).join('; '));
  }
}

/** @param lockFd is held until the last worker has ended, whatever becomes of this process */
function launch(lockFd: number | undefined): WorkerChild {
  return fork(fileURLToPath(new URL('./worker-main.js', import.meta.url)), [], {
    // Addresses, maps and buffers stay what they are.
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc', ...(lockFd === undefined ? [] : [lockFd])],
  });
}
