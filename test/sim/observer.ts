// Sees, from outside, which place in its stream an agent gives each change, and which agent a replica follows. It takes
// part in nothing: what it watches behaves as if it were not there.
import { MirrorStream, type StreamMember } from '../../src/repagent/mirror-stream.ts';
import { ProtectedVolume } from '../../src/repagent/protected-volume.ts';
import { Replica } from '../../src/rephub/replica.ts';
import { type Beginning, ReplicaMemory } from '../../src/rephub/replica-memory.ts';
import type { Claim } from '../../src/repwire/messages.ts';
import type { Clock, Host } from './clock.ts';

export interface Watcher {
  /** A change of the range got this place; 0: it has none. */
  entered(host: Host, volume: ProtectedVolume, sequence: number, offset: number, length: number): void;
  /** What has no place so far is named to the hub at this one. */
  named(host: Host, volume: ProtectedVolume, sequence: number): void;
  /** An agent learned that a hub begins to follow a volume. @param hubKey which life of which hub */
  started(host: Host, volume: ProtectedVolume, hubKey: string | undefined): void;
  /** A connection of an agent begins to replicate. @param how unless both remember @param claim what it was judged by */
  attached(replica: Replica, how: Beginning | undefined, claim: Claim | undefined): void;
  /** An agent is not let at a replica. */
  refused(replica: Replica, reason: string): void;
  /** An agent has said what the replica lacks. */
  told(replica: Replica): void;
  queued(host: Host, stream: MirrorStream): void;
}

/** @returns how to stop watching */
export function observe(clock: Clock, watcher: Watcher): () => void {
  const stream = MirrorStream.prototype;
  const replica = Replica.prototype;
  const { write, failed, zero, dirty } = stream;
  const { attach, refuse, dirty: takeDirty } = replica;
  const memory = ReplicaMemory.prototype;
  const { begin } = memory;
  const claims = new WeakMap<ReplicaMemory, Claim>();
  const volume = ProtectedVolume.prototype;
  const { start } = volume;
  const tell = (
    self: MirrorStream,
    owner: StreamMember,
    sequence: number,
    offset: number,
    length: number,
  ): number => {
    watcher.entered(clock.host!, owner as ProtectedVolume, sequence, offset, length);
    watcher.queued(clock.host!, self);
    return sequence;
  };
  stream.write = function (owner, offset, data) {
    return tell(this, owner, write.call(this, owner, offset, data), offset, data.length);
  };
  stream.failed = function (owner, offset, length) {
    return tell(this, owner, failed.call(this, owner, offset, length), offset, length);
  };
  stream.zero = function (owner, kind, offset, length) {
    return tell(this, owner, zero.call(this, owner, kind, offset, length), offset, length);
  };
  stream.dirty = function (owner, ...rest) {
    const sequence = dirty.call(this, owner, ...rest);
    watcher.named(clock.host!, owner as ProtectedVolume, sequence);
    return sequence;
  };
  memory.begin = function (agent, vmName, sizeBytes, claim, ...rest) {
    if (claim) claims.set(this, claim);
    return begin.call(this, agent, vmName, sizeBytes, claim, ...rest);
  };
  replica.attach = function (link, vmName, how) {
    const result = attach.call(this, link, vmName, how);
    watcher.attached(this, how, claims.get(this.memory));
    return result;
  };
  replica.refuse = function (reason) {
    watcher.refused(this, reason);
    refuse.call(this, reason);
  };
  replica.dirty = function (part) {
    const isFirst = this.awaitsDirty;
    takeDirty.call(this, part);
    if (isFirst && !part.more) watcher.told(this);
  };
  volume.start = function (wireId, hubKey, ...rest) {
    const result = start.call(this, wireId, hubKey, ...rest);
    watcher.started(clock.host!, this, hubKey);
    return result;
  };
  return () => {
    volume.start = start;
    Object.assign(stream, { write, failed, zero, dirty });
    Object.assign(replica, { attach, refuse, dirty: takeDirty });
    memory.begin = begin;
  };
}
