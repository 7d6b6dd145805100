// Tells a dirty map's file that its volume is served without it: what it says from then on must never be believed, even
// if nothing else betrays it.
import type { SidecarFile } from './sidecar-file.ts';
import { BITS_OFFSET, encodeHead, headOffset, newestHead } from './sidecar-head.ts';

/**
 * Marks the file, durably. Whose replica the map is relative to stays known.
 * @throws Error with `code`
 */
export async function leaveMap(file: SidecarFile): Promise<void> {
  const head = file.existed ? newestHead(file.read(0, BITS_OFFSET)) : undefined;
  // One without a head is not believed anyway.
  if (!head || head.isLeft) return;
  const counter = head.counter + 1;
  file.write(encodeHead({ ...head, counter, isLeft: true }), headOffset(counter));
  await file.sync();
}
