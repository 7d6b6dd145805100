// What a command is to the program: a name, its options as data, examples, and a body that is loaded only to run.
import type { OptionTable, RawOptions } from './option-table.ts';

export interface CommandSpec<T extends OptionTable> {
  readonly name: string;
  readonly describe: string;
  readonly options: T;
  /** Command line (after `repagent`) and what it does. */
  readonly examples: ReadonlyArray<readonly [string, string]>;
  /** Whether `--config FILE` is offered. */
  readonly configFile: boolean;
  /** @returns the exit status */
  run(options: RawOptions<T>): Promise<number>;
}

/** A command whose option types are forgotten, so that all stand in one list. */
export interface Command extends Omit<CommandSpec<OptionTable>, 'run'> {
  run(options: Readonly<Record<string, unknown>>): Promise<number>;
}

export function defineCommand<const T extends OptionTable>(spec: CommandSpec<T>): Command {
  return { ...spec, run: (options) => spec.run(options as RawOptions<T>) };
}
