// What a filter is given beside the device below it, and where its status is read from outside.
import { OperationError } from '../base/errors.ts';
import type { Logger } from '../base/log.ts';
import type { MaybePromise } from '../base/maybe.ts';
import type { ChainContext } from './chain.ts';
import { suggestion } from './filter-spec.ts';

/** A filter's state as data that JSON can hold. */
export type FilterStatus = Readonly<Record<string, unknown>>;

/** Every value of each option that is to be changed, as text. */
export type ChangeTexts = ReadonlyMap<string, readonly string[]>;

export interface FilterContext extends ChainContext {
  /** The volume's logger; lines of a filter carry its name. */
  readonly logger: Logger;
  /**
   * Offers `status` to whoever asks for the chain's. A second publisher of one name becomes `name#2`.
   * A filter with a `status()` method is published without calling this.
   */
  publish(name: string, status: () => FilterStatus): void;
  /**
   * Offers to change options while the filter runs. A second one of a name becomes `name#2`.
   * A filter with an `adjust()` method is offered without calling this.
   */
  offer(name: string, adjust: (changes: ChangeTexts) => MaybePromise<void>): void;
}

/** A context that collects what the filters of one chain publish. */
export interface FilterContextOwner extends FilterContext {
  /** What every publisher says now, by name. */
  status(): Record<string, FilterStatus>;
  /**
   * Changes options of a running filter. When it resolves they have taken effect.
   * @throws OperationError when the chain has no such filter; UsageError for wrong options
   */
  adjust(name: string, changes: ChangeTexts): Promise<void>;
}

/** Makes the context of one chain. */
export function createFilterContext(options: ChainContext): FilterContextOwner {
  const published = new Map<string, () => FilterStatus>();
  const offered = new Map<string, (changes: ChangeTexts) => MaybePromise<void>>();
  return {
    logger: options.logger,
    exportName: options.exportName,
    publish(name, status) {
      published.set(freeName(published, name), status);
    },
    offer(name, adjust) {
      offered.set(freeName(offered, name), adjust);
    },
    status() {
      return Object.fromEntries([...published].map(([name, status]) => [name, status()]));
    },
    async adjust(name, changes) {
      const adjust = offered.get(name);
      if (!adjust) throw notThere(name, [...offered.keys()], options.exportName);
      await adjust(changes);
    },
  };
}

function freeName(taken: ReadonlyMap<string, unknown>, name: string): string {
  let key = name;
  for (let copy = 2; taken.has(key); copy += 1) key = `${name}#${copy}`;
  return key;
}

function notThere(name: string, known: readonly string[], volume: string): OperationError {
  const those = known.length === 0 ? 'none of its filters can' : `those that can: ${known.join(', ')}`;
  return new OperationError(
    `volume ${JSON.stringify(volume)} has no filter ${JSON.stringify(name)} that can be changed while it runs ` +
      `(${those})${suggestion(name, known)}`,
    {
      hint: `start \`repagent serve\` with --filter ${name},...; \`repagent filters\` says what is adjustable`,
    },
  );
}
