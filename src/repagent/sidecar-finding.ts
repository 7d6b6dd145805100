// What a dirty map's file says when it is opened, and whether that can be believed.
import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { Bitmap, PAGE_BITS, PAGE_BYTES } from '../base/bitmap.ts';
import type { ClaimFinding } from '../repwire/constants.ts';
import { LOAD_BYTES, type SidecarFile } from './sidecar-file.ts';
import { BITS_OFFSET, MARK_BYTES, type SidecarHead } from './sidecar-head.ts';

/** How much younger than the last sign of life of its agent an image may be, ms: signs come every few seconds. */
const SIGN_OF_LIFE_SLACK_MS = 30_000;

/**
 * What may be found in the file that is to be believed: it was closed in order; the agent ended without closing it but
 * the machine did not, so that what reached the kernel is there; every bit was durable before its data.
 */
const BELIEVED: ReadonlySet<ClaimFinding> = new Set(['clean', 'agent-crash', 'exact']);

/** The protected image as it is now. */
export interface ImageMark {
  /** Differs when the image is another, or was changed since. */
  readonly mark: Buffer;
  /** When it was last changed, Unix milliseconds. */
  readonly changedAtMs: number;
}

/** What the file is looked at beside. */
export interface SidecarSituation {
  readonly file: SidecarFile;
  readonly agentId: Buffer;
  readonly volumeName: string;
  readonly sizeBytes: number;
  readonly granularityBytes: number;
  /** 16 bytes that differ after every start of the machine. */
  readonly bootId: Buffer;
  /** Undefined when that can't be told. */
  readonly image: ImageMark | undefined;
}

/** Whether the bits that go with a finding are all that the replica may lack. */
export function isBelievable(finding: ClaimFinding): boolean {
  return BELIEVED.has(finding);
}

/**
 * Judges the file, and reads its bits where they may mean something.
 * @param old its newest head, if there is one
 * @param bits gets them, in chunks of the situation's granularity
 */
export function examineSidecar(
  old: SidecarHead | undefined,
  bits: Bitmap,
  situation: SidecarSituation,
): ClaimFinding {
  const { file, agentId, volumeName, sizeBytes, bootId, image } = situation;
  if (!file.existed || file.sizeBytes === 0) return 'new';
  if (!old || file.sizeBytes < bitsEnd(old)) return 'corrupt';
  if (!old.agentId.equals(agentId) || !old.volume.equals(volumeMark(volumeName))) return 'foreign';
  if (old.sizeBytes > sizeBytes || old.granularityBytes < 1) return 'foreign';
  const crc = load(old, bits, situation);
  if (old.isVoid) return 'corrupt';
  if (old.isLeft) return 'image-changed';
  if (old.isClean) {
    if (crc !== old.bitsCrc32) return 'corrupt';
    const isKnown = old.image.some((byte) => byte !== 0);
    return isKnown && image && !old.image.equals(image.mark) ? 'image-changed' : 'clean';
  }
  const isSameBoot = old.bootId.equals(bootId);
  if ((isSameBoot || old.isExact) && image && image.changedAtMs > file.touchedAtMs + SIGN_OF_LIFE_SLACK_MS) {
    return 'image-changed';
  }
  if (isSameBoot) return 'agent-crash';
  return old.isExact ? 'exact' : 'host-crash';
}

/** How the file names its volume. */
export function volumeMark(name: string): Buffer {
  return createHash('sha256').update(name).digest().subarray(0, MARK_BYTES);
}

/** Reads the bits. @returns their checksum */
function load(old: SidecarHead, bits: Bitmap, { file, granularityBytes }: SidecarSituation): number {
  const end = bitsEnd(old);
  const same = old.granularityBytes === granularityBytes;
  const target = same ? bits : new Bitmap(Math.ceil(old.sizeBytes / old.granularityBytes));
  let crc = 0;
  for (let at = BITS_OFFSET; at < end; at += LOAD_BYTES) {
    const piece = file.read(at, Math.min(LOAD_BYTES, end - at));
    crc = crc32(piece, crc);
    for (let page = 0; page < piece.length; page += PAGE_BYTES) {
      target.addPage((at - BITS_OFFSET + page) / PAGE_BYTES, piece.subarray(page, page + PAGE_BYTES));
    }
  }
  if (!same) convert(target, old.granularityBytes, bits, granularityBytes);
  return crc;
}

function convert(from: Bitmap, fromBytes: number, to: Bitmap, toBytes: number): void {
  for (const run of from.runs()) {
    const first = Math.floor((run.start * fromBytes) / toBytes);
    const end = Math.ceil((run.end * fromBytes) / toBytes);
    to.set(first, Math.min(end, to.sizeBits));
  }
}

function bitsEnd(head: SidecarHead): number {
  if (head.granularityBytes < 1) return Number.POSITIVE_INFINITY;
  const chunks = Math.ceil(head.sizeBytes / head.granularityBytes);
  return BITS_OFFSET + Math.ceil(chunks / PAGE_BITS) * PAGE_BYTES;
}
