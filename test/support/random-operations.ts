// Random sequences of disk operations for fast-check: operations of one batch are in flight together, and must
// take effect as if they had run one after the other.
import fc from 'fast-check';
import type { MaybePromise } from '../../src/base/maybe.ts';
import type { BlockDevice } from '../../src/blockdev/block-device.ts';
import { applyMutation, type Mutation } from '../../src/blockdev/mutation.ts';
import { type DiskModel, pattern } from './disk-model.ts';

export interface Operation {
  readonly kind: 'write' | 'trim' | 'zero' | 'zeroNoHole' | 'flush' | 'cache' | 'extents' | 'read';
  /** Where, as a fraction of the disk: so that one sequence fits devices of any alignment. */
  readonly at: number;
  readonly length: number;
  readonly fua: boolean;
  readonly seed: number;
}

const GRID_BYTES = 512;

/** Lists of batches, each of 1 to `maxInFlight` operations, over a disk of `sizeBytes`. */
export function operationBatches(sizeBytes: number, maxInFlight: number): fc.Arbitrary<Operation[][]> {
  const slots = sizeBytes / GRID_BYTES;
  const operation: fc.Arbitrary<Operation> = fc.record({
    kind: fc.oneof(
      { weight: 6, arbitrary: fc.constant('write' as const) },
      { weight: 2, arbitrary: fc.constantFrom('trim' as const, 'zero' as const, 'zeroNoHole' as const) },
      { weight: 2, arbitrary: fc.constantFrom('flush' as const, 'cache' as const) },
      { weight: 1, arbitrary: fc.constantFrom('extents' as const, 'read' as const) },
    ),
    at: fc.oneof(fc.integer({ min: 0, max: slots - 1 }), fc.integer({ min: 0, max: 15 })),
    length: fc.oneof(fc.integer({ min: 1, max: 16 }), fc.integer({ min: 1, max: slots })),
    fua: fc.boolean(),
    seed: fc.integer({ min: 1, max: 1_000_000 }),
  });
  return fc.array(fc.array(operation, { minLength: 1, maxLength: maxInFlight }), {
    minLength: 1,
    maxLength: 16,
  });
}

/** The mutation that an operation stands for on a disk, or undefined for one that changes nothing. */
export function toMutation(operation: Operation, sizeBytes: number, unit: number): Mutation | undefined {
  const { offset, length } = place(operation, sizeBytes, unit);
  const { kind, fua, seed } = operation;
  switch (kind) {
    case 'write':
      return { kind, offset, data: pattern(length, seed), fua };
    case 'trim':
      return { kind, offset, length, fua };
    case 'zero':
      return { kind: 'writeZeroes', offset, length, fua, mayTrim: true };
    case 'zeroNoHole':
      return { kind: 'writeZeroes', offset, length, fua, mayTrim: false };
    case 'flush':
      return { kind };
    case 'cache':
    case 'extents':
    case 'read':
      return undefined;
  }
}

/** Starts all operations without waiting, then waits for all, and does the same to the model in order. */
export async function runBatch(device: BlockDevice, model: DiskModel, batch: Operation[]): Promise<void> {
  const unit = device.limits.minBlockBytes;
  const pending: Array<Promise<void>> = [];
  for (const operation of batch) {
    const mutation = toMutation(operation, model.sizeBytes, unit);
    if (mutation) {
      pending.push(finish(applyMutation(device, mutation), mutation));
      applyToModel(model, mutation);
    } else {
      pending.push(look(device, operation, model.sizeBytes, unit));
    }
  }
  await Promise.all(pending);
}

/** Does to the model what `mutation` does to a disk. */
export function applyToModel(model: DiskModel, mutation: Mutation): void {
  if (mutation.kind === 'write') model.write(mutation.offset, mutation.data);
  else if (mutation.kind !== 'flush') model.zero(mutation.offset, mutation.length);
}

/** Once answered, the lent bytes are the caller's again: spoil them, so that a device that still uses them shows. */
async function finish(answer: MaybePromise<void>, mutation: Mutation): Promise<void> {
  await answer;
  if (mutation.kind === 'write') mutation.data.fill(0xdd);
}

async function look(
  device: BlockDevice,
  operation: Operation,
  sizeBytes: number,
  unit: number,
): Promise<void> {
  const { offset, length } = place(operation, sizeBytes, unit);
  if (operation.kind === 'cache') await device.cache(offset, length);
  else if (operation.kind === 'extents') await device.extents(offset, length);
  else await device.read(offset, Buffer.allocUnsafe(length));
}

function place(operation: Operation, sizeBytes: number, unit: number): { offset: number; length: number } {
  const step = Math.max(unit, GRID_BYTES);
  // A byte-granular device gets odd offsets and lengths, others whole units.
  const odd = unit < GRID_BYTES ? (operation.seed % Math.floor(GRID_BYTES / unit)) * unit : 0;
  const offset = Math.min(
    operation.at * GRID_BYTES - ((operation.at * GRID_BYTES) % step) + odd,
    sizeBytes - step,
  );
  const wanted = Math.max(unit, operation.length * GRID_BYTES - odd);
  const length = Math.min(wanted - (wanted % unit), sizeBytes - offset);
  return { offset, length };
}
