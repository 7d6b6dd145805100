// Who is let in when there are many: totals, addresses, and who makes room.
import { describe, expect, it } from 'vitest';
import { Admission, type AdmissionLimits } from '../../../src/nbd/admission.ts';

interface Fake {
  state: string;
  readonly name: string;
  readonly client: { readonly address: string | undefined };
}

function world(limits: Partial<AdmissionLimits>) {
  const admission = new Admission<Fake>({ total: 100, perAddress: 100, ...limits });
  /** Lets one in, or says why not; a victim stays until `bury`. */
  const arrive = (name: string, address?: string): string => {
    const verdict = admission.judge(address);
    if (verdict.kind === 'refused') return `refused: ${verdict.limit}`;
    admission.add({ name, state: 'handshake', client: { address } });
    return verdict.kind === 'instead' ? `instead of ${verdict.victim.name}` : 'welcome';
  };
  const find = (name: string): Fake => [...admission.connections].find((one) => one.name === name)!;
  return {
    admission,
    arrive,
    choose: (name: string) => {
      find(name).state = 'transmission';
    },
    bury: (name: string) => admission.remove(find(name)),
  };
}

describe('admission', () => {
  it('sends the oldest handshake away when all places are taken, and never one that has chosen', () => {
    const { arrive, choose } = world({ total: 3 });
    for (const name of ['a', 'b', 'c']) expect(arrive(name)).toBe('welcome');
    choose('a');
    expect(arrive('d')).toBe('instead of b');
    choose('c');
    choose('d');
    expect(arrive('e')).toBe('refused: total');
  });

  it('counts a victim out at once, though it takes a while to go', () => {
    const { arrive, bury, admission } = world({ total: 2 });
    arrive('a');
    arrive('b');
    expect(arrive('c')).toBe('instead of a');
    expect(arrive('d')).toBe('instead of b');
    expect(admission.connections.size).toBe(4);
    bury('a');
    bury('b');
    expect(arrive('e')).toBe('instead of c');
    bury('c');
    bury('d');
    expect(admission.connections.size).toBe(1);
    expect(arrive('f')).toBe('welcome');
  });

  it('counts an address by itself, and lets it make its own room', () => {
    const { arrive, choose, bury } = world({ perAddress: 2 });
    expect(arrive('a', '10.0.0.1')).toBe('welcome');
    expect(arrive('b', '::ffff:10.0.0.1')).toBe('welcome');
    choose('a');
    expect(arrive('c', '10.0.0.1')).toBe('instead of b');
    choose('c');
    expect(arrive('d', '10.0.0.1')).toBe('refused: address');
    expect(arrive('d', '10.0.0.2')).toBe('welcome');
    bury('a');
    expect(arrive('e', '10.0.0.1')).toBe('welcome');
  });

  it('takes a /64 of IPv6 for one address', () => {
    const { arrive, choose } = world({ perAddress: 1 });
    expect(arrive('a', 'fd00:0:0:1::1')).toBe('welcome');
    choose('a');
    expect(arrive('b', 'fd00:0:0:1:ffff::2')).toBe('refused: address');
    expect(arrive('c', 'fd00:0:0:2::1')).toBe('welcome');
  });

  it('limits local clients in total only', () => {
    const { arrive, choose } = world({ total: 3, perAddress: 1 });
    for (const name of ['a', 'b', 'c']) {
      expect(arrive(name)).toBe('welcome');
      choose(name);
    }
    expect(arrive('d')).toBe('refused: total');
  });
});
