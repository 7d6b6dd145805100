// The doubles that tests put above and below the code under test. All of them are block devices.
export { FaultDevice, type FaultRule, ShortDevice } from './fault-device.ts';
export { HeldCall, HeldDevice, isPending, settled } from './held-device.ts';
export { JumbleDevice } from './jumble-device.ts';
export { PatternDevice, patternBytes, SparseDevice, TEST_LIMITS } from './pattern-device.ts';
export { callLine, type DeviceOp, type RecordedCall, RecorderDevice, record } from './recorder-device.ts';
export { SPARSE_PAGE_BYTES, SparseBytes } from './sparse-bytes.ts';
export { VerifyDevice } from './verify-device.ts';
