// Replicates a disk image while it is in use: an agent serves it over NBD and copies every change to a hub, which
// keeps a replica. Here both are in one program; in real life the hub is on another machine.
// In a project of your own, import from 'repagent'.
import {
  Agent,
  buildChain,
  createFilterContext,
  createLogger,
  filterLink,
  type Hub,
  loadAgentId,
  openImage,
  parseFilterSpec,
  Stopper,
  startHub,
  startNbdServer,
  type VolumeStatus,
} from '../src/index.ts';

export interface Replicating {
  /** Where NBD clients reach the disk. */
  readonly port: number;
  /** How far the replica is, as the agent knows it: state, sequence sent and acknowledged, lag. */
  status(): VolumeStatus;
  /** Sends what is left, says goodbye to the hub, and lets go of the image. */
  close(): Promise<void>;
}

/** @param replica an image as large as the disk; what is in it will be overwritten */
export function startReplicaHub(replica: string, stateDir: string): Promise<Hub> {
  return startHub({
    listen: { host: '127.0.0.1', port: 0 },
    pairs: new Map([['disk', replica]]),
    stateDir,
    logger: createLogger('warn', 'hub'),
  });
}

/** @param stateDir where the agent keeps who it is, so that the hub knows it again after a restart */
export async function replicateToHub(
  image: string,
  hub: { readonly host: string; readonly port: number },
  stateDir: string,
): Promise<Replicating> {
  const logger = createLogger('warn', 'replicate-to-hub');
  const stopper = new Stopper();
  try {
    const agentId = await loadAgentId(stateDir);
    const agent = new Agent({ hubHost: hub.host, hubPort: hub.port, vmName: 'example', agentId, logger });
    stopper.add('agent', () => agent.close());

    // The mirroring filter deals in whole sectors; the align filter above it makes them of what clients write.
    const context = createFilterContext({ logger, exportName: 'disk' });
    const align = filterLink(await parseFilterSpec('align'), context);
    const mirror = { name: 'mirror', wrap: agent.protect.bind(agent, 'disk') };
    const device = await buildChain(await openImage({ source: image, logger }), [align, mirror], context);
    stopper.add('disk', () => device.close());

    const server = await startNbdServer({
      exports: [{ name: 'disk', device }],
      listen: [{ kind: 'tcp', host: '127.0.0.1', port: 0 }],
      logger,
    });
    stopper.add('server', () => server.close());
    agent.start();

    const [address] = server.addresses;
    return {
      port: address?.kind === 'tcp' ? address.port : 0,
      status: () => agent.status().volumes[0]!,
      close: () => stopper.close(),
    };
  } catch (error) {
    await stopper.close();
    throw error;
  }
}
