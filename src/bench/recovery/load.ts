// A load of writes that runs beside what is measured, until it is told to end.

import { OperationError } from '../../base/errors.ts';
import { within } from '../../base/lifecycle.ts';
import type { Child, Children } from '../children.ts';
import type { SteadyLoad } from '../fio.ts';
import { type FioFigures, parseFioReport, steadyLoadArgs } from '../fio.ts';
import { until } from '../server.ts';
import type { ReplicatedPair } from './pair.ts';

const BEGIN_TIMEOUT_MS = 30_000;
const END_TIMEOUT_MS = 60_000;
/** When it is to end by itself, should nobody tell it to; seconds. */
const LONGEST_SECONDS = 7200;

export class RunningLoad {
  readonly #child: Child;

  private constructor(child: Child) {
    this.#child = child;
  }

  /** Resolves when the first writes have been made. @param extra further arguments of fio */
  static async start(
    children: Children,
    pair: ReplicatedPair,
    load: SteadyLoad,
    sizeBytes: number,
    extra: readonly string[] = [],
  ): Promise<RunningLoad> {
    const before = (await pair.volume()).sequence;
    const args = [...steadyLoadArgs(load, pair.uri, sizeBytes, LONGEST_SECONDS), ...extra];
    const child = children.start('fio', args);
    const isWriting = async (): Promise<boolean> => {
      if (child.hasExited) throw new OperationError(`fio ended early: ${child.tail()}`);
      return (await pair.volume()).sequence > before;
    };
    await until('the load begins', isWriting, BEGIN_TIMEOUT_MS);
    return new RunningLoad(child);
  }

  /** Ends the load, in order. @throws OperationError when a write failed, or fio ended before */
  async end(): Promise<FioFigures> {
    const child = this.#child;
    if (child.hasExited) throw new OperationError(`fio ended early: ${child.tail()}`);
    child.signal('SIGINT');
    if (!(await within(child.exited, END_TIMEOUT_MS))) {
      await child.stop();
      throw new OperationError('fio did not end when it was told to');
    }
    return parseFioReport(child.stdout());
  }
}
