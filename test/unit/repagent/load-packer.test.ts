// Compression at the agent: what is packed and what is not, that order stays whatever finishes first, and that all
// memory is given back once. The compressing is the test's, so that it ends when the test says.
import { createHash, randomBytes } from 'node:crypto';
import { brotliCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Bitmap } from '../../../src/base/bitmap.ts';
import { sharedPool } from '../../../src/base/buffer-pool.ts';
import { KiB, MiB } from '../../../src/base/limits.ts';
import {
  COMPRESS_MODES,
  type Compress,
  chooseCompression,
  compressionFeatures,
  compressOnPool,
  looksRandom,
  qualityFor,
} from '../../../src/repagent/compression.ts';
import { LinkGauge } from '../../../src/repagent/link-gauge.ts';
import { MirrorStream, type StreamMember } from '../../../src/repagent/mirror-stream.ts';
import { PackSlots } from '../../../src/repagent/pack-slots.ts';
import { StreamSender } from '../../../src/repagent/stream-sender.ts';
import { FEATURE_BROTLI, FEATURE_PAIRING } from '../../../src/repwire/constants.ts';
import * as encode from '../../../src/repwire/encode.ts';
import type { RepMessage } from '../../../src/repwire/messages.ts';
import { waitUntil } from '../../support/wait-until.ts';
import { FakeOutlet, noLimit } from './outlet.ts';

const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
async function turns(count = 12): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await settled();
}

/** Compresses only when the test says so, in the order that it says. */
class HeldCompress {
  readonly jobs: Array<() => void> = [];
  readonly qualities: number[] = [];
  readonly run: Compress = (content, quality, done) => {
    this.qualities.push(quality);
    this.jobs.push(() => done(null, brotliCompressSync(content)));
  };
  finish(index = 0): void {
    this.jobs.splice(index, 1)[0]!();
  }
}

interface Options {
  readonly compress?: Compress;
  readonly always?: boolean;
  readonly slots?: PackSlots;
}

function rig({ compress = compressOnPool, always = true, slots = new PackSlots(8) }: Options = {}) {
  const outlet = new FakeOutlet();
  let sender: StreamSender | undefined;
  const stream = new MirrorStream(64 * MiB, () => 1234, {
    wake: () => sender?.wake(),
    lost: () => {},
    degraded: () => {},
  });
  stream.open(true);
  const limiter = noLimit();
  sender = new StreamSender({
    outlet,
    queue: stream.queue,
    extensions: true,
    limiter,
    compression: { codec: 'brotli', always, slots, compress },
    onRoom: () => stream.recover(),
    onFault: (error) => {
      throw error;
    },
  });
  const member: StreamMember = { wireId: 7n, sizeBytes: 2 ** 40, queuedBytes: 0, resumeStream: () => {} };
  return { outlet, stream, sender, limiter, member };
}

const text = (bytes: number, seed = 0): Buffer =>
  Buffer.alloc(bytes, `row ${seed} of a table that says the same again and again; `);

/** Comparing large buffers element by element takes seconds: their digests are as good. */
const digest = (data: Buffer): string => createHash('sha1').update(data).digest('hex');
const digested = (messages: readonly RepMessage[]): unknown[] =>
  messages.map((message) => ('data' in message ? { ...message, data: digest(message.data) } : message));

const sequences = (messages: readonly RepMessage[]): number[] =>
  messages.flatMap((message) => ('sequence' in message ? [message.sequence] : []));

const sum = (numbers: readonly number[]): number => numbers.reduce((total, one) => total + one, 0);

afterEach(() => {
  vi.useRealTimers();
});

describe('a sender that packs everything', () => {
  it('sends far fewer bytes, in order, with all that the frames say', async () => {
    const r = rig();
    const live = sharedPool.liveBytes;
    const written: Buffer[] = [];
    for (let i = 0; i < 40; i += 1) {
      written.push(text(64 * KiB, i));
      r.stream.write(r.member, i * 64 * KiB, written[i]!);
      if (i % 5 === 0) r.stream.zero(r.member, 'trim', 0, 512);
      if (i % 7 === 0) r.stream.flush(r.member);
      if (i % 11 === 0) r.stream.failed(r.member, 0, 512);
      if (i === 20) r.stream.dirty(r.member, () => new Bitmap(64));
    }
    await waitUntil(() => r.sender.isIdle, { what: 'all to leave', timeoutMs: 10_000, intervalMs: 2 });
    expect(sequences(r.outlet.messages)).toEqual(r.outlet.messages.map((_, i) => i + 1));
    const writes = r.outlet.messages.filter((one) => one.kind === 'protectedWrite' && one.status === 0);
    expect(writes.map((one) => 'data' in one && digest(one.data))).toEqual(written.map(digest));
    expect(r.outlet.packed).toBeGreaterThan(8);
    expect(sum(r.outlet.sends)).toBeLessThan(100 * KiB);
    const { sentBytes, plainBytes } = r.limiter.traffic;
    expect(sentBytes).toBe(sum(r.outlet.sends));
    expect(plainBytes).toBeGreaterThan(40 * 64 * KiB);
    expect([r.stream.queue.bytes, r.member.queuedBytes, sharedPool.liveBytes]).toEqual([0, 0, live]);
  });

  it('keeps the order though loads are done out of it', async () => {
    const held = new HeldCompress();
    const r = rig({ compress: held.run });
    for (let i = 0; i < 10; i += 1) r.stream.write(r.member, i * 256 * KiB, text(256 * KiB, i));
    await turns();
    // As many ahead as there may be; nothing leaves before the first is done.
    expect(held.jobs).toHaveLength(8);
    held.finish(3);
    held.finish(1);
    await turns();
    expect(r.outlet.sends).toEqual([]);
    held.finish(0);
    await turns();
    expect(sequences(r.outlet.messages)).toEqual([1, 2]);
    while (held.jobs.length > 0) {
      held.finish(held.jobs.length - 1);
      await turns();
    }
    expect(sequences(r.outlet.messages)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect([r.outlet.packed, r.sender.isIdle]).toEqual([10, true]);
  });

  it('waits without turning, and never has more than so many at work', async () => {
    const held = new HeldCompress();
    const r = rig({ compress: held.run, slots: new PackSlots(1) });
    vi.useFakeTimers({ toFake: ['setImmediate'] });
    for (let i = 0; i < 20; i += 1) r.stream.write(r.member, 0, text(256 * KiB));
    await vi.runAllTimersAsync();
    expect(held.jobs).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
    for (; held.jobs.length > 0; await turns()) {
      expect(held.jobs).toHaveLength(1);
      held.finish();
    }
    expect([r.outlet.messages.length, r.sender.isIdle]).toEqual([20, true]);
  });

  it('leaves what is random where it lies, and small things as they are', async () => {
    const r = rig();
    let parts: readonly Buffer[] = [];
    const send = r.outlet.send.bind(r.outlet);
    r.outlet.send = (all, sent) => {
      parts = [...parts, ...all];
      send(all, sent);
    };
    const slab = sharedPool.acquire(MiB);
    const data = slab.bytes.subarray(0, MiB);
    randomBytes(MiB).copy(data);
    r.stream.write(r.member, 0, data);
    r.stream.flush(r.member);
    await waitUntil(() => r.sender.isIdle, { what: 'all to leave', timeoutMs: 5000, intervalMs: 1 });
    expect(r.outlet.packed).toBe(0);
    expect(parts.some((part) => part.buffer === slab.bytes.buffer && part.length === MiB)).toBe(true);
    slab.release();
  });

  it('sends as it is what does not shrink, or could not be compressed', async () => {
    for (const compress of [
      ((content, _quality, done) => done(null, Buffer.from(content))) as Compress,
      ((_content, _quality, done) => done(new Error('no memory'), Buffer.alloc(0))) as Compress,
      (() => {
        throw new Error('no memory either');
      }) as Compress,
    ]) {
      const r = rig({ compress });
      r.stream.write(r.member, 0, text(8 * KiB));
      await turns();
      expect([r.outlet.packed, sequences(r.outlet.messages), r.sender.isIdle]).toEqual([0, [1], true]);
    }
  });

  it('packs answers too, and gives everything back once when the connection goes', async () => {
    const live = sharedPool.liveBytes;
    const held = new HeldCompress();
    const r = rig({ compress: held.run, slots: new PackSlots(2) });
    const over: number[] = [];
    const answer = (id: number): void => {
      const head = encode.encodeRemoteIoResponse(id, 7n, 0, 64 * KiB, { sequence: 0, allZero: false });
      r.sender.answer({ head, data: text(64 * KiB), over: () => over.push(id) });
    };
    for (let id = 1; id <= 3; id += 1) answer(id);
    r.stream.write(r.member, 0, text(MiB));
    await turns();
    held.finish(1);
    await turns();
    r.stream.shut();
    r.sender.stop();
    r.outlet.fail();
    expect(over.sort()).toEqual([1, 2, 3]);
    answer(4);
    while (held.jobs.length > 0) held.finish();
    await turns();
    expect(over).toEqual([1, 2, 3, 4]);
    expect([r.stream.queue.bytes, r.member.queuedBytes, sharedPool.liveBytes]).toEqual([0, 0, live]);
  });

  it('brings the hub the same as without, whatever is written and whenever it is done', async () => {
    const change = fc.record({
      kind: fc.constantFrom('write', 'zero', 'flush', 'dirty', 'frame', 'answer'),
      kib: fc.integer({ min: 1, max: 100 }),
      random: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(change, { minLength: 1, maxLength: 20 }),
        fc.infiniteStream(fc.nat(3)),
        fc.boolean(),
        async (changes, picks, stalls) => {
          const held = new HeldCompress();
          const r = rig({ compress: held.run });
          const plain = rig({ compress: held.run, always: false });
          r.outlet.taking = !stalls;
          changes.forEach(({ kind, kib, random }, i) => {
            const data = random ? randomBytes(kib * KiB) : text(kib * KiB, i);
            for (const { stream, member, sender } of [r, plain]) {
              if (kind === 'write') stream.write(member, i * MiB, data);
              else if (kind === 'zero') stream.zero(member, 'writeZeroes', i * MiB, kib * KiB);
              else if (kind === 'flush') stream.flush(member);
              else if (kind === 'dirty') stream.dirty(member, () => new Bitmap(kib));
              else if (kind === 'frame')
                stream.frame(member, encode.encodeHashResponse(i, 7n, 1, 0, Buffer.alloc(0)), () => {});
              else {
                const extension = { sequence: 0, allZero: false };
                const head = encode.encodeRemoteIoResponse(i, 7n, 0, data.length, extension);
                sender.answer({ head, data, over: () => {} });
              }
            }
          });
          for (let step = 0; step < 400 && !(r.sender.isIdle && plain.sender.isIdle); step += 1) {
            await turns(2);
            const pick = picks.next().value ?? 0;
            if (held.jobs.length > 0) held.finish(pick % held.jobs.length);
            r.outlet.take(pick);
          }
          const isAnswer = (one: RepMessage): boolean => one.kind === 'remoteIoResponse';
          for (const own of [true, false]) {
            const lane = (all: RepMessage[]): unknown[] =>
              digested(all.filter((one) => isAnswer(one) === own));
            expect(lane(r.outlet.messages)).toEqual(lane(plain.outlet.messages));
          }
          expect(plain.outlet.packed).toBe(0);
          expect(r.stream.queue.bytes).toBe(0);
        },
      ),
      { numRuns: 25 },
    );
  });
});

describe('a sender that packs what has to wait', () => {
  /** An outlet that has taken nothing for a while, and so slowly before. */
  async function slowLink(held: HeldCompress, always = false, slots = new PackSlots(8)) {
    vi.useFakeTimers({ toFake: ['performance'] });
    const r = rig({ compress: held.run, always, slots });
    r.outlet.taking = false;
    for (let i = 0; i < 24; i += 1) r.stream.write(r.member, i * 256 * KiB, text(256 * KiB, i));
    await turns();
    return r;
  }

  it('packs nothing while the link takes all', async () => {
    const held = new HeldCompress();
    const r = rig({ compress: held.run, always: false });
    for (let i = 0; i < 50; i += 1) r.stream.write(r.member, 0, text(64 * KiB));
    await turns(30);
    expect([held.jobs.length, r.outlet.packed, r.sender.isIdle]).toEqual([0, 0, true]);
  });

  it('begins once the link has shown that it is slow, and sends what is not ready as it is', async () => {
    const held = new HeldCompress();
    const r = await slowLink(held);
    expect(held.jobs).toHaveLength(0);
    // A quarter of a megabyte in 100 ms.
    for (let i = 0; i < 4 && held.jobs.length === 0; i += 1) {
      vi.advanceTimersByTime(100);
      r.outlet.take(1);
      await turns();
    }
    expect(held.jobs.length).toBeGreaterThan(0);
    const [ahead] = [held.jobs.length];
    held.finish(1);
    r.outlet.taking = true;
    r.outlet.take();
    await turns(60);
    expect(sequences(r.outlet.messages)).toEqual(Array.from({ length: 24 }, (_, i) => i + 1));
    // One of those ahead was ready, the others were not waited for.
    expect([ahead, r.outlet.packed, r.sender.isIdle]).toEqual([8, 1, true]);
    while (held.jobs.length > 0) held.finish();
    expect(r.sender.isIdle).toBe(true);
  });

  it('begins with what leaves last, since what leaves next would be packed for nothing', async () => {
    const held = new HeldCompress();
    const r = await slowLink(held, false, new PackSlots(1));
    for (let i = 0; i < 4 && held.jobs.length === 0; i += 1) {
      vi.advanceTimersByTime(100);
      r.outlet.take(1);
      await turns();
    }
    // The eighth of those that wait; the link takes five before it's done, and needs none of them twice.
    expect(held.jobs).toHaveLength(1);
    for (let i = 0; i < 5; i += 1) {
      r.outlet.take(1);
      await turns();
    }
    held.finish();
    r.outlet.taking = true;
    r.outlet.take();
    await turns(60);
    expect(r.outlet.packed).toBe(1);
    expect(sequences(r.outlet.messages)).toEqual(Array.from({ length: 24 }, (_, i) => i + 1));
    while (held.jobs.length > 0) held.finish();
  });

  it('leaves a fast link alone, however much waits', async () => {
    const held = new HeldCompress();
    const r = await slowLink(held);
    for (let i = 0; i < 20; i += 1) {
      vi.advanceTimersByTime(0.1);
      r.outlet.take(1);
      await turns();
    }
    vi.advanceTimersByTime(50);
    expect(held.jobs).toHaveLength(0);
  });
});

describe('the gauge', () => {
  it('counts only times in which the connection had more than it could take', () => {
    const gauge = new LinkGauge();
    expect(gauge.bytesPerSecond).toBeUndefined();
    gauge.look(1000, 1000, 0);
    gauge.look(1000, 500, 99);
    expect(gauge.bytesPerSecond).toBeUndefined();
    gauge.look(1000, 400, 120);
    expect(gauge.bytesPerSecond).toBe(5000);
    // All is taken, and nothing to send for an hour.
    gauge.look(1000, 0, 200);
    gauge.look(1000, 0, 3_600_000);
    gauge.look(2000, 1000, 3_600_000);
    gauge.look(2000, 500, 3_600_100);
    expect(gauge.bytesPerSecond).toBe((1100 * 1000) / 220);
    for (let i = 1; i <= 100; i += 1) gauge.look(2000 + i * 1e6, 500, 3_600_100 + i * 100);
    expect(gauge.bytesPerSecond).toBeGreaterThan(9e6);
  });
});

describe('the slots that all hubs share', () => {
  it('are given in order of arrival, past those that want none any more', () => {
    const slots = new PackSlots(1);
    const got: string[] = [];
    const take = (name: string): void => {
      if (slots.take(again[name]!)) got.push(name);
    };
    const again: Record<string, () => void> = {
      a: () => take('a'),
      b: () => got.push('b had no use for it'),
      c: () => take('c'),
      d: () => take('d'),
    };
    for (const name of ['a', 'b', 'c', 'd']) if (name !== 'b') take(name);
    slots.take(again.b!);
    slots.forget(again.c!);
    expect(got).toEqual(['a']);
    slots.release();
    expect(got).toEqual(['a', 'd']);
    take('a');
    slots.release();
    expect(got).toEqual(['a', 'd', 'b had no use for it', 'a']);
  });

  it('bound what two hubs pack at one time, and neither is left waiting', async () => {
    const held = new HeldCompress();
    const slots = new PackSlots(2);
    const both = [rig({ compress: held.run, slots }), rig({ compress: held.run, slots })];
    for (const { stream, member } of both) {
      for (let i = 0; i < 8; i += 1) stream.write(member, 0, text(256 * KiB, i));
    }
    await turns();
    // One goes while its loads are at work and others wait: its slots must not be lost.
    const third = rig({ compress: held.run, slots });
    for (let i = 0; i < 8; i += 1) third.stream.write(third.member, 0, text(256 * KiB, i));
    await turns();
    third.stream.shut();
    third.sender.stop();
    third.outlet.fail();
    for (; held.jobs.length > 0; await turns()) {
      expect(held.jobs.length).toBeLessThanOrEqual(2);
      held.finish();
    }
    for (const { sender, outlet } of both) {
      expect([sender.isIdle, outlet.packed, outlet.messages.length]).toEqual([true, 8, 8]);
    }
  });
});

describe('what is chosen', () => {
  it('is what both sides know', () => {
    expect(COMPRESS_MODES.map(compressionFeatures)).toEqual([0, FEATURE_BROTLI, FEATURE_BROTLI]);
    const all = FEATURE_PAIRING + FEATURE_BROTLI;
    expect(chooseCompression('off', all)).toBeUndefined();
    expect(chooseCompression('auto', all)).toEqual({ codec: 'brotli', always: false });
    expect(chooseCompression('always', FEATURE_BROTLI)).toEqual({ codec: 'brotli', always: true });
    expect(chooseCompression('always', FEATURE_PAIRING)).toBeUndefined();
    expect(chooseCompression('auto', 0)).toBeUndefined();
  });

  it('tries harder the slower the link, and not at all on a fast one', () => {
    const speeds = [64 * KiB, 4 * MiB - 1, 4 * MiB, 60 * MiB - 1, 60 * MiB, undefined];
    expect(speeds.map(qualityFor)).toEqual([5, 5, 1, 1, undefined, undefined]);
  });

  it('tells random bytes from others by a sample', () => {
    const random = randomBytes(256 * KiB);
    expect(looksRandom([random], random.length)).toBe(true);
    const small = Array.from({ length: 64 }, () => randomBytes(4096));
    expect(looksRandom(small, 64 * 4096)).toBe(true);
    expect(looksRandom([text(256 * KiB)], 256 * KiB)).toBe(false);
    expect(looksRandom([Buffer.alloc(4096)], 4096)).toBe(false);
    // Half of it is enough to try.
    const half = Buffer.concat([random, Buffer.alloc(256 * KiB)]);
    expect(looksRandom([half], half.length)).toBe(false);
    expect(looksRandom([], 0)).toBe(false);
    expect(looksRandom([randomBytes(600)], 600)).toBe(false);
  });
});
