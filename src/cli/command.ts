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
  /**
   * @param reread reads the config file again and puts the command line over it, for what may change at run time;
   *   throws UsageError
   * @returns the exit status
   */
  run(options: RawOptions<T>, reread: () => RawOptions<T>): Promise<number>;
}

/** Options whose table is forgotten. */
type AnyOptions = Readonly<Record<string, unknown>>;

/** A command whose option types are forgotten, so that all stand in one list. */
export interface Command extends Omit<CommandSpec<OptionTable>, 'run'> {
  run(options: AnyOptions, reread: () => AnyOptions): Promise<number>;
}

export function defineCommand<const T extends OptionTable>(spec: CommandSpec<T>): Command {
  return {
    ...spec,
    run: (options, reread) => spec.run(options as RawOptions<T>, reread as () => RawOptions<T>),
  };
}
