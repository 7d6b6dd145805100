// fio as a guest that writes without end, by its own NBD client. Like a machine whose disk is gone, it ends when its
// server does; the server's next life needs a new one.
import { MiB } from '../../src/base/limits.ts';
import { type Peer, type PeerResult, startPeer } from './peers.ts';

export interface FioLoadOptions {
  /** The same seed gives the same requests in the same order. */
  readonly seed: number;
  /** At most so many writes a second, so that the figures of a fast machine mean the same as those of a slow one. */
  readonly writesPerSecond: number;
  readonly sizeBytes: number;
  /** Of its requests, as fio's bssplit has them; 4 to 64 KiB unless given. */
  readonly requestSizes?: string;
  /** A working directory that is the test's own. */
  readonly folder: string;
}

/** Offsets are multiples of the smallest: the largest touches at most two chunks of a map. */
const REQUEST_SIZES = '4k/70:16k/20:64k/10';

export class FioLoad {
  readonly #peer: Peer;

  /** @param uri nbd://... */
  constructor(uri: string, options: FioLoadOptions) {
    const { seed, writesPerSecond, sizeBytes, folder, requestSizes = REQUEST_SIZES } = options;
    this.#peer = startPeer(
      'fio',
      [
        ...['--name=load', '--ioengine=nbd', `--uri=${uri}`, '--thread', `--size=${sizeBytes / MiB}M`],
        ...['--rw=randrw', '--rwmixread=10', `--bssplit=${requestSizes}`],
        ...['--iodepth=8', `--rate_iops=,${writesPerSecond}`, '--fsync=64', '--random_distribution=zipf:0.9'],
        ...['--time_based', '--runtime=86400', `--randseed=${seed}`, '--allrandrepeat=1'],
      ],
      { cwd: folder },
    );
  }

  /** Ends it in order, while its server lives. @throws Error when a request had failed */
  async stop(): Promise<void> {
    const result = await this.#peer.stop();
    if (failed(result)) throw new Error(`fio's disk failed under it:\n${result.stdout}\n${result.stderr}`);
  }

  /** Ends it, whatever became of its server. */
  async drop(): Promise<void> {
    await this.#peer.kill();
  }
}

function failed(result: PeerResult): boolean {
  return /: error=|err= *[1-9]|io_u error/.test(`${result.stdout}${result.stderr}`);
}
