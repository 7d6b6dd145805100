// The rule of going back: a replica is never made worse while it catches up. At moments of its choice, and whenever the
// hub is gone, it lets the product's own `recover` work on what the hub's machine would hold if the hub were killed now,
// or its power failed, and looks at what comes back: it must be the volume at the point that is named, never be older than
// what was certain before, agree with what the status says, and leave nothing that the agent's map doesn't know of.
import { silentLogger } from '../../src/base/log.ts';
import type { FailoverTo } from '../../src/control/status.ts';
import { seededRandom } from '../../src/filter/random.ts';
import { recordFile } from '../../src/rephub/record-file.ts';
import { type Recovery, recoverImage } from '../../src/rephub/recover.ts';
import { pointText, type RecoveryPoint } from '../../src/rephub/recovery-point.ts';
import { undoPlace } from '../../src/rephub/undo-file.ts';
import type { WhenUndoFull } from '../../src/rephub/undo-store.ts';
import type { CrashRule } from './crash-rule.ts';
import { recordPath, undoPath } from './hub-machine.ts';
import type { WorldVolume } from './rules.ts';
import type { SimDisk } from './sim-disk.ts';
import type { SimFiles } from './sim-files.ts';
import { lookOf } from './sim-images.ts';
import type { VolumeTruth } from './truth.ts';
import type { World } from './world.ts';

export interface UndoKeeping {
  /** Most bytes of a log; undefined: as many as it takes. */
  readonly maxBytes: number | undefined;
  readonly whenFull: WhenUndoFull;
}

/** How often it is looked, of the events that change something: while a log is kept, and else. */
const SHARES = { open: 1 / 15, closed: 1 / 150 };

/** How long it may take until the hub has heard that a log is gone, ms. */
const DROPPING_MS = 100;

type End = 'kill' | 'power cut';

/** What a machine holds that somebody puts back. */
interface Machine {
  readonly files: SimFiles;
  readonly disk: SimDisk;
}

export class RecoverRule {
  readonly #world: World;
  readonly #crash: CrashRule;
  /** Of its own, so that a life is the same whether it is looked at or not. */
  readonly #random: () => number;
  /** Whose stream the positions of an attachment are of. */
  readonly #truths = new Map<WorldVolume, Map<number, VolumeTruth>>();
  /** Attachments in which the replica was protected. */
  readonly #followed = new Map<WorldVolume, Set<number>>();
  /** What was certain to be there after any crash. */
  readonly #certain = new Map<WorldVolume, RecoveryPoint>();
  /** Others put something in the place of what the hub had; nothing can be said until the replica is whole again. */
  readonly #suspect = new Set<WorldVolume>();
  /** Since when a log is seen to be dropped, ms. */
  readonly #dropping = new Map<WorldVolume, { point: unknown; host: unknown; sinceMs: number }>();
  readonly #looked = new Map<WorldVolume, string>();

  constructor(world: World, crash: CrashRule, seed: number) {
    this.#world = world;
    this.#crash = crash;
    this.#random = seededRandom(seed);
  }

  get #isOn(): boolean {
    return this.#world.options.undo !== undefined && this.#world.hubs.isKeeping;
  }

  /** Points may be given up that can't be kept. */
  get #mayGiveUp(): boolean {
    const { maxBytes, whenFull } = this.#world.options.undo!;
    return maxBytes === 0 || whenFull === 'release';
  }

  /** A connection of the agent's life with this truth begins to replicate. */
  attached(volume: WorldVolume, truth: VolumeTruth): void {
    const record = this.#world.hubs.recordsOf(volume.name)[0];
    if (!record || record === 'damaged') return;
    const truths = this.#truths.get(volume) ?? new Map<number, VolumeTruth>();
    this.#truths.set(volume, truths.set(record.generation, truth));
  }

  /** Somebody put another image or older records there. */
  tampered(volume: WorldVolume): void {
    this.#suspect.add(volume);
    this.#certain.delete(volume);
  }

  /** The replica is protected. */
  settled(volume: WorldVolume): void {
    if (!volume.isFollowed || volume.isReplaced) return;
    this.#suspect.delete(volume);
    const record = this.#world.hubs.recordsOf(volume.name)[0];
    if (!record || record === 'damaged') return;
    this.#followed.set(volume, (this.#followed.get(volume) ?? new Set()).add(record.generation));
  }

  /** After an event. */
  sample(volume: WorldVolume): string | undefined {
    if (!this.#isOn) return undefined;
    const { files } = this.#world.hubs;
    const now = `${files.version} ${files.blocksVersion} ${volume.image.disk.version} ${volume.replica?.state}`;
    if (now === this.#looked.get(volume)) return undefined;
    this.#looked.set(volume, now);
    const isOpen = volume.replica?.content.undo?.state === 'open';
    if (this.#random() >= (isOpen ? SHARES.open : SHARES.closed)) return undefined;
    return this.look(volume);
  }

  /** @returns what is wrong with what `recover` would give now */
  look(volume: WorldVolume, end: End = this.#random() < 0.5 ? 'kill' : 'power cut'): string | undefined {
    if (!this.#isOn) return undefined;
    const { looks, hubs } = this.#world;
    looks.recovers += 1;
    const isSettled = hubs.files.isSettled;
    const machine = this.#apart(volume, end);
    const outcome = this.#recover(volume, machine, end);
    if (this.#suspect.has(volume)) return undefined;
    const wrong =
      outcome instanceof Error
        ? this.#refusedWrongly(volume, outcome)
        : (this.#notThatPoint(volume, machine, outcome) ?? this.#worse(volume, outcome.point));
    if (wrong !== undefined) return `after a ${end}: ${wrong}`;
    if (outcome instanceof Error) looks.refusals += 1;
    else {
      if (outcome.bytes > 0) looks.putBack += 1;
      if (outcome.point.isExact) looks.exactPoints += 1;
      if (isSettled && end === 'power cut') this.#certain.set(volume, outcome.point);
    }
    const isTold = this.#world.hub !== undefined && end === 'kill';
    return isTold ? this.#toldOtherwise(volume, outcome, machine) : undefined;
  }

  /** What would be left if the hub ended now. */
  #apart({ image }: WorldVolume, end: End): Machine {
    const { files } = this.#world.hubs;
    const machine = { files: files.apart(this.#random), disk: image.disk.apart(this.#random) };
    if (this.#world.hubHost.isAlive || end === 'power cut') crash(machine, end);
    return machine;
  }

  #recover(volume: WorldVolume, machine: Machine, end: End): Recovery | Error {
    // Now and then it doesn't get to its end, and is begun again.
    for (let attempts = 2; attempts > 0 && this.#random() < 0.3; attempts -= 1) {
      machine.files.callsLeft = Math.floor(this.#random() * 24);
      const outcome = this.#recoverOnce(volume, machine);
      machine.files.callsLeft = Number.POSITIVE_INFINITY;
      if (outcome) return outcome;
      crash(machine, end);
    }
    return this.#recoverOnce(volume, machine) ?? new Error('recover waits for something');
  }

  /** @returns undefined when it didn't get to its end */
  #recoverOnce({ name }: WorldVolume, { files, disk }: Machine): Recovery | Error | undefined {
    let outcome: Recovery | Error | undefined;
    this.#world.clock.as(null, () => {
      recoverImage({
        path: name,
        record: recordFile(recordPath(name), files),
        undo: undoPlace(undoPath(name), files),
        openImage: async () => disk,
        look: async (durably) => {
          if (durably) disk.syncTimes();
          return lookOf(disk);
        },
        checkOnly: false,
        logger: silentLogger,
      }).then(
        (recovery) => {
          outcome = recovery;
        },
        (error: unknown) => {
          outcome = error instanceof Error ? error : new Error(String(error));
        },
      );
    });
    return outcome;
  }

  #refusedWrongly(volume: WorldVolume, { message }: Error): string | undefined {
    const certain = this.#certain.get(volume);
    // An image that a clock made look older or changed can't be relied on, as far as anybody knows.
    if (!certain || this.#world.memory.clocksJumped) return undefined;
    if (this.#mayGiveUp) {
      this.#certain.delete(volume);
      return undefined;
    }
    return `recover refuses, though there was ${pointText(certain)}: ${message}`;
  }

  /** What was put back is what is said of it. */
  #notThatPoint(volume: WorldVolume, machine: Machine, { point }: Recovery): string | undefined {
    const { disk } = machine;
    const { sequence, isExact } = point;
    const what = `recover gives ${pointText(point)}`;
    if (sequence === null) return isExact ? `${what}, which is no position` : undefined;
    const truth = this.#truths.get(volume)?.get(point.generation);
    if (!truth) return `${what}, of an attachment that nobody had`;
    const content = truth.contentAt(sequence);
    const sector = isExact
      ? disk.now.findIndex((tag, i) => tag !== content[i])
      : truth.olderThan(sequence, disk, this.#livesAfter(volume, point));
    if (sector !== -1)
      return `${what}, but sector ${sector} holds ${disk.now[sector]}, not ${content[sector]}`;
    const lost = volume.isFollowed && !volume.isReplaced ? volume.truth.lostAcked(disk) : -1;
    if (lost !== -1)
      return `${what}, and sector ${lost} has lost what was acknowledged, up to ${volume.truth.ackedSequence}`;
    const hidden = this.#crash.hiddenFrom(volume, machine.files, disk);
    return hidden && `${what}, ${hidden}`;
  }

  /** Later attachments that it followed without having to read anything: where no record could be written, that shows. */
  #livesAfter(volume: WorldVolume, { generation }: RecoveryPoint): VolumeTruth[] {
    const followed = this.#followed.get(volume) ?? [];
    const truths = this.#truths.get(volume)!;
    return [...followed].filter((one) => one > generation).flatMap((one) => truths.get(one) ?? []);
  }

  #worse(volume: WorldVolume, point: RecoveryPoint): string | undefined {
    const certain = this.#certain.get(volume);
    if (!certain || !isOlder(point, certain)) return undefined;
    return `recover gives ${pointText(point)}, though there was ${pointText(certain)}`;
  }

  /** What the status says comes to the same. */
  #toldOtherwise(volume: WorldVolume, outcome: Recovery | Error, { disk }: Machine): string | undefined {
    const status = this.#world.hub!.status().find(({ name }) => name === volume.name)!;
    const told = status.failoverTo ?? null;
    const isMoving = volume.image.isAppending || volume.replica?.content.isIdle === false;
    this.#world.looks.told += 1;
    if (outcome instanceof Error) {
      // A point is being given up, or the first one is not recorded yet.
      const isGoing = isMoving && this.#mayGiveUp;
      const isComing = told?.by === 'replica' && !this.#certain.has(volume);
      if (this.#world.memory.clocksJumped) return undefined;
      return told && !isGoing && !isComing
        ? `the status says ${toldText(told)}, but recover refuses: ${outcome.message}`
        : undefined;
    }
    const { point, bytes } = outcome;
    const isSame =
      told?.sequence === point.sequence && told.isExact === point.isExact && told.timeMs === point.timeMs;
    if (!isSame && bytes === 0 && told?.by !== 'replica' && this.#isDropping(volume)) return undefined;
    // It has begun to give the point up.
    if (!told && this.#mayGiveUp) return undefined;
    if (!told) return `the status says none (${status.state}), but recover gives ${pointText(point)}`;
    if (told.by === 'recover') {
      return isSame ? undefined : `the status says ${toldText(told)}, but recover gives ${pointText(point)}`;
    }
    if (isSame || isMoving || told.sequence === null) return undefined;
    // The image is what the status says, though nothing but the hub knows it that exactly.
    const truth = this.#truths.get(volume)?.get(this.#generationOf(volume) ?? point.generation);
    const content = truth?.contentAt(told.sequence);
    const sector = content && told.isExact ? disk.now.findIndex((tag, i) => tag !== content[i]) : -1;
    if (sector === -1) return undefined;
    return `the status says ${toldText(told)}, but sector ${sector} holds ${disk.now[sector]}, not ${content![sector]}`;
  }

  /** The log is gone, and the hub is about to hear that this is durable: what comes true then can't get lost any more. */
  #isDropping(volume: WorldVolume): boolean {
    const { clock, hubHost } = this.#world;
    const point = volume.replica?.content.point;
    const before = this.#dropping.get(volume);
    const sinceMs = before?.point === point && before?.host === hubHost ? before.sinceMs : clock.nowMs;
    this.#dropping.set(volume, { point, host: hubHost, sinceMs });
    return clock.nowMs - Math.max(sinceMs, hubHost.stalledUntilMs) < DROPPING_MS;
  }

  /** Of the position that the status says. */
  #generationOf({ name, replica }: WorldVolume): number | undefined {
    if (!replica) return undefined;
    const point = replica.content.isGuarded ? replica.content.point : replica.memory.point;
    if (!replica.link || !replica.isConsistent) return point?.generation;
    const record = this.#world.hubs.recordsOf(name)[0];
    return record && record !== 'damaged' ? record.generation : undefined;
  }
}

function crash({ files, disk }: Machine, end: End): void {
  if (end === 'kill') {
    disk.processDied();
    files.processDied();
    return;
  }
  disk.powerCut();
  files.powerCut();
}

function isOlder(a: RecoveryPoint, b: RecoveryPoint): boolean {
  if (a.generation !== b.generation) return a.generation < b.generation;
  return (a.sequence ?? 0) < (b.sequence ?? 0);
}

function toldText({ by, timeMs, sequence, isExact }: FailoverTo): string {
  const at = timeMs === null ? 'an unknown time' : new Date(timeMs).toISOString();
  return `${at}, sequence ${sequence}, ${isExact ? 'exact' : 'not exact'}, by ${by}`;
}
