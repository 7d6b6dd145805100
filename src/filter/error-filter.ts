// filter error: injects faults. A call that is made to fail never reaches the device below, so that "failed" also
// means "not done".
import { existsSync } from 'node:fs';
import { BlockError, type BlockErrorCode } from '../base/errors.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { BlockDevice, DeviceLimits } from '../blockdev/block-device.ts';
import { AroundFilter, type Call, OPERATIONS, type Operation } from './around-filter.ts';
import type { FilterStatus } from './context.ts';
import { defineFilter } from './define-filter.ts';
import { DerivedLimits } from './derived-limits.ts';
import type { ChoiceOption, NumberOption, OptionValues } from './option-schema.ts';
import { freshSeed, MAX_SEED, seededRandom } from './random.ts';

const CODES = [
  'EIO',
  'ENOSPC',
  'EPERM',
  'ENOMEM',
  'EINVAL',
  'EOVERFLOW',
  'ENOTSUP',
  'ESHUTDOWN',
] as const satisfies readonly BlockErrorCode[];

type RateOption = NumberOption & { readonly kind: 'number' };
type CodeOption = ChoiceOption & { readonly choices: typeof CODES };

/** `read-rate`, `read-error`, `write-rate` and so on. */
const perOperation = Object.fromEntries(
  OPERATIONS.flatMap(
    (operation): Array<[string, RateOption | CodeOption]> => [
      [
        `${operation}-rate`,
        { kind: 'number', min: 0, max: 1, description: `\`rate\` of ${operation} calls` },
      ],
      [
        `${operation}-error`,
        { kind: 'choice', choices: CODES, description: `\`error\` of ${operation} calls` },
      ],
    ],
  ),
) as { readonly [K in `${Operation}-rate`]: RateOption } & {
  readonly [K in `${Operation}-error`]: CodeOption;
};

const schema = {
  error: { kind: 'choice', choices: CODES, default: 'EIO', description: 'what a call fails with' },
  rate: {
    kind: 'number',
    min: 0,
    max: 1,
    description:
      'share of calls that fail, by chance; 1 unless given, or 0 when the rate of a single operation is given',
  },
  on: {
    kind: 'list',
    choices: OPERATIONS,
    default: OPERATIONS,
    description: 'the operations that `rate` is for',
  },
  max: { kind: 'integer', min: 0, description: 'stop after this many faults; no end unless given' },
  file: { kind: 'string', description: 'faults happen only while this file exists' },
  seed: {
    kind: 'integer',
    min: 0,
    max: MAX_SEED,
    description:
      'makes the choice of calls repeatable; without it each run differs, and the log tells its seed',
  },
  ...perOperation,
} as const;

export const errorFilter = defineFilter({
  name: 'error',
  summary: 'Makes calls fail, by chance or while a file exists',
  options: schema,
  examples: [
    { spec: 'error,rate=0.01', text: 'One call in a hundred fails with EIO' },
    {
      spec: 'error,on=write+zero,error=ENOSPC,file=/tmp/full',
      text: 'The disk is full while /tmp/full exists',
    },
    { spec: 'error,read-rate=0.1,max=3', text: 'Reads fail now and then, three times in all' },
  ],
  create(below, options, { logger }) {
    const seed = options.seed ?? freshSeed();
    logger.info({ seed }, `calls will be made to fail, seed=${seed}`);
    return new ErrorFilter(below, faultPlan(options), {
      file: options.file,
      max: options.max ?? Number.POSITIVE_INFINITY,
      seed,
    });
  },
});

interface Fault {
  readonly rate: number;
  readonly code: BlockErrorCode;
}

type FaultPlan = Readonly<Record<Operation, Fault>>;

function faultPlan(options: OptionValues<typeof schema>): FaultPlan {
  const someHaveTheirOwn = OPERATIONS.some((operation) => options[`${operation}-rate`] !== undefined);
  const general = options.rate ?? (someHaveTheirOwn ? 0 : 1);
  const faultOf = (operation: Operation): Fault => ({
    rate: options[`${operation}-rate`] ?? (options.on.includes(operation) ? general : 0),
    code: options[`${operation}-error`] ?? options.error,
  });
  return Object.fromEntries(OPERATIONS.map((operation) => [operation, faultOf(operation)])) as FaultPlan;
}

interface FaultLimits {
  readonly file: string | undefined;
  readonly max: number;
  readonly seed: number;
}

class ErrorFilter extends AroundFilter {
  readonly #plan: FaultPlan;
  readonly #limits: FaultLimits;
  readonly #random: () => number;
  readonly #device: DerivedLimits;
  #faults = 0;

  constructor(below: BlockDevice, plan: FaultPlan, limits: FaultLimits) {
    super(below);
    this.#plan = plan;
    this.#limits = limits;
    this.#random = seededRandom(limits.seed);
    // Only calls that somebody asked for shall count: no look for holes before a read.
    this.#device = new DerivedLimits(below, () => ({ cheapExtents: false }));
  }

  override get limits(): DeviceLimits {
    return this.#device.current;
  }

  status(): FilterStatus {
    return { faults: this.#faults, seed: this.#limits.seed };
  }

  protected override around<T>(call: Call, run: () => MaybePromise<T>): MaybePromise<T> {
    const { rate, code } = this.#plan[call.operation];
    if (rate === 0 || !this.#strikes(rate)) return run();
    this.#faults += 1;
    const range = call.operation === 'flush' ? '' : ` of ${call.length} bytes at ${call.offset}`;
    throw new BlockError(code, `injected fault: ${call.operation}${range}`);
  }

  #strikes(rate: number): boolean {
    const { file, max } = this.#limits;
    if (this.#faults >= max) return false;
    if (file !== undefined && !existsSync(file)) return false;
    return this.#random() < rate;
  }
}
