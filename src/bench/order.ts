// In which order the servers take their turns. Pure. A machine that slowly gets warmer, or busier, must not favour
// whoever comes first.

/**
 * The order of one round. Two rounds make a pair, there and back (ABBA), so that a steady drift cancels out; each pair
 * begins with the next server, so that nobody always follows the same neighbour after a pause.
 * @param round from 0
 */
export function orderOfRound<T>(servers: readonly T[], round: number): T[] {
  if (servers.length === 0) return [];
  const first = Math.floor(round / 2) % servers.length;
  const forward = [...servers.slice(first), ...servers.slice(0, first)];
  return round % 2 === 0 ? forward : forward.reverse();
}
