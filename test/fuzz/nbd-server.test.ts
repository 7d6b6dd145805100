// Whatever a client says, the server keeps to the protocol: it throws nothing, stays in step, answers each request once,
// ends only for the reasons listed, holds no more than it may, and gives everything back.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { expectFaultless, staging } from './arena.ts';
import { damagedSession, distinctSession, grammarSession } from './grammar.ts';
import { FUZZ_TIMEOUT_MS, fuzz } from './settings.ts';

it(
  'sessions by the grammar, with lengths, flags and offsets that are wrong',
  async () => {
    const judged = { options: 0, requests: 0, chunked: 0, extended: 0, statuses: 0 };
    type Kind = keyof typeof judged;
    const property = fc.asyncProperty(grammarSession, staging, async (client, how) => {
      const played = await expectFaultless(client, how);
      for (const kind of Object.keys(judged) as Kind[]) judged[kind] += played[kind];
    });
    await fuzz('sessions by the grammar', property);
    console.log(`fuzz: judged ${JSON.stringify(judged)}`);
    // A grammar that never gets there tests nothing.
    for (const kind of Object.keys(judged) as Kind[]) expect(judged[kind], kind).toBeGreaterThan(0);
  },
  FUZZ_TIMEOUT_MS,
);

it(
  'sessions that were damaged, and bytes without sense',
  async () => {
    const property = fc.asyncProperty(damagedSession, staging, async (client, how) => {
      await expectFaultless(client, how);
    });
    await fuzz('damaged sessions', property);
  },
  FUZZ_TIMEOUT_MS,
);

it(
  'sessions on a device that answers late and in no order',
  async () => {
    const late = fc.tuple(staging, fc.nat()).map(([how, jumble]) => ({ ...how, jumble }));
    const property = fc.asyncProperty(distinctSession, late, async (client, how) => {
      await expectFaultless(client, how);
    });
    await fuzz('sessions on a late device', property);
  },
  FUZZ_TIMEOUT_MS,
);
