// System calls that Node doesn't offer, through koffi. The only file that knows koffi: an optional dependency,
// looked for once. Where it is missing, or off 64-bit Linux, there is no NativeCalls, and every caller must do without.
import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';
import type { KoffiFunc, LibraryHandle } from 'koffi';

/** How fallocate makes a range zero: `punch` gives the space back, `zero` keeps or takes it. */
export type ZeroMode = 'punch' | 'zero';

/** What flock takes. */
export type LockMode = 'shared' | 'exclusive';

/** The calls. Those that can fail in a way that the caller decides on answer the errno's name, or undefined. */
export interface NativeCalls {
  /** Reads into `target` from `position`, in place. @returns bytes, maybe fewer @throws Error with `code` */
  readSync(fd: number, target: Buffer, position: number): number;
  /** Writes `data` at `position`, in place. @returns bytes, maybe fewer @throws Error with `code` */
  writeSync(fd: number, data: Buffer, position: number): number;
  fallocateSync(fd: number, mode: ZeroMode, offset: number, length: number): string | undefined;
  /** The same on the thread pool. */
  fallocate(fd: number, mode: ZeroMode, offset: number, length: number): Promise<string | undefined>;
  /** Where data, or a hole, next begins at or after `offset`; undefined when it can't tell, -1 for no more data. */
  seek(fd: number, offset: number, what: 'data' | 'hole'): Promise<number | undefined>;
  /** The same in place. */
  seekSync(fd: number, offset: number, what: 'data' | 'hole'): number | undefined;
  /** Takes an advisory lock that ends with the descriptor; 'EAGAIN' when someone else has it. */
  flock(fd: number, mode: LockMode): string | undefined;
  /** Asks for readahead of the range. */
  willNeed(fd: number, offset: number, length: number): Promise<void>;
  /** Whole numbers of 32 bits that a socket option holds, at most `count`; undefined when the system won't tell. */
  getSocketOption(fd: number, level: number, option: number, count: number): number[] | undefined;
  setSocketOption(fd: number, level: number, option: number, value: number): string | undefined;
  /** A socket option that is a short name, at most 31 bytes; undefined when the system won't tell. */
  getSocketName(fd: number, level: number, option: number): string | undefined;
  setSocketName(fd: number, level: number, option: number, value: string): string | undefined;
  /** Gives the memory of whole pages within `bytes` back to the system: their content is lost, the buffer is not. */
  discardPagesSync(bytes: Buffer): string | undefined;
  /** The same on the thread pool. */
  discardPages(bytes: Buffer): Promise<string | undefined>;
  /** Two unix stream sockets that are each other's peers; the caller owns both. @throws Error with `code` */
  socketPair(): [number, number];
}

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const FALLOC_FL_ZERO_RANGE = 16;
const FALLOCATE_MODES: Readonly<Record<ZeroMode, number>> = {
  punch: FALLOC_FL_PUNCH_HOLE + FALLOC_FL_KEEP_SIZE,
  zero: FALLOC_FL_ZERO_RANGE + FALLOC_FL_KEEP_SIZE,
};
/** SEEK_DATA and SEEK_HOLE. */
const WHENCE = { data: 3, hole: 4 } as const;
const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;
const POSIX_FADV_WILLNEED = 3;
const MADV_DONTNEED = 4;

const MAX_NAME_BYTES = 32;

const AF_UNIX = 1;
/** SOCK_STREAM with SOCK_NONBLOCK and SOCK_CLOEXEC. */
const SOCK_STREAM_FLAGS = 1 + 0o4000 + 0o2000000;

/** Calls on the thread pool at a time: koffi allows a few dozen, the pool has four threads. The others wait here. */
const MAX_POOL_CALLS = 16;

let cached: NativeCalls | undefined;
let looked = false;

/** The system calls, when koffi is installed and this is a 64-bit Linux. */
export function loadNativeCalls(): NativeCalls | undefined {
  if (!looked) {
    looked = true;
    cached = open();
  }
  return cached;
}

function open(): NativeCalls | undefined {
  if (process.platform !== 'linux') return undefined;
  try {
    const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
    // Only where off_t is 64 bits in the calls' plain names.
    if (koffi.sizeof('long') !== 8) return undefined;
    return bind(koffi.load(null), {
      errno: () => koffi.errno(),
      addressOf: (bytes) => koffi.address(bytes),
    });
  } catch {
    return undefined;
  }
}

type Transfer = KoffiFunc<(fd: number, bytes: Buffer, length: number, position: number) => number | bigint>;
type Fallocate = KoffiFunc<(fd: number, mode: number, offset: number, length: number) => number>;
type Lseek = KoffiFunc<(fd: number, offset: number, whence: number) => number | bigint>;
type Flock = KoffiFunc<(fd: number, operation: number) => number>;
type Getsockopt = KoffiFunc<
  (fd: number, level: number, option: number, value: Buffer, length: Buffer) => number
>;
type Setsockopt = KoffiFunc<
  (fd: number, level: number, option: number, value: Buffer, length: number) => number
>;
type Madvise = KoffiFunc<(bytes: Buffer, length: number, advice: number) => number>;
type Socketpair = KoffiFunc<(domain: number, type: number, protocol: number, fds: Buffer) => number>;
type Fadvise = KoffiFunc<(fd: number, offset: number, length: number, advice: number) => number>;

/** What koffi tells beside calls: how the last one failed, and where a buffer lies. */
interface Foreign {
  errno(): number;
  addressOf(bytes: Buffer): bigint;
}

function bind(libc: LibraryHandle, { errno, addressOf }: Foreign): NativeCalls {
  const pread = libc.func('int64_t pread(int fd, void *bytes, size_t length, int64_t offset)') as Transfer;
  const pwrite = libc.func(
    'int64_t pwrite(int fd, const void *bytes, size_t length, int64_t offset)',
  ) as Transfer;
  const fallocate = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)') as Fallocate;
  const lseek = libc.func('int64_t lseek(int fd, int64_t offset, int whence)') as Lseek;
  const flock = libc.func('int flock(int fd, int operation)') as Flock;
  const fadvise = libc.func(
    'int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)',
  ) as Fadvise;
  const getsockopt = libc.func(
    'int getsockopt(int fd, int level, int option, void *value, void *length)',
  ) as Getsockopt;
  const setsockopt = libc.func(
    'int setsockopt(int fd, int level, int option, const void *value, uint32_t length)',
  ) as Setsockopt;
  const madvise = libc.func('int madvise(void *bytes, size_t length, int advice)') as Madvise;
  const getpagesize = libc.func('int getpagesize(void)') as KoffiFunc<() => number>;
  const pageBytes = getpagesize();
  /** The kernel rounds a length up to a page: what lies behind the bytes must not be in it. */
  const wholePages = (bytes: Buffer): Buffer => {
    const start = (pageBytes - Number(addressOf(bytes) % BigInt(pageBytes))) % pageBytes;
    const count = Math.max(0, Math.floor((bytes.length - start) / pageBytes));
    return bytes.subarray(start, start + count * pageBytes);
  };
  const discarding = new Set<Buffer>();
  const socketpair = libc.func('int socketpair(int domain, int type, int protocol, void *fds)') as Socketpair;
  const gate = new PoolGate(MAX_POOL_CALLS);
  const code = (result: number | bigint): string | undefined =>
    Number(result) === -1 ? errnoName(errno()) : undefined;
  const transferred = (result: number | bigint, call: string): number => {
    const moved = Number(result);
    if (moved < 0) throw systemError(call, errnoName(errno()));
    return moved;
  };

  return {
    readSync: (fd, target, position) => transferred(pread(fd, target, target.length, position), 'pread'),
    writeSync: (fd, data, position) => transferred(pwrite(fd, data, data.length, position), 'pwrite'),
    fallocateSync: (fd, mode, offset, length) => code(fallocate(fd, FALLOCATE_MODES[mode], offset, length)),
    fallocate: (fd, mode, offset, length) =>
      gate.run((done) => {
        fallocate.async(fd, FALLOCATE_MODES[mode], offset, length, (error, result) =>
          done(error ? errorName(error) : code(result)),
        );
      }),
    seek: (fd, offset, what) =>
      gate.run((done) => {
        lseek.async(fd, offset, WHENCE[what], (error, result) =>
          done(found(result, error ? errorName(error) : code(result))),
        );
      }),
    seekSync: (fd, offset, what) => {
      const result = lseek(fd, offset, WHENCE[what]);
      return found(result, code(result));
    },
    flock: (fd, mode) => code(flock(fd, (mode === 'shared' ? LOCK_SH : LOCK_EX) + LOCK_NB)),
    willNeed: (fd, offset, length) =>
      gate.run((done) => {
        fadvise.async(fd, offset, length, POSIX_FADV_WILLNEED, () => done(undefined));
      }),
    getSocketOption: (fd, level, option, count) => {
      const values = new Int32Array(count);
      const length = new Uint32Array([values.byteLength]);
      if (getsockopt(fd, level, option, Buffer.from(values.buffer), Buffer.from(length.buffer)) !== 0) {
        return undefined;
      }
      return [...values.subarray(0, length[0]! / 4)];
    },
    setSocketOption: (fd, level, option, value) =>
      code(setsockopt(fd, level, option, Buffer.from(new Int32Array([value]).buffer), 4)),
    getSocketName: (fd, level, option) => {
      const value = Buffer.alloc(MAX_NAME_BYTES);
      const length = new Uint32Array([value.length]);
      if (getsockopt(fd, level, option, value, Buffer.from(length.buffer)) !== 0) return undefined;
      return value.toString('latin1', 0, length[0]).replace(/\0.*$/s, '');
    },
    setSocketName: (fd, level, option, value) =>
      code(setsockopt(fd, level, option, Buffer.from(value, 'latin1'), value.length)),
    discardPagesSync: (bytes) => {
      const pages = wholePages(bytes);
      return pages.length === 0 ? undefined : code(madvise(pages, pages.length, MADV_DONTNEED));
    },
    discardPages: (bytes) =>
      gate.run((done) => {
        const pages = wholePages(bytes);
        if (pages.length === 0) return done(undefined);
        // Were they collected before the call is made, it would be made on someone else's memory.
        discarding.add(pages);
        madvise.async(pages, pages.length, MADV_DONTNEED, (error, result) => {
          discarding.delete(pages);
          done(error ? errorName(error) : code(result));
        });
      }),
    socketPair: () => {
      const fds = new Int32Array(2);
      const failure = code(socketpair(AF_UNIX, SOCK_STREAM_FLAGS, 0, Buffer.from(fds.buffer)));
      if (failure !== undefined) throw systemError('socketpair', failure);
      return [fds[0]!, fds[1]!];
    },
  };
}

/** Lets a limited number of calls run on the thread pool; the others wait in order. */
class PoolGate {
  readonly #waiting: Array<() => void> = [];
  #free: number;

  constructor(atOnce: number) {
    this.#free = atOnce;
  }

  run<T>(start: (done: (value: T) => void) => void): Promise<T> {
    return new Promise((resolve, reject) => {
      const begin = (): void => {
        try {
          start((value) => {
            this.#leave();
            resolve(value);
          });
        } catch (error) {
          this.#leave();
          reject(error);
        }
      };
      if (this.#free === 0) {
        this.#waiting.push(begin);
        return;
      }
      this.#free -= 1;
      begin();
    });
  }

  #leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free += 1;
  }
}

/** What lseek found; -1 when there is nothing behind the offset. */
function found(position: number | bigint, failure: string | undefined): number | undefined {
  if (failure === undefined) return Number(position);
  return failure === 'ENXIO' ? -1 : undefined;
}

function errnoName(errno: number): string {
  return errno > 0 ? getSystemErrorName(-errno) : 'EIO';
}

/** koffi itself couldn't make the call: nothing that the file is to blame for. */
function errorName(_error: unknown): string {
  return 'ENOSYS';
}

function systemError(call: string, code: string): Error {
  return Object.assign(new Error(`${call}: ${code}`), { code, syscall: call });
}
