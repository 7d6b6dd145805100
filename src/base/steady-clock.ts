// Unix time that only goes forward: as the machine's clock said when the process began, and steady from then on. For
// ages of things; when something happened is told by Date.

/** Microseconds. */
export function steadyUs(): number {
  return Math.round((performance.timeOrigin + performance.now()) * 1000);
}
