// What a scale run found, and what each of its cells works with. Types alone.
import type { Machine } from '../machine.ts';
import type { OwnProgram } from '../own-process.ts';
import type { Workspace } from '../workspace.ts';
import type { ScaleCell } from './cells.ts';

export interface ScaleFigures {
  readonly cell: ScaleCell;
  /** From its start until the agent accepts clients, and until every volume is protected. */
  readonly startedAfterMs: number;
  readonly protectedAfterMs: number;
  /** Resident, when everything is protected and nobody is connected. */
  readonly agentBytes: number;
  readonly hubBytes: number;
  /** Of one processor, at the same time. */
  readonly agentRestShare: number;
  readonly hubRestShare: number;
  /** The same under the load. */
  readonly agentLoadShare: number;
  readonly hubLoadShare: number;
  /** Of the 4 KiB writes to all volumes that are busy, one at a time to each. */
  readonly iops: number;
  /** Until a write was answered; of many agents, until the hub had acknowledged it. */
  readonly p50Us: number | undefined;
  readonly p99Us: number | undefined;
}

export interface ScaleResult {
  readonly kind: 'scale';
  readonly repagentVersion: string;
  /** When it began, ISO 8601. */
  readonly date: string;
  readonly machine: Machine;
  readonly seconds: number;
  readonly figures: readonly ScaleFigures[];
}

/** One cell in the making. */
export interface ScaleRun {
  readonly own: OwnProgram;
  readonly workspace: Workspace;
  readonly cell: ScaleCell;
  readonly seconds: number;
  /** What is being done, and how long this cell still takes. */
  readonly onStep: (step: string, secondsLeft: number) => void;
}
