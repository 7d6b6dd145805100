// `repagent demo`: the whole story on temporary files, told while it happens. What it says is measured, never assumed,
// and it exits 1 when the two disks differ.
import { errorMessage, OperationError } from '../../base/errors.ts';
import { fileDigest } from '../../base/file-digest.ts';
import { DIRTY_GRANULARITY_BYTES } from '../../base/limits.ts';
import { silentLogger } from '../../base/log.ts';
import { formatBytes, formatDuration } from '../../base/size.ts';
import { openNbdDevice } from '../../blockdev/nbd-client/index.ts';
import { runVerify } from '../../control/client.ts';
import { watchSignals } from '../run/signals.ts';
import { sleep } from '../run/sleep.ts';
import { countText, durationText } from '../view/figures.ts';
import { createEmptyDisk, createUsedDisk, DISK_BYTES } from './disks.ts';
import { Narrator } from './narrator.ts';
import { type Sighting, watchUntil } from './watch.ts';
import { type Service, Workspace } from './workspace.ts';
import { DemoWriter, type WriterFigures } from './writer.ts';

const SYNC_TIMEOUT_MS = 60_000;
const STEADY_MS = 1500;
const OUTAGE_MS = 1500;
const INTERRUPTED_STATUS = 130;

/** @returns 0 when both disks are equal at the end, 1 when not, 130 when interrupted */
export async function runDemo(): Promise<number> {
  const workspace = new Workspace();
  const cleanUp = (): void => workspace.remove();
  process.once('exit', cleanUp);
  const signals = watchSignals();
  const narrator = new Narrator();
  try {
    const interrupted = signals.requested.then(() => INTERRUPTED_STATUS);
    const told = tell(workspace, narrator);
    // After an interruption the story goes on failing in the background until its processes are gone.
    told.catch(() => {});
    return await Promise.race([told, interrupted]);
  } finally {
    workspace.remove();
    process.off('exit', cleanUp);
    signals.dispose();
  }
}

async function tell(workspace: Workspace, narrator: Narrator): Promise<number> {
  const startedAt = performance.now();
  narrator.line(`A disk, its replica, and a hub that crashes. All in ${workspace.dir}, removed at the end.`);
  const story = new Story(workspace, narrator);
  const equal = await story.tell();
  narrator.note(`all of it took ${formatDuration(performance.now() - startedAt)}`);
  if (equal) tellWhatNext(narrator);
  return equal ? 0 : 1;
}

class Story {
  readonly #workspace: Workspace;
  readonly #narrator: Narrator;
  readonly #disk: string;
  readonly #replica: string;

  constructor(workspace: Workspace, narrator: Narrator) {
    this.#workspace = workspace;
    this.#narrator = narrator;
    this.#disk = workspace.path('disk.img');
    this.#replica = workspace.path('replica.img');
  }

  /** @returns whether both disks are equal at the end */
  async tell(): Promise<boolean> {
    this.#makeDisks();
    const hub = await this.#startHub('127.0.0.1:0');
    const agent = await this.#startAgent(hub);
    const device = await openNbdDevice(agent.url, { logger: silentLogger });
    const writer = new DemoWriter(device);
    writer.start();
    const meanwhile = <T>(what: Promise<T>): Promise<T> => Promise.race([what, writer.failed]);
    await meanwhile(this.#initialSync(agent, writer));
    await meanwhile(this.#steadyState(agent, writer));
    const newHub = await meanwhile(this.#hubCrash(hub, agent, writer));
    await meanwhile(writer.stop());
    const online = await this.#compareOnline(agent);
    await device.close();
    await agent.stop();
    await newHub.stop();
    return (await this.#compareFiles()) && online;
  }

  #makeDisks(): void {
    this.#narrator.heading('Two disk images');
    const dataBytes = createUsedDisk(this.#disk);
    createEmptyDisk(this.#replica);
    this.#narrator.note(`disk.img: ${formatBytes(DISK_BYTES)}, ${formatBytes(dataBytes)} of it in use`);
    this.#narrator.note(`replica.img: ${formatBytes(DISK_BYTES)}, empty`);
  }

  async #startHub(listen: string): Promise<Service> {
    const service = await this.#workspace.start('hub', [
      `disk=${this.#replica}`,
      ...['--listen', listen, '--state-dir', this.#workspace.path('hub-state')],
    ]);
    if (listen.endsWith(':0'))
      this.#narrator.heading('A hub, which keeps the replica, and an agent, which serves the disk');
    this.#narrator.command(`repagent hub disk=replica.img --listen ${listen}`);
    this.#narrator.note(`listening ${service.url}`);
    return service;
  }

  async #startAgent(hub: Service): Promise<Service> {
    const address = hub.url.replace('repagent://', '');
    const service = await this.#workspace.start('serve', [
      `disk=${this.#disk}`,
      ...['--hub', address, '--listen', '127.0.0.1:0', '--vm-name', 'demo'],
      ...['--state-dir', this.#workspace.path('agent-state')],
    ]);
    this.#narrator.command(`repagent serve disk=disk.img --hub ${address} --listen 127.0.0.1:0`);
    this.#narrator.note(`listening ${service.url}`);
    return service;
  }

  async #initialSync(agent: Service, writer: DemoWriter): Promise<void> {
    this.#narrator.heading('Initial sync, while a client writes over NBD');
    const startedAt = performance.now();
    await watchUntil(agent.control, isProtected, SYNC_TIMEOUT_MS);
    const elapsed = formatDuration(performance.now() - startedAt);
    this.#narrator.good(`protected after ${elapsed}: the replica equals the disk and follows it`);
    this.#tellWrites('meanwhile', writer.takeFigures());
  }

  async #steadyState(agent: Service, writer: DemoWriter): Promise<void> {
    this.#narrator.heading('Protected: every write is mirrored as it comes');
    await sleep(STEADY_MS);
    const { volume } = await watchUntil(agent.control, () => true, SYNC_TIMEOUT_MS);
    this.#tellWrites(`in ${formatDuration(STEADY_MS)}`, writer.takeFigures());
    const { sequence, ackedSequence, lagMs } = volume;
    this.#narrator.note(
      `change ${countText(sequence)} is the newest, ${countText(ackedSequence)} is durable at the hub; ` +
        `lag ${durationText(lagMs)}`,
    );
  }

  async #hubCrash(hub: Service, agent: Service, writer: DemoWriter): Promise<Service> {
    this.#narrator.heading('The hub crashes');
    this.#narrator.command('kill -9 HUB');
    await hub.crash();
    await sleep(OUTAGE_MS);
    const { volume } = await watchUntil(agent.control, (seen) => !isProtected(seen), SYNC_TIMEOUT_MS);
    const unit = formatBytes(DIRTY_GRANULARITY_BYTES);
    this.#narrator.note(
      `${volume.state}: ${formatBytes(volume.dirtyBytes)} are marked dirty, in units of ${unit}`,
    );
    this.#tellWrites('without a hub', writer.takeFigures());
    const restarted = await this.#startHub(hub.url.replace('repagent://', ''));
    const startedAt = performance.now();
    const { seen } = await watchUntil(agent.control, isProtected, SYNC_TIMEOUT_MS);
    const elapsed = formatDuration(performance.now() - startedAt);
    const what = seen.has('initial-sync')
      ? 'the new hub read the whole disk'
      : 'the new hub read what was dirty';
    this.#narrator.good(`protected again after ${elapsed}: ${what}, and the client never stopped`);
    this.#tellWrites('meanwhile', writer.takeFigures());
    return restarted;
  }

  async #compareOnline(agent: Service): Promise<boolean> {
    this.#narrator.heading('Is the replica the disk?');
    this.#narrator.command('repagent verify');
    const result = await runVerify(agent.control, 'disk', () => {});
    const equal = result.differing.length === 0;
    const what = `${formatBytes(result.comparedBytes)} compared by digests online`;
    if (equal) this.#narrator.good(`${what}: equal`);
    else this.#narrator.bad(`${what}: DIFFERENT, in ${result.differing.length} places`);
    return equal;
  }

  async #compareFiles(): Promise<boolean> {
    this.#narrator.note('agent and hub have shut down; the files by themselves:');
    const [disk, replica] = [await fileDigest(this.#disk), await fileDigest(this.#replica)];
    this.#narrator.note(`SHA-256 ${disk}  disk.img`);
    this.#narrator.note(`SHA-256 ${replica}  replica.img`);
    const equal = disk === replica;
    if (equal) this.#narrator.good('EQUAL');
    else this.#narrator.bad('DIFFERENT: this is a bug');
    return equal;
  }

  #tellWrites(when: string, { writes, bytes, slowestMs }: WriterFigures): void {
    const slowest = writes === 0 ? '' : `, the slowest took ${slowestMs.toFixed(1)} ms`;
    this.#narrator.note(`${when}: ${writes} writes, ${formatBytes(bytes)}${slowest}; none failed`);
  }
}

function isProtected({ volume }: Sighting): boolean {
  if (volume.state === 'failed')
    throw new OperationError(`the volume failed: ${errorMessage(volume.lastError)}`);
  return volume.state === 'protected';
}

function tellWhatNext(narrator: Narrator): void {
  narrator.heading('Next, with a disk of your own');
  narrator.note('on the machine that keeps the replica (it needs an image of the same size):');
  narrator.command('repagent hub disk=replica.img');
  narrator.note('where the VM runs:');
  narrator.command('repagent serve disk=vm.img --hub HUB');
  narrator.command('qemu-system-x86_64 -m 1G -drive file=nbd:localhost:10809,format=raw');
  narrator.note('or as a block device of Linux, as root:');
  narrator.command('modprobe nbd && nbd-client localhost 10809 /dev/nbd0');
  narrator.note('and to see what happens:');
  narrator.command('repagent status --watch');
}
