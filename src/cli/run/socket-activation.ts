// Listening sockets handed over by systemd (sd_listen_fds(3)): LISTEN_FDS of them from descriptor 3 on.
import { UsageError } from '../../base/errors.ts';

const FIRST_FD = 3;
const MAX_FDS = 64;

/**
 * The descriptors that were passed to this process; none when they were meant for another one.
 * Takes the variables out of `env`, so that child processes don't take the sockets for theirs.
 * @throws UsageError when LISTEN_FDS is no sensible count
 */
export function takeActivatedFds(env: NodeJS.ProcessEnv = process.env, pid: number = process.pid): number[] {
  const { LISTEN_FDS: count, LISTEN_PID: target } = env;
  delete env.LISTEN_FDS;
  delete env.LISTEN_PID;
  delete env.LISTEN_FDNAMES;
  if (count === undefined || target !== String(pid)) return [];
  const fds = /^\d{1,4}$/.test(count) ? Number(count) : Number.NaN;
  if (!(fds >= 1 && fds <= MAX_FDS)) {
    throw new UsageError(`LISTEN_FDS is ${JSON.stringify(count)}; expected 1 to ${MAX_FDS} sockets`);
  }
  return Array.from({ length: fds }, (_, index) => FIRST_FD + index);
}
