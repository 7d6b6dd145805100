// What serve knows of replication: an agent for each hub, and the honest statement that nothing is replicated
// when there is none.
import { OperationError } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { BlockDevice } from '../../blockdev/block-device.ts';
import type { ProcessStatus, VerifyProgress, VerifyResult, VolumeStatus } from '../../control/status.ts';
import type { MetaContext } from '../../nbd/meta-contexts.ts';
import type { AgentMaps, AgentState } from '../../repagent/state-dir.ts';
import type { ServeConfig } from '../commands/serve.ts';
import { formatHostPort } from '../parse-address.ts';
import { loadAgentTls } from './hub-tls.ts';
import type { ReloadWatch } from './reload.ts';

/** The meta context of what the hub may lack, in chunks of 64 KiB, and its only flag. docs/protocol/nbd-support.md. */
const DIRTY_CONTEXT = 'repagent:dirty';
const DIRTY_FLAG = 1;

export interface Replication {
  /** Puts the mirroring filter over a volume's device. @param imagePath the file below, if it is one */
  protect(name: string, below: BlockDevice, imagePath: string | undefined): BlockDevice;
  /** What of a volume the hub lacks, for BLOCK_STATUS; undefined where nothing is replicated. */
  dirtyContext(name: string): MetaContext | undefined;
  /** Dials every hub. */
  start(): void;
  status(): Pick<ProcessStatus, 'link' | 'links' | 'resyncReads' | 'volumes'>;
  /** Counters of the agent, for people who look into it; undefined without one. */
  stats(): unknown;
  /** @param hub its name; may be left out when there is only one */
  verify(volume: string, onProgress: (progress: VerifyProgress) => void, hub?: string): Promise<VerifyResult>;
  /** Sends what is queued, and says goodbye to the hubs. */
  close(): Promise<void>;
}

/**
 * What the agent keeps beyond the end of the process; undefined where nothing is replicated.
 * @throws OperationError when the state directory can't be used, or is another agent's
 */
export async function openAgentState(config: ServeConfig, logger: Logger): Promise<AgentState | undefined> {
  const { hubs, stateDir, dirtyGranularityBytes, dirtySync } = config;
  if (hubs.length === 0) return undefined;
  const { AgentState: State } = await import('../../repagent/state-dir.ts');
  return State.open({
    stateDir,
    hubs: hubs.map((hub) => ({ name: hub.name, address: formatHostPort(hub) })),
    granularityBytes: dirtyGranularityBytes,
    exact: dirtySync === 'always',
    logger,
  });
}

/**
 * @param state undefined: nothing is replicated
 * @throws OperationError when its TLS files can't be used
 */
export async function createReplication(
  config: ServeConfig,
  state: AgentMaps | undefined,
  logger: Logger,
  reloads: ReloadWatch,
): Promise<Replication> {
  const { hubs, hubTls, bandwidth, compress, vmName, queueBytes } = config;
  if (!state) return new NoReplication(vmName);
  const { AgentGroup } = await import('../../repagent/agent-group.ts');
  const { imageMark } = await import('../../repagent/state-dir.ts');
  const files = hubTls && (await loadAgentTls(hubTls.dir, logger));
  files?.reloadOn(reloads);
  const agents = new AgentGroup(
    hubs.map((hub) => ({
      name: hub.name,
      hubHost: hub.host,
      hubPort: hub.port,
      state: state.mapsOf(hub.name),
      tls: hubTls && files && { credentials: files.current, serverName: hubTls.serverName ?? hub.host },
      logger: hubs.length > 1 ? logger.child({ hubName: hub.name }) : logger,
    })),
    {
      vmName,
      agentId: state.agentId,
      queueBytes,
      maxDelayMs: config.maxDelayMs,
      resyncRate: config.resyncRate,
      bandwidth,
      compress,
    },
  );
  return {
    protect: (name, below, imagePath) =>
      agents.protect(name, below, () => (imagePath === undefined ? undefined : imageMark(imagePath))),
    dirtyContext: (name) => ({
      name: DIRTY_CONTEXT,
      runs: (offset, length, maxRuns) =>
        agents
          .dirtyRuns(name, offset, length, maxRuns)
          .map((run) => ({ length: run.length, flags: run.isDirty ? DIRTY_FLAG : 0 })),
    }),
    start: () => agents.start(),
    status: () => agents.status(),
    stats: () => agents.stats,
    verify: (volume, onProgress, hub) => agents.verify(volume, onProgress, hub),
    close: () => agents.close(),
  };
}

class NoReplication implements Replication {
  readonly #vmName: string;

  constructor(vmName: string) {
    this.#vmName = vmName;
  }

  protect(_name: string, below: BlockDevice, _imagePath: string | undefined): BlockDevice {
    return below;
  }

  dirtyContext(): undefined {}

  start(): void {}

  status(): { link: null; volumes: VolumeStatus[] } {
    return { link: null, volumes: [] };
  }

  stats(): undefined {}

  verify(volume: string): Promise<VerifyResult> {
    return Promise.reject(
      new OperationError(`volume ${JSON.stringify(volume)} has no replica on ${this.#vmName}`, {
        hint: 'start `repagent serve` with --hub',
      }),
    );
  }

  async close(): Promise<void> {}
}

/** A volume that nothing replicates. */
export function unprotectedVolume(name: string, vmName: string, sizeBytes: number): VolumeStatus {
  return {
    name,
    vmName,
    state: 'unprotected',
    sizeBytes,
    dirtyBytes: sizeBytes,
    queuedBytes: 0,
    sequence: 0,
    ackedSequence: 0,
    lagMs: null,
    syncPercent: null,
    syncDoneBytes: 0,
    syncTotalBytes: sizeBytes,
    syncBytesPerSecond: null,
    syncTimeLeftMs: null,
    lastError: null,
  };
}
