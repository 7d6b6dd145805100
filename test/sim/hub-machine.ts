// The machine of a simulated hub: its images, its records, and the process that comes and goes.
import { silentLogger } from '../../src/base/log.ts';
import { type Hub, startHub } from '../../src/rephub/hub.ts';
import { decodeRecord, type ReplicaRecord } from '../../src/rephub/replica-record.ts';
import { undoPlace } from '../../src/rephub/undo-file.ts';
import { Host } from './clock.ts';
import { HUB_PORT } from './network.ts';
import type { UndoKeeping } from './recover-rule.ts';
import { SimFiles } from './sim-files.ts';
import { SimImages } from './sim-images.ts';
import type { World } from './world.ts';

const STATE_DIR = '/state';

/** As the product calls them. */
export function recordPath(volumeName: string): string {
  return `${STATE_DIR}/replicas/${volumeName}%record`;
}

export function undoPath(volumeName: string): string {
  return `${STATE_DIR}/replicas/${volumeName}%undo`;
}

/** After a start that failed the next one follows, ms. */
const RESTART_MS = 500;

export class HubMachine {
  /** Whether records outlive the process. */
  readonly isKeeping: boolean;
  readonly files: SimFiles;
  /** How undo logs are kept; undefined: none are. */
  undo: UndoKeeping | undefined;
  host = new Host('hub');
  hub: Hub | undefined;
  readonly #images: SimImages;
  readonly #decoded = new Map<string, ReplicaRecord | 'damaged'>();
  readonly #world: World;
  /** Starts and ends of the process: a start that was put off looks whether it is still wanted. */
  #turns = 0;

  constructor(world: World, isKeeping: boolean) {
    this.#world = world;
    this.isKeeping = isKeeping;
    const { clock, options, volumes } = world;
    const files = new SimFiles(clock, options.random);
    this.files = files;
    this.#images = new SimImages(
      new Map(volumes.map(({ name, image }) => [name, image])),
      options.bug?.wrapStore,
      options.undo && ((file) => undoPlace(file, files)),
    );
    this.undo = options.undo;
  }

  /** What a hub may find of a volume that starts now, or after a power failure. */
  recordsOf(volumeName: string): Array<ReplicaRecord | 'damaged' | undefined> {
    return this.files.possible(recordPath(volumeName)).map((text) => {
      if (text === undefined) return undefined;
      const known = this.#decoded.get(text);
      if (known) return known;
      const record = decodeRecord(text) ?? 'damaged';
      this.#decoded.set(text, record);
      return record;
    });
  }

  start(): void {
    const world = this.#world;
    const host = new Host('hub');
    host.wallOffsetMs = this.host.wallOffsetMs;
    this.host = host;
    this.#turns += 1;
    const turn = this.#turns;
    for (const volume of world.volumes) {
      volume.replica = undefined;
      volume.image.disk.owner = host;
    }
    world.tell('the hub starts');
    world.clock.as(host, () => {
      startHub({
        listen: { host: 'sim', port: HUB_PORT },
        pairs: new Map(world.volumes.map(({ name }) => [name, name])),
        stateDir: this.isKeeping ? STATE_DIR : undefined,
        files: this.files,
        logger: silentLogger,
        hubName: 'hub',
        images: this.#images,
        undo: this.undo,
        createServer: world.net.serverOf(host),
        tuning: { sync: world.options.sync },
      }).then(
        (hub) => {
          this.hub = hub;
        },
        (error: unknown) => {
          // An image that can't be opened keeps a hub from starting, in words.
          world.tell(`the hub did not start: ${String(error)}`);
          host.isAlive = false;
          for (const { image } of world.volumes) image.processDied();
          world.restartLater(() => {
            if (turn === this.#turns) this.start();
          }, RESTART_MS);
        },
      );
    });
  }

  /** In order. */
  stop(): void {
    const world = this.#world;
    const { hub, host } = this;
    this.#turns += 1;
    this.hub = undefined;
    if (!hub || !host.isAlive) return;
    world.tell('the hub is stopped');
    let isClosed = false;
    world.clock.as(host, () => {
      hub.close().then(
        () => {
          isClosed = true;
        },
        (error: unknown) => {
          world.tell(`close: ${String(error)}`);
          isClosed = true;
        },
      );
    });
    for (const volume of world.volumes) volume.replica = undefined;
    if (!world.pass(30_000, () => isClosed)) world.fail('the hub did not close within 30 s');
    world.lastTurns();
    host.isAlive = false;
    this.files.processDied();
  }

  /** Kills the process, or the whole machine. */
  crash(isPowerCut: boolean, isReset: boolean): void {
    const world = this.#world;
    world.tell(`the hub ${isPowerCut ? 'loses power' : 'is killed'}`);
    this.#turns += 1;
    this.host.isAlive = false;
    this.hub = undefined;
    world.net.hostDied(this.host, isPowerCut ? 'silent' : isReset ? 'reset' : 'closed');
    for (const volume of world.volumes) {
      volume.replica = undefined;
      volume.image.processDied();
      if (isPowerCut) volume.image.disk.powerCut();
      else volume.image.disk.processDied();
    }
    if (isPowerCut) this.files.powerCut();
    else this.files.processDied();
  }
}
