// What serve knows of replication: an agent when there is a hub, and the honest statement that nothing is replicated
// when there is none.
import { OperationError } from '../../base/errors.ts';
import type { Logger } from '../../base/log.ts';
import type { BlockDevice } from '../../blockdev/block-device.ts';
import type { ProcessStatus, VerifyProgress, VerifyResult, VolumeStatus } from '../../control/status.ts';
import type { MetaContext } from '../../nbd/meta-contexts.ts';
import type { ServeConfig } from '../commands/serve.ts';
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
  /** Dials the hub. */
  start(): void;
  status(): { readonly link: ProcessStatus['link']; readonly volumes: readonly VolumeStatus[] };
  /** Counters of the agent, for people who look into it; undefined without one. */
  stats(): unknown;
  verify(volume: string, onProgress: (progress: VerifyProgress) => void): Promise<VerifyResult>;
  /** Sends what is queued, and says goodbye to the hub. */
  close(): Promise<void>;
}

/**
 * @throws OperationError when the state directory can't be used, or is another agent's, or its TLS files can't be used
 */
export async function createReplication(
  config: ServeConfig,
  logger: Logger,
  reloads: ReloadWatch,
): Promise<Replication> {
  const { hub, hubTls, bandwidth, vmName, queueBytes, stateDir, dirtyGranularityBytes, dirtySync } = config;
  if (!hub) return new NoReplication(vmName);
  const { Agent } = await import('../../repagent/agent.ts');
  const { AgentState, imageMark } = await import('../../repagent/state-dir.ts');
  const state = await AgentState.open({
    stateDir,
    granularityBytes: dirtyGranularityBytes,
    exact: dirtySync === 'always',
    logger,
  });
  const files = hubTls && (await loadAgentTls(hubTls.dir, logger));
  files?.reloadOn(reloads);
  const tls = hubTls && files && { credentials: files.current, serverName: hubTls.serverName };
  const agent = new Agent({
    hubHost: hub.host,
    hubPort: hub.port,
    vmName,
    agentId: state.agentId,
    state,
    queueBytes,
    bandwidth,
    tls,
    logger,
  });
  return {
    protect: (name, below, imagePath) =>
      agent.protect(name, below, () => (imagePath === undefined ? undefined : imageMark(imagePath))),
    dirtyContext: (name) => ({
      name: DIRTY_CONTEXT,
      runs: (offset, length, maxRuns) =>
        agent
          .dirtyRuns(name, offset, length, maxRuns)
          .map((run) => ({ length: run.length, flags: run.isDirty ? DIRTY_FLAG : 0 })),
    }),
    start: () => agent.start(),
    status: () => agent.status(),
    stats: () => agent.stats,
    verify: (volume, onProgress) => agent.verify(volume, onProgress),
    close: () => agent.close(),
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
