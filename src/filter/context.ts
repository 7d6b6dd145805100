// What a filter is given beside the device below it, and where its status is read from outside.
import type { Logger } from '../base/log.ts';
import type { ChainContext } from './chain.ts';

/** A filter's state as data that JSON can hold. */
export type FilterStatus = Readonly<Record<string, unknown>>;

export interface FilterContext extends ChainContext {
  /** The volume's logger; lines of a filter carry its name. */
  readonly logger: Logger;
  /**
   * Offers `status` to whoever asks for the chain's. A second publisher of one name becomes `name#2`.
   * A filter with a `status()` method is published without calling this.
   */
  publish(name: string, status: () => FilterStatus): void;
}

/** A context that collects what the filters of one chain publish. */
export interface FilterContextOwner extends FilterContext {
  /** What every publisher says now, by name. */
  status(): Record<string, FilterStatus>;
}

/** Makes the context of one chain. */
export function createFilterContext(options: ChainContext): FilterContextOwner {
  const published = new Map<string, () => FilterStatus>();
  return {
    logger: options.logger,
    exportName: options.exportName,
    publish(name, status) {
      let key = name;
      for (let copy = 2; published.has(key); copy += 1) key = `${name}#${copy}`;
      published.set(key, status);
    },
    status() {
      return Object.fromEntries([...published].map(([name, status]) => [name, status()]));
    },
  };
}
