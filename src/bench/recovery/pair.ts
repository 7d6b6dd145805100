// A hub and an agent with one volume, as processes, of which the hub can be taken away and brought back.
import type { VolumeStatus } from '../../control/status.ts';
import { EXPORT } from '../mirror-settings.ts';
import {
  compare,
  isCaughtUp,
  type OwnProcess,
  type OwnProgram,
  onlyVolume,
  startHub,
  startMirrored,
} from '../own-process.ts';
import { nbdUri, until } from '../server.ts';
import type { Absence } from './cells.ts';

const SYNC_TIMEOUT_MS = 300_000;

export interface PairPaths {
  readonly image: string;
  readonly replica: string;
  readonly agentState: string;
  readonly hubState: string;
}

export class ReplicatedPair {
  readonly uri: string;
  readonly #own: OwnProgram;
  readonly #paths: PairPaths;
  readonly #serve: OwnProcess;
  #hub: OwnProcess;
  #absence: Absence | undefined;

  private constructor(own: OwnProgram, paths: PairPaths, hub: OwnProcess, serve: OwnProcess) {
    this.#own = own;
    this.#paths = paths;
    this.#hub = hub;
    this.#serve = serve;
    this.uri = nbdUri(serve.port, EXPORT);
  }

  /** Starts both and waits for the first copy. The files are there already. @throws OperationError */
  static async start(own: OwnProgram, paths: PairPaths): Promise<ReplicatedPair> {
    const hub = await startHub(own, { replicas: [`${EXPORT}=${paths.replica}`], stateDir: paths.hubState });
    const { image, agentState } = paths;
    const serve = await startMirrored(own, {
      images: [`${EXPORT}=${image}`],
      stateDir: agentState,
      hubPort: hub.port,
    });
    const pair = new ReplicatedPair(own, paths, hub, serve);
    await pair.settle();
    return pair;
  }

  /** What the agent says of the volume. */
  volume(): Promise<VolumeStatus> {
    return onlyVolume(this.#own, 'serve', this.#serve.child.pid);
  }

  /** The hub is gone when this resolves. */
  async takeHubAway(how: Absence): Promise<void> {
    this.#absence = how;
    const { child } = this.#hub;
    child.signal(how === 'killed' ? 'SIGKILL' : 'SIGSTOP');
    if (how === 'killed') await child.exited;
  }

  /** The hub accepts agents again when this resolves, at the same address. */
  async bringHubBack(): Promise<void> {
    const { replica, hubState } = this.#paths;
    const { port, child } = this.#hub;
    if (this.#absence === 'killed')
      this.#hub = await startHub(this.#own, { replicas: [`${EXPORT}=${replica}`], stateDir: hubState, port });
    else child.signal('SIGCONT');
    this.#absence = undefined;
  }

  /** Waits until everything that was written is durable at the hub. */
  settle(): Promise<void> {
    const what = 'everything is replicated';
    return until(what, async () => isCaughtUp(await this.volume()), SYNC_TIMEOUT_MS);
  }

  /** @throws OperationError when disk and replica differ */
  async check(): Promise<true> {
    await this.settle();
    await compare('repagent', this.#paths.image, this.#paths.replica);
    return true;
  }

  async stop(): Promise<void> {
    if (this.#absence === 'stopped') this.#hub.child.signal('SIGCONT');
    await this.#serve.child.stop();
    await this.#hub.child.stop();
  }
}
