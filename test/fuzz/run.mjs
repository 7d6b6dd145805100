// npm run fuzz -- [--seconds N] [--seed S]: each target of test/fuzz for N seconds, from seed S. The last lines tell how
// many runs there were and from which seeds.
import { spawn } from 'node:child_process';
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: { seconds: { type: 'string' }, seed: { type: 'string' } } });
const number = (name, max) => {
  const value = Number(values[name]);
  if (Number.isInteger(value) && value >= 0 && value <= max) return String(value);
  console.error(`--${name} must be a whole number up to ${max}`);
  process.exit(2);
};
const env = { ...process.env, FUZZ_SECONDS: values.seconds ? number('seconds', 1e6) : '60' };
if (values.seed) env.FUZZ_SEED = number('seed', 2 ** 32 - 1);
const child = spawn('npx', ['vitest', 'run', '--project', 'fuzz'], { env, stdio: 'inherit' });
child.on('exit', (code) => process.exit(code ?? 1));
