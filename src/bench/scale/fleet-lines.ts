// What the bench and its program of many agents tell each other: a plan on the command line, lines of JSON in return. Pure.
import { isRecord } from '../../base/is-record.ts';

export interface FleetPlan {
  readonly agents: number;
  readonly hubPort: number;
  /** Of each one's volume. */
  readonly sizeBytes: number;
  /** Where their state directories go. */
  readonly stateDir: string;
  /** Between being protected and the load. */
  readonly restSeconds: number;
  /** Of load, and writes a second to each. */
  readonly seconds: number;
  readonly iops: number;
}

export type FleetLine =
  | { readonly kind: 'protected'; readonly afterMs: number }
  /** After how long each write was acknowledged. */
  | { readonly kind: 'loaded'; readonly latenciesMs: readonly number[] };

export function isFleetPlan(value: unknown): value is FleetPlan {
  if (!isRecord(value)) return false;
  const { agents, hubPort, sizeBytes, stateDir, restSeconds, seconds, iops } = value;
  const numbers = [agents, hubPort, sizeBytes, restSeconds, seconds, iops];
  return typeof stateDir === 'string' && numbers.every((one) => typeof one === 'number');
}

/** @param text the program's standard output so far @returns its line of that kind; undefined when it has not come */
export function fleetLine<K extends FleetLine['kind']>(
  text: string,
  kind: K,
): Extract<FleetLine, { kind: K }> | undefined {
  // The last piece may be half a line.
  const lines = text.split('\n').slice(0, -1);
  const said = lines.map((line) => JSON.parse(line) as FleetLine);
  return said.find((line): line is Extract<FleetLine, { kind: K }> => line.kind === kind);
}
