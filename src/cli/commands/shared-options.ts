// Options that mean the same in several commands.
import { VOLUME_STATES } from '../../control/status.ts';
import type { OptionSpec } from '../option-table.ts';
import { LOG_LEVEL_CHOICES } from '../parse-values.ts';

export const logLevelOption = {
  type: 'text',
  describe: 'how much is logged on standard error',
  choices: LOG_LEVEL_CHOICES,
  fallback: 'info',
} as const satisfies OptionSpec;

export const listenControlOption = {
  type: 'text',
  describe: 'where `repagent status` asks: unix:PATH, or HOST:PORT on loopback',
  fallback: 'a socket in the runtime directory',
} as const satisfies OptionSpec;

export const askControlOption = {
  type: 'text',
  describe: 'the process to ask: unix:PATH, or HOST:PORT on loopback',
  fallback: 'the one that runs',
} as const satisfies OptionSpec;

export const insecureOption = {
  type: 'flag',
  describe: 'allow listening where other machines can connect, without encryption or authentication',
} as const satisfies OptionSpec;

export const volumeOption = {
  type: 'text',
  describe: 'the volume',
  fallback: 'every volume of the process',
} as const satisfies OptionSpec;

export const hubOption = {
  type: 'text',
  describe: 'one of the hubs that an agent replicates to, by the name that `repagent status` shows',
  fallback: 'all of them',
} as const satisfies OptionSpec;

export const volumeNameOption = {
  type: 'text',
  positional: 'VOLUME',
  describe: 'its name, as `repagent status` shows it',
} as const satisfies OptionSpec;

export const stateOption = {
  type: 'text',
  describe: 'the state to wait for',
  choices: VOLUME_STATES,
  fallback: 'protected',
} as const satisfies OptionSpec;
