import { describe, expect, test } from 'vitest';
import type { Replica } from '../../../src/rephub/replica.ts';
import type { SessionVolume } from '../../../src/rephub/session-volume.ts';
import { StreamIntake } from '../../../src/rephub/stream-intake.ts';
import { StreamPosition } from '../../../src/rephub/stream-position.ts';

const SIZE = 65_536;

function intakeOfOneVolume() {
  const taken: string[] = [];
  const replica = {
    awaitsDirty: false,
    sizeBytes: SIZE,
    write: (offset: number) => taken.push(`write ${offset}`),
    zero: (offset: number) => taken.push(`zero ${offset}`),
    failedChange: (offset: number) => taken.push(`failed ${offset}`),
    flush: () => taken.push('flush'),
  };
  const volume = {
    id: 1n,
    name: 'a',
    sizeBytes: SIZE,
    touched: false,
    replica: replica as unknown as Replica,
  };
  const position = new StreamPosition();
  const intake = new StreamIntake(new Map([[1n, volume as unknown as SessionVolume]]), position);
  return { intake, taken };
}

const stamp = { volumeId: 1n, timeUs: 1 };

describe('StreamIntake', () => {
  test('an entry beyond its volume is refused and does not count as received', () => {
    const { intake, taken } = intakeOfOneVolume();
    const data = Buffer.alloc(512);
    intake.write({
      kind: 'protectedWrite',
      ...stamp,
      offset: 0,
      length: 512,
      status: 0,
      sequence: 1,
      crc32: 0,
      data,
    });
    const beyond = {
      kind: 'protectedWrite' as const,
      ...stamp,
      offset: SIZE,
      length: 512,
      status: 0,
      crc32: 0,
      data,
    };
    expect(() => intake.write({ ...beyond, sequence: 2 })).toThrow();
    expect(intake.received).toBe(1);
    const zero = { kind: 'protectedZero' as const, ...stamp, length: 1024, trim: true };
    expect(() => intake.zero({ ...zero, offset: SIZE - 512, sequence: 2 })).toThrow();
    expect(intake.received).toBe(1);
    intake.zero({ ...zero, offset: SIZE - 1024, sequence: 2 });
    intake.flush({ kind: 'protectedFlush', ...stamp, sequence: 3 });
    expect(intake.received).toBe(3);
    expect(taken).toEqual(['write 0', `zero ${SIZE - 1024}`, 'flush']);
  });
});
