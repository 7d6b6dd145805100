// The fault test that can be made as long as wanted:
//   npm run soak -- [--rounds N] [--seed S] [--granularity KIB] [--dirty-sync lazy|always]
// kill -9 of agent and hub, N rounds (100) of a schedule that S chooses; the last two are serve's
import { spawn } from 'node:child_process';
import { parseArgs } from 'node:util';

const OPTIONS = {
  rounds: { variable: 'SOAK_ROUNDS', min: 1, max: 1e6, preset: '100' },
  seed: { variable: 'SOAK_SEED', min: 0, max: 2 ** 32 - 1 },
  granularity: { variable: 'SOAK_GRANULARITY', min: 64, max: 16_384 },
  'dirty-sync': { variable: 'SOAK_DIRTY_SYNC', words: ['lazy', 'always'] },
};
const USAGE =
  'npm run soak -- [--rounds N] [--seed S] [--granularity KIB, 64 to 16384] [--dirty-sync lazy|always]';

function readOptions() {
  const options = Object.fromEntries(Object.keys(OPTIONS).map((name) => [name, { type: 'string' }]));
  const { values } = parseArgs({ options });
  const env = { ...process.env };
  for (const [name, { variable, min, max, words, preset }] of Object.entries(OPTIONS)) {
    const given = values[name] ?? preset;
    if (given === undefined) continue;
    if (words) {
      if (!words.includes(given)) throw new Error(`--${name} must be ${words.join(' or ')}, not ${given}`);
      env[variable] = given;
      continue;
    }
    const value = Number(given);
    if (!Number.isInteger(value) || value < min || value > max) {
      throw new Error(`--${name} must be a whole number from ${min} to ${max}, not ${given}`);
    }
    env[variable] = String(value);
  }
  return env;
}

let env;
try {
  env = readOptions();
} catch (error) {
  console.error(`${error.message}\nusage: ${USAGE}`);
  process.exit(2);
}
// The file before the flag, which would take it for its value.
const words = [
  'vitest',
  'run',
  '--project',
  'fault',
  'test/fault/kills.test.ts',
  '--disable-console-intercept',
];
const child = spawn('npx', words, { env, stdio: 'inherit' });
child.on('exit', (code) => process.exit(code ?? 1));
