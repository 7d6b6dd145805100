// The program as yargs knows it: which commands there are, how their arguments are read, what help says. It decides
// nothing about values; those are checked against each command's own table. The only file that imports yargs.
import yargs, { type Argv } from 'yargs';
import { UsageError } from '../base/errors.ts';
import type { Command } from './command.ts';
import { adjustCommand } from './commands/adjust.ts';
import { benchCommand } from './commands/bench.ts';
import { demoCommand } from './commands/demo.ts';
import { filtersCommand } from './commands/filters.ts';
import { hubCommand } from './commands/hub.ts';
import { pauseCommand } from './commands/pause.ts';
import { readonlyCommand } from './commands/readonly.ts';
import { recoverCommand } from './commands/recover.ts';
import { resizeCommand } from './commands/resize.ts';
import { resolveCommand } from './commands/resolve.ts';
import { resumeCommand } from './commands/resume.ts';
import { serveCommand } from './commands/serve.ts';
import { statusCommand } from './commands/status.ts';
import { verifyCommand } from './commands/verify.ts';
import { waitCommand } from './commands/wait.ts';
import { readConfigFile } from './config-file.ts';
import { didYouMean, fromArguments, fromConfig, mergeOptions, type OptionSpec } from './option-table.ts';
import { packageVersion } from './version.ts';

export const COMMANDS: readonly Command[] = [
  serveCommand,
  hubCommand,
  statusCommand,
  waitCommand,
  verifyCommand,
  resizeCommand,
  resolveCommand,
  recoverCommand,
  pauseCommand,
  resumeCommand,
  readonlyCommand,
  adjustCommand,
  filtersCommand,
  benchCommand,
  demoCommand,
];

const CONFIG_DESCRIPTION = 'YAML file of options, one `option: value` a line; the command line wins';
const MAX_HELP_COLUMNS = 110;

/**
 * Runs the command that `args` name; help and version are printed to standard output.
 * @returns the exit status
 * @throws UsageError for wrong arguments; whatever the command's body throws
 */
export async function runProgram(args: readonly string[]): Promise<number> {
  let status = 0;
  const program = yargs()
    .scriptName('repagent')
    .usage('$0 COMMAND: replicates the disks of running VMs')
    .locale('en')
    .exitProcess(false)
    .parserConfiguration({
      'camel-case-expansion': false,
      'boolean-negation': false,
      'dot-notation': false,
      'greedy-arrays': false,
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'short-option-groups': false,
    })
    .wrap(Math.min(process.stdout.columns || MAX_HELP_COLUMNS, MAX_HELP_COLUMNS))
    .help('help')
    .version(packageVersion())
    .epilogue('`repagent help COMMAND` shows its options and examples.')
    .demandCommand(1, 'a command is missing')
    .strict()
    .fail((message: string, error: Error | undefined) => {
      throw error && error.name !== 'YError' ? error : usageError(message, args);
    });
  for (const command of COMMANDS) {
    program.command(
      [command.name, ...positionalsOf(command)].join(' '),
      command.describe,
      (builder) => describeCommand(builder, command),
      async (argv) => {
        const options = (): Readonly<Record<string, unknown>> => optionsOf(command, argv);
        status = await command.run(options(), options);
      },
    );
  }
  await program.parseAsync(helpAsOption(args));
  return status;
}

/** `help` and `help serve` mean `--help` and `serve --help`. */
function helpAsOption(args: readonly string[]): string[] {
  if (args[0] !== 'help') return [...args];
  const [, name] = args;
  if (name !== undefined && !name.startsWith('-')) findCommand(name);
  return [...args.slice(1), '--help'];
}

function positionalsOf(command: Command): string[] {
  const named = Object.entries(command.options).filter(([, spec]) => spec.positional !== undefined);
  return named.map(([name, spec]) => `[${name}${spec.repeatable ? '..' : ''}]`);
}

function describeCommand(builder: Argv, command: Command): Argv {
  builder.usage(usageText(command));
  builder.epilogue(exampleText(command));
  for (const [name, spec] of Object.entries(command.options)) {
    if (spec.positional !== undefined) continue;
    if (spec.type === 'flag') {
      builder.option(name, { type: 'boolean', describe: spec.describe });
      continue;
    }
    builder.option(name, {
      type: 'string',
      requiresArg: true,
      describe: describeText(spec),
      ...(spec.repeatable ? { array: true } : {}),
      ...(spec.alias === undefined ? {} : { alias: spec.alias }),
      ...(spec.fallback === undefined ? {} : { defaultDescription: spec.fallback }),
    });
  }
  if (command.configFile) {
    builder.option('config', { type: 'string', requiresArg: true, describe: CONFIG_DESCRIPTION });
  }
  return builder;
}

function usageText(command: Command): string {
  const positionals = Object.values(command.options).filter((spec) => spec.positional !== undefined);
  const words = [
    command.name,
    ...positionals.map((spec) => `${spec.positional}${spec.repeatable ? '...' : ''}`),
    '[options]',
  ];
  const rows = positionals.map((spec) => `\n\n${spec.positional}: ${spec.describe}`);
  return `repagent ${words.join(' ')}\n\n${command.describe}.${rows.join('')}`;
}

/** Not by yargs' example(), which breaks command lines in two. */
function exampleText(command: Command): string {
  const rows = command.examples.map(([line, what]) => `  repagent ${line}\n      ${what}`);
  return `Examples:\n${rows.join('\n')}`;
}

function describeText(spec: OptionSpec): string {
  return spec.choices ? `${spec.describe}: ${spec.choices.join(', ')}` : spec.describe;
}

function optionsOf(
  command: Command,
  argv: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const { options } = command;
  const given = fromArguments(options, withRest(command, argv));
  const { config } = argv;
  if (config === undefined) return given;
  if (typeof config !== 'string') throw new UsageError('--config was given twice; give it once');
  return mergeOptions(options, fromConfig(options, readConfigFile(config), config), given);
}

/** What follows `--` belongs to the positional, whatever it looks like. */
function withRest(
  command: Command,
  argv: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const rest = ((argv._ as readonly unknown[] | undefined) ?? []).slice(1).map(String);
  const [name] = Object.entries(command.options).find(([, spec]) => spec.positional !== undefined) ?? [];
  if (rest.length === 0 || name === undefined) return argv;
  return { ...argv, [name]: [...((argv[name] as readonly string[] | undefined) ?? []), ...rest] };
}

/** Says in our words what yargs found: what is wrong, and what is allowed. */
function usageError(message: string, args: readonly string[]): UsageError {
  const unknown = /^Unknown (?:arguments?|commands?): (.*)$/.exec(message)?.[1]?.split(', ');
  const missing = /^Not enough arguments following: (.*)$/.exec(message)?.[1];
  const name = args[0] === 'help' ? args[1] : args[0];
  const command = COMMANDS.find((one) => one.name === name);
  const [first] = unknown ?? [];
  if (missing !== undefined) return new UsageError(`--${missing} needs a value`);
  if (!command) {
    if (first !== undefined && name !== undefined && !name.startsWith('-')) return unknownCommand(name);
    const all = COMMANDS.map((one) => one.name).join(', ');
    const what = first === undefined ? message : `unknown option --${first}`;
    return new UsageError(`${what}; commands: ${all}; see: repagent --help`);
  }
  if (first === undefined) return new UsageError(`${message}; see: repagent help ${command.name}`);
  const isOption = args.some((arg) => arg.startsWith(`--${first}`) || arg.startsWith(`-${first}`));
  if (!isOption) {
    return new UsageError(`unexpected ${JSON.stringify(first)}; see: repagent help ${command.name}`);
  }
  const allowed = optionNames(command);
  const guess = didYouMean(first, allowed, '--');
  const list = allowed.map((one) => `--${one}`).join(', ');
  const dashes = args.some((arg) => arg.startsWith(`--${first}`)) ? '--' : '-';
  return new UsageError(`unknown option ${dashes}${first}${guess}; ${command.name} takes ${list}`);
}

function optionNames(command: Command): string[] {
  const names = Object.entries(command.options).flatMap(([name, spec]) => {
    if (spec.positional !== undefined) return [];
    return spec.alias === undefined ? [name] : [name, spec.alias];
  });
  return [...names, ...(command.configFile ? ['config'] : []), 'help'];
}

function findCommand(name: string): Command {
  const found = COMMANDS.find((one) => one.name === name);
  if (!found) throw unknownCommand(name);
  return found;
}

function unknownCommand(name: string): UsageError {
  const names = COMMANDS.map((one) => one.name);
  return new UsageError(
    `unknown command ${JSON.stringify(name)}${didYouMean(name, names)}; commands: ${names.join(', ')}`,
  );
}
