// Online verification: what is equal is found equal under load, what differs is found, what changes is asked again.
import { afterEach, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { VERIFY_STATUS } from '../../src/repwire/constants.ts';
import * as encode from '../../src/repwire/encode.ts';
import { pattern } from '../support/disk-model.ts';
import { FakeAgent, filledDisk } from '../support/fake-agent.ts';
import { closeHub, type TestHub, testHub, waitForState } from '../support/hub-harness.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 2 * 1024 * 1024 + 512;
let test: TestHub;
let agent: FakeAgent;
const nothing = (): void => {};

beforeEach(async () => {
  test = await testHub({ disk: SIZE });
  agent = new FakeAgent({ volumes: { disk: filledDisk(SIZE) } });
  await agent.connect(test.port);
  await agent.waitAcked();
});

afterEach(async () => {
  agent.drop();
  await closeHub(test);
});

describe('verify', () => {
  it('finds an equal replica equal, and tells how it goes', async () => {
    const seen: number[] = [];
    const result = await test.hub.verify('disk', ({ comparedBytes, totalBytes }) => {
      expect(totalBytes).toBe(SIZE);
      seen.push(comparedBytes);
    });
    expect(result).toEqual({ volume: 'disk', comparedBytes: SIZE, differing: [] });
    expect(seen.at(-1)).toBe(SIZE);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
  });

  it('finds what differs, neighbours merged, the tail included', async () => {
    const { visible } = test.image();
    for (const at of [0, 262_144, 262_144 + 300_000, SIZE - 1]) visible[at]! ^= 1;
    const { differing } = await test.hub.verify('vm/disk', nothing);
    expect(differing).toEqual([
      { offset: 0, length: 786_432 },
      { offset: 2 * 1024 * 1024, length: 512 },
    ]);
  });

  it('is right while the guest writes all the time', async () => {
    let on = true;
    const writing = (async () => {
      for (let i = 0; on; i += 1) {
        agent.write('disk', ((i * 37) % 4000) * 512, pattern(2048, i + 1));
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    for (let i = 0; i < 5; i += 1) {
      expect((await test.hub.verify('disk', nothing)).differing).toEqual([]);
    }
    test.image().isSlow = true;
    expect((await test.hub.verify('disk', nothing)).differing).toEqual([]);
    on = false;
    await writing;
  });

  it('compares at the position of the digest: entries before it count, entries after it do not', async () => {
    agent.holdStream = true;
    const running = test.hub.verify('disk', nothing);
    await waitUntil(() => agent.stream.length === 4, { what: 'four digests' });
    agent.write('disk', 0, pattern(512, 1));
    agent.write('disk', 512, pattern(512, 2));
    // In one piece, so that the pass over it has digests and writes mixed.
    agent.peer!.send(Buffer.concat(agent.stream.splice(0).flat()));
    agent.holdStream = false;
    expect((await running).differing).toEqual([]);
  });

  it('compares with every entry applied that came before the digest, also in the same pass', async () => {
    agent.holdStream = true;
    agent.write('disk', 0, pattern(512, 1));
    const running = test.hub.verify('disk', nothing);
    await waitUntil(() => agent.stream.length === 5, { what: 'four digests' });
    for (const isSlow of [false, true]) {
      test.image().isSlow = isSlow;
      agent.peer!.send(Buffer.concat(agent.stream.splice(0, isSlow ? 100 : 3).flat()));
      if (!isSlow) agent.write('disk', 512, pattern(512, 2));
    }
    agent.holdStream = false;
    agent.sendStream();
    expect((await running).differing).toEqual([]);
  });

  it('does not count a digest of another position', async () => {
    const stale = new Set<bigint>();
    agent.hashFault = ({ offsetSectors }) => {
      if (stale.has(offsetSectors)) return undefined;
      stale.add(offsetSectors);
      return 'stale';
    };
    expect((await test.hub.verify('disk', nothing)).differing).toEqual([]);
  });

  it('asks again for what was busy, in smaller pieces', async () => {
    const asked: number[] = [];
    agent.hashFault = ({ sizeSectors, offsetSectors }) => {
      asked.push(sizeSectors * 512);
      return offsetSectors === 0n && sizeSectors * 512 > 20_000 ? 'busy' : undefined;
    };
    expect(await test.hub.verify('disk', nothing)).toMatchObject({ comparedBytes: SIZE, differing: [] });
    expect(Math.min(...asked.filter((bytes) => bytes > 512))).toBe(16_384);
  });

  it('gives up on a range that stays busy, naming it', async () => {
    agent.hashFault = ({ offsetSectors }) => (offsetSectors === 0n ? 'busy' : undefined);
    await expect(test.hub.verify('disk', nothing)).rejects.toThrow(
      '16 KiB at offset 0 could not be compared for 400ms',
    );
    agent.hashFault = undefined;
    await expect(test.hub.verify('disk', nothing)).resolves.toMatchObject({ differing: [] });
  });

  it('waits for ranges that are read again meanwhile', async () => {
    const running = test.hub.verify('disk', nothing);
    agent.overflow('disk');
    agent.write('disk', 1024, pattern(512, 1));
    agent.endOverflow('disk');
    expect((await running).differing).toEqual([]);
  });

  it('fails when the agent cannot read, or is gone, or knows no digests, or is not there', async () => {
    agent.hashFault = ({ offsetSectors }) => (offsetSectors === 512n ? 'fail' : undefined);
    await expect(test.hub.verify('disk', nothing)).rejects.toThrow(
      "the agent can't read 256 KiB at offset 262144",
    );
    agent.hashFault = () => 'ignore';
    const running = test.hub.verify('disk', nothing);
    await expect(test.hub.verify('disk', nothing)).rejects.toThrow('being verified already');
    agent.drop();
    await expect(running).rejects.toThrow('the agent is gone');
    await waitForState(test, 'degraded');
    await expect(test.hub.verify('disk', nothing)).rejects.toThrow('no agent replicates it now');
    await expect(test.hub.verify('nope', nothing)).rejects.toMatchObject({
      message: 'there is no volume nope',
      hint: 'known volumes: disk',
    });
    const rfc = new FakeAgent({ volumes: { disk: agent.volume().disk }, rfc: true });
    await rfc.connect(test.port);
    await waitForState(test, 'protected');
    await expect(test.hub.verify('disk', nothing)).rejects.toThrow('speaks the RFC alone');
    rfc.drop();
  });

  it('is refused while the volume is not protected', async () => {
    agent.holdReads = true;
    agent.overflow('disk');
    agent.write('disk', 0, pattern(512, 1));
    agent.endOverflow('disk');
    await agent.waitFor('resync');
    await expect(test.hub.verify('disk', nothing)).rejects.toMatchObject({
      message: "disk can't be verified: it is resync",
      hint: 'wait until it is protected: repagent wait --state protected',
    });
  });

  it('can be asked for by the agent', async () => {
    test.image().visible[5]! ^= 1;
    agent.peer!.send(encode.encodeVerifyRequest(7, 1n), encode.encodeVerifyRequest(8, 99n));
    const done = await waitUntil(
      () =>
        agent
          .peer!.of('verifyResponse')
          .find((one) => one.status !== VERIFY_STATUS.PROGRESS && one.requestId === 7),
      { what: 'the result' },
    );
    expect(done).toMatchObject({
      status: VERIFY_STATUS.DONE,
      comparedBytes: SIZE,
      totalBytes: SIZE,
      differing: [{ offset: 0, length: 262_144 }],
    });
    expect(agent.peer!.of('verifyResponse').find((one) => one.requestId === 8)).toMatchObject({
      status: VERIFY_STATUS.FAILED,
    });
  });
});

describe('names', () => {
  it('of several machines are told apart', async () => {
    await test.hub.close();
    agent.drop();
    const { tempDir } = await import('../support/temp-dir.ts');
    const dir = tempDir();
    // After the hub was closed: it records to the last.
    onTestFinished(() => dir.remove());
    test = await testHub({}, { storeDir: dir.path });
    const one = new FakeAgent({ volumes: { disk: 65_536 }, vmName: 'one' });
    const two = new FakeAgent({ volumes: { disk: 65_536 }, vmName: 'two' });
    await one.connect(test.port);
    await two.connect(test.port);
    await one.waitAcked();
    await two.waitAcked();
    await expect(test.hub.verify('disk', nothing)).rejects.toMatchObject({
      message: '2 machines have a volume disk',
      hint: 'say which: one/disk, two/disk',
    });
    expect((await test.hub.verify('two/disk', nothing)).comparedBytes).toBe(65_536);
    one.drop();
    two.drop();
  });
});
