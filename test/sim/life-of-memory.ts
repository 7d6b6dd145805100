// What may befall the memory of both sides in a life: both end, copies are put back, disks are changed past the agent, and
// what should be kept can't be written.
import type { Life } from './life.ts';
import { copyAgent, copyHub, type MachineCopy, restoreAgent, restoreHub, writePast } from './tampering.ts';

export class LifeOfMemory {
  readonly #life: Life;
  #hubCopy: MachineCopy | undefined;
  #agentCopy: MachineCopy | undefined;

  constructor(life: Life) {
    this.#life = life;
  }

  /** Both are gone at once, or nearly, and come back in any order. */
  crashBoth(): void {
    const { world } = this.#life;
    const crashes = [
      (): void => {
        if (world.agentHost.isAlive) world.crashAgent(this.#maybe(), this.#maybe());
      },
      (): void => {
        if (world.hubHost.isAlive) world.crashHub(this.#maybe(), this.#maybe());
      },
    ];
    const isAgentFirst = this.#maybe();
    for (const crash of isAgentFirst ? crashes : crashes.reverse()) {
      crash();
      if (this.#maybe()) this.#life.pause();
    }
    if (world.wrong !== undefined) return;
    const starts = [
      (): void => {
        if (!world.agentHost.isAlive) world.startAgent();
      },
      (): void => {
        if (!world.hubHost.isAlive) world.startHub();
      },
    ];
    for (const start of this.#maybe() ? starts : starts.reverse()) {
      start();
      if (this.#maybe()) this.#life.pause();
    }
  }

  copyHub(): void {
    this.#hubCopy = copyHub(this.#life.world);
  }

  copyAgent(): void {
    this.#agentCopy = copyAgent(this.#life.world);
  }

  /** While no hub runs. */
  restoreHub(): void {
    if (!this.#hubCopy || this.#life.world.wrong !== undefined) return;
    restoreHub(this.#life.world, this.#hubCopy, this.#life.pick(['records', 'images', 'all']));
  }

  /** While no agent runs. */
  restoreAgent(): void {
    if (!this.#agentCopy || this.#life.world.wrong !== undefined) return;
    restoreAgent(this.#life.world, this.#agentCopy, this.#life.pick(['state', 'all']), this.#maybe());
  }

  /** While no agent runs. */
  writePast(): void {
    const volume = this.#life.volume();
    const sectors = volume.disk.now.length;
    const first = this.#life.int(sectors);
    writePast(this.#life.world, volume, first, 1 + this.#life.int(Math.min(4, sectors - first)));
  }

  /** The agent's state directory is full, or its disk fails. */
  mapFault(): void {
    const { world } = this.#life;
    const volume = this.#life.volume();
    const map = world.agents.maps.get(volume.name)!;
    map.failCode = this.#life.pick(['EIO', 'ENOSPC']);
    if (this.#maybe()) map.failWrites = 1 + this.#life.int(3);
    else map.failSyncs = 1;
    world.memory.excuse(volume, 'the map could not be written');
  }

  /** The hub's state directory is full, or its disk fails. */
  recordFault(): void {
    const { files } = this.#life.world.hubs;
    files.failCode = this.#life.pick(['EIO', 'ENOSPC']);
    files.failCalls = 1 + this.#life.int(4);
    files.failsBlocksOnly = false;
  }

  heal(): void {
    const { agents, hubs } = this.#life.world;
    hubs.files.failCalls = 0;
    hubs.files.isFull = false;
    agents.files.failCalls = 0;
    for (const map of agents.maps.values()) Object.assign(map, { failWrites: 0, failSyncs: 0 });
  }

  #maybe(): boolean {
    return this.#life.int(2) === 0;
  }
}
