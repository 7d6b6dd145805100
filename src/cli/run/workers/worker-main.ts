// A program: one worker of `serve`, which has some of the volumes, all to itself. It is started by the process that clients
// talk to and hears of everything through its channel; when that is gone, so is the worker, at once, as if both were one.
import { deferred } from '../../../base/lifecycle.ts';
import { createLogger, type Logger } from '../../../base/log.ts';
import { type NbdServer, startNbdServer } from '../../../nbd/server.ts';
import { AgentMaps } from '../../../repagent/state-dir.ts';
import type { SocketHandle } from '../../../transport/socket-engine.ts';
import { resolveServe, type ServeConfig } from '../../commands/serve.ts';
import { planLinks } from '../build-volume.ts';
import { LocalVolumes } from '../local-volumes.ts';
import { ReloadWatch } from '../reload.ts';
import { createReplication } from '../replication.ts';
import { runService, type Startup } from '../service.ts';
import {
  type ExportFacts,
  type FromWorker,
  type ToWorker,
  tellError,
  type WorkerCall,
  type WorkerOrder,
} from './messages.ts';
import { workerConfig } from './worker-config.ts';

const started = deferred<WorkerOrder>();
const closing = deferred<undefined>();
const running = new Map<number, AbortController>();
let isClosing = false;
let parts:
  | { readonly volumes: LocalVolumes; readonly server: NbdServer; readonly reloads: ReloadWatch }
  | undefined;

// They reach every process of a terminal or a control group; the one that clients talk to says what they mean.
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => {});
process.on('disconnect', () => process.exit(1));
// It ends all the same; this says of what.
process.on('uncaughtExceptionMonitor', (error) => say({ kind: 'failed', error: tellError(error) }));
process.on('message', (message, handle) => take(message as ToWorker, handle));

try {
  const order = await started.promise;
  const config = workerConfig(resolveServe(order.options), order.volumes);
  const logger = createLogger(config.logLevel, 'serve').child({ worker: order.number });
  const status = await runService({
    logger,
    start: (startup) => start(startup, order, config, logger),
    stop: { requested: closing.promise, isReceived: () => isClosing },
  });
  process.exit(status);
} catch (error) {
  say({ kind: 'failed', error: tellError(error) }, () => process.exit(1));
}

async function start(
  startup: Startup,
  order: WorkerOrder,
  config: ServeConfig,
  logger: Logger,
): Promise<object> {
  const plan = await planLinks(config.filters, config.hubs.length > 0);
  const reloads = await startup.step('reloads', Promise.resolve(new ReloadWatch(logger, false)), (one) =>
    one.close(),
  );
  const { hubs, dirtyGranularityBytes: granularityBytes, dirtySync, idleTimeoutMs } = config;
  const { places } = order;
  const maps =
    places &&
    new AgentMaps(
      { ...places, agentId: Buffer.from(places.agentId) },
      { granularityBytes, exact: dirtySync === 'always', logger },
    );
  const replication = () => createReplication(config, hubs.length > 0 ? maps : undefined, logger, reloads);
  const volumes = new LocalVolumes({ config, plan, replication, logger });
  await volumes.open(startup);
  const options = {
    exports: volumes.exports,
    listen: [],
    logger,
    ...(idleTimeoutMs !== undefined && { idleTimeoutMs }),
  };
  const server = await startup.step('NBD server', startNbdServer(options), (one) => one.close());
  await startup.step('pauses', Promise.resolve(), () => volumes.endPauses());
  parts = { volumes, server, reloads };
  say({ kind: 'ready', exports: factsOf(volumes) });
  volumes.start();
  return {};
}

function factsOf(volumes: LocalVolumes): ExportFacts[] {
  return volumes.exports.map(({ name, device, contexts = [] }) => ({
    name,
    sizeBytes: device.sizeBytes,
    limits: { ...device.limits },
    contexts: contexts.map((context) => context.name),
  }));
}

function take(message: ToWorker, handle: unknown): void {
  switch (message.kind) {
    case 'start':
      started.resolve(message.order);
      return;
    case 'client':
      say({ kind: 'taken', id: message.id });
      parts!.server.adopt(message.client, handle as SocketHandle, () =>
        say({ kind: 'gone', id: message.id }),
      );
      return;
    case 'call':
      void answer(message.id, message.call);
      return;
    case 'abandoned':
      running.get(message.id)?.abort();
      return;
    case 'close':
      isClosing = true;
      closing.resolve(undefined);
  }
}

async function answer(id: number, call: WorkerCall): Promise<void> {
  const abort = new AbortController();
  running.set(id, abort);
  try {
    const value = await carryOut(id, call, abort.signal);
    say({ kind: 'answer', id, value });
  } catch (error) {
    say({ kind: 'error', id, error: tellError(error) });
  } finally {
    running.delete(id);
  }
}

async function carryOut(id: number, call: WorkerCall, signal: AbortSignal): Promise<unknown> {
  const { volumes, reloads } = parts!;
  switch (call.what) {
    case 'status':
      return volumes.status();
    case 'stats':
      return volumes.stats();
    case 'reload':
      return reloads.now();
    case 'verify':
      return volumes.verify(call.volume, (progress) => say({ kind: 'progress', id, progress }), call.hub);
    case 'resize':
      await volumes.resize(call.volume, call.sizeBytes);
      // Before the answer: who asks next is told the new size.
      say({ kind: 'resized', name: call.volume, sizeBytes: call.sizeBytes });
      return undefined;
    case 'pause':
      return volumes.chains.pause(call.volume, call.order, signal);
    case 'resume':
      return volumes.chains.resume(call.volume);
    case 'adjust':
      return volumes.chains.adjust(call.volume, call.filter, call.changes);
  }
}

/** What can't be said because nobody is there any more ends this process anyway. */
function say(message: FromWorker, then: () => void = () => {}): void {
  process.send?.(message, undefined, undefined, () => then());
}
