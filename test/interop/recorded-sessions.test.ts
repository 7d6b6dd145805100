// What real clients said, played again over the parser and the connection without a socket: whole, byte by byte and in
// random pieces. Each time the same replies, and the same calls of the device.
import { beforeAll, describe, expect, it } from 'vitest';
import { sharedPool } from '../../src/base/buffer-pool.ts';
import { seededRandom } from '../../src/filter/random.ts';
import { byteByByte, inPieces, playSession } from '../support/play-session.ts';
import { type Recording, recordClients, recordedDisk } from '../support/recorded-clients.ts';
import type { RecordedSession } from '../support/recording-proxy.ts';
import { testSeed } from '../support/test-seed.ts';

const RANDOM_SPLITS = 5;

let recordings: Recording[];
beforeAll(async () => {
  recordings = await recordClients();
}, 120_000);

function eachSession(visit: (session: RecordedSession, what: string) => Promise<void>): Promise<void> {
  const all = recordings.flatMap(({ client, sessions }) =>
    sessions.map((session, i) => ({ session, what: `${client}, connection ${i + 1} of ${sessions.length}` })),
  );
  return all.reduce(
    (before, { session, what }) => before.then(() => visit(session, what)),
    Promise.resolve(),
  );
}

const play = (pieces: Iterable<Buffer>) => playSession(pieces, recordedDisk());

describe('recorded sessions', () => {
  it('were made by every client, and some did everything', async () => {
    for (const { client, sessions } of recordings) {
      expect(sessions.length, client).toBeGreaterThan(0);
      for (const session of sessions) expect(session.said('client').length, client).toBeGreaterThan(20);
    }
    const calls = new Set<string>();
    await eachSession(async (session) => {
      const { calls: lines } = await play([session.said('client')]);
      for (const line of lines) calls.add(line.split(' ')[0]!);
    });
    expect([...calls]).toEqual(
      expect.arrayContaining(['read', 'write', 'flush', 'trim', 'writeZeroes', 'cache']),
    );
  });

  it('played whole are answered as they were over the socket', async () => {
    for (const { client, sessions } of recordings) {
      // Several connections work on one disk, and what one reads another may have written.
      if (sessions.length !== 1) continue;
      const { output } = await play([sessions[0]!.said('client')]);
      expect(output === sessions[0]!.said('server').toString('latin1'), client).toBe(true);
    }
  });

  it('played byte by byte are answered as the whole ones are', async () => {
    await eachSession(async (session, what) => {
      const bytes = session.said('client');
      const whole = await play([bytes]);
      const single = await play(byteByByte(bytes));
      expect(single.calls, what).toEqual(whole.calls);
      expect(single.output === whole.output, what).toBe(true);
      expect(single.ended, what).toBe(whole.ended);
    });
  }, 180_000);

  it('played in random pieces are answered as the whole ones are', async () => {
    const seed = testSeed();
    const random = seededRandom(seed);
    await eachSession(async (session, what) => {
      const bytes = session.said('client');
      const whole = await play([bytes]);
      for (let round = 0; round < RANDOM_SPLITS; round += 1) {
        const pieces = await play(inPieces(bytes, random));
        expect(pieces.calls, `${what}, seed ${seed}`).toEqual(whole.calls);
        expect(pieces.output === whole.output, `${what}, seed ${seed}`).toBe(true);
        expect(pieces.ended, `${what}, seed ${seed}`).toBe(whole.ended);
      }
    });
  });

  it('leave no memory behind', () => {
    expect(sharedPool.liveBytes).toBe(0);
  });
});
