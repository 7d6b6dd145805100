// The parameters of each command as they lie in a frame at offset 8, 44 bytes each. docs/protocol/repwire.md shows the
// same tables, and a test compares them. RFC fields come first and never move; what follows is OURS.

import { bytes, type FieldSpec, padding, type Struct, struct } from '../wire/struct.ts';
import { FRAME_PARAMS_BYTES, REP_CMD } from './constants.ts';

function params<const S extends FieldSpec>(name: string, spec: S): Struct<S> {
  return struct(name, 'le', spec);
}

export const frameHead = struct('FRAME', 'le', { magic1: 'u16', cmdid: 'u16', data_size_bytes: 'u32' });

export const protectedWrite = params('PROTECTED_WRITE', {
  volume_id: 'u64',
  offset_sectors: 'size64',
  size_sectors: 'u32',
  ret_status: 'i32',
  sequence: 'size64',
  time_us: 'size64',
  crc32: 'u32',
});

export const reportVmVolumes = params('REPORT_VM_VOLUMES', {
  num_volumes: 'i32',
  hello_offer: 'u32',
  reserved: padding(36),
});

export const startProtect = params('START_PROTECT', {
  volume_id: 'u64',
  name_length: 'u32',
  flags: 'u32',
  resume_sequence: 'size64',
  pairing: 'u64',
  generation: 'size64',
  reserved: padding(4),
});

export const remoteIoReq = params('REMOTE_IO_REQ', {
  req_id: 'i32',
  size_sectors: 'i32',
  volume_id: 'u64',
  offset_sectors: 'u64',
  is_read: 'i32',
  reserved: padding(16),
});

export const remoteIoRes = params('REMOTE_IO_RES', {
  req_id: 'i32',
  io_status: 'i32',
  volume_id: 'u64',
  sequence: 'size64',
  flags: 'u32',
  answered_sectors: 'u32',
  reserved: padding(12),
});

export const agentShutdown = params('AGENT_SHUTDOWN', { sequence: 'size64', reserved: padding(36) });

export const hello = params('HELLO', {
  version: 'u32',
  features: 'u32',
  id: bytes(16),
  epoch: 'u64',
  ping_interval_ms: 'u32',
  name_length: 'u32',
  reserved: padding(4),
});

export const ack = params('ACK', {
  volume_id: 'u64',
  sequence: 'size64',
  state: 'u32',
  reserved: padding(4),
  sync_done_bytes: 'size64',
  sync_total_bytes: 'size64',
  reason: 'u32',
});

export const protectedZero = params('PROTECTED_ZERO', {
  volume_id: 'u64',
  offset_sectors: 'size64',
  size_sectors: 'size64',
  sequence: 'size64',
  time_us: 'size64',
  kind: 'u32',
});

export const protectedFlush = params('PROTECTED_FLUSH', {
  volume_id: 'u64',
  sequence: 'size64',
  time_us: 'size64',
  reserved: padding(20),
});

export const dirty = params('DIRTY', {
  volume_id: 'u64',
  sequence: 'size64',
  time_us: 'size64',
  num_extents: 'u32',
  flags: 'u32',
  reason: 'u32',
  changed_bytes: 'size64',
});

export const hashReq = params('HASH_REQ', {
  req_id: 'i32',
  size_sectors: 'i32',
  volume_id: 'u64',
  offset_sectors: 'u64',
  reserved: padding(20),
});

export const hashRes = params('HASH_RES', {
  req_id: 'i32',
  status: 'i32',
  volume_id: 'u64',
  sequence: 'size64',
  reserved: padding(20),
});

export const ping = params('PING', { token: 'u64', time_us: 'size64', reserved: padding(28) });
export const pong = params('PONG', { token: 'u64', time_us: 'size64', reserved: padding(28) });

export const verifyReq = params('VERIFY_REQ', {
  req_id: 'i32',
  reserved0: padding(4),
  volume_id: 'u64',
  reserved: padding(28),
});

export const verifyRes = params('VERIFY_RES', {
  req_id: 'i32',
  status: 'i32',
  volume_id: 'u64',
  compared_bytes: 'size64',
  total_bytes: 'size64',
  num_extents: 'u32',
  reserved: padding(8),
});

export const volumeError = params('VOLUME_ERROR', {
  volume_id: 'u64',
  text_length: 'u32',
  reserved: padding(32),
});

export const claim = params('CLAIM', {
  volume_id: 'u64',
  pairing: 'u64',
  generation: 'size64',
  recorded_sequence: 'size64',
  flags: 'u32',
  finding: 'u32',
  reserved: padding(4),
});

export const recorded = params('RECORDED', {
  volume_id: 'u64',
  pairing: 'u64',
  generation: 'size64',
  sequence: 'size64',
  reserved: padding(12),
});

export const packed = params('PACKED', {
  codec: 'u32',
  content_bytes: 'u32',
  reserved: padding(36),
});

/** Every parameter layout by command name, for the documentation's test. */
export const PARAM_LAYOUTS = {
  PROTECTED_WRITE: protectedWrite,
  REPORT_VM_VOLUMES: reportVmVolumes,
  START_PROTECT: startProtect,
  REMOTE_IO_REQ: remoteIoReq,
  REMOTE_IO_RES: remoteIoRes,
  AGENT_SHUTDOWN: agentShutdown,
  HELLO: hello,
  ACK: ack,
  PROTECTED_ZERO: protectedZero,
  PROTECTED_FLUSH: protectedFlush,
  DIRTY: dirty,
  HASH_REQ: hashReq,
  HASH_RES: hashRes,
  PING: ping,
  PONG: pong,
  VERIFY_REQ: verifyReq,
  VERIFY_RES: verifyRes,
  VOLUME_ERROR: volumeError,
  CLAIM: claim,
  RECORDED: recorded,
  PACKED: packed,
} as const;

for (const layout of Object.values(PARAM_LAYOUTS)) {
  if (layout.sizeBytes !== FRAME_PARAMS_BYTES) {
    throw new Error(`${layout.name} has ${layout.sizeBytes} bytes of parameters, not ${FRAME_PARAMS_BYTES}`);
  }
}

/** Names of commands by id. */
export const COMMAND_NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(REP_CMD).map(([name, id]) => [id, name] as const),
);
