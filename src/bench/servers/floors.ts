// Bounds: what a server with nothing to do, the bare file, and the bare loopback reach. A cell can't be faster than
// the slowest of what it is made of.
import { fileURLToPath } from 'node:url';
import { fileLoadArgs, loopbackLoadArgs } from '../fio.ts';
import type { Cell } from '../matrix.ts';
import { freePort, nbdUri, onlyImage, type ServerKind } from '../server.ts';

const START_TIMEOUT_MS = 15_000;

/** One image at one TCP address, and nothing on the way: what floors are made for. */
function isBare({ chain, workers, unix }: Cell): boolean {
  return chain === 0 && workers === 0 && !unix;
}

export const nullDisk: ServerKind = {
  name: 'null',
  role: 'floor',
  describe: 'this server over a disk that reads zeroes and forgets writes: protocol and sockets alone',
  programs: {},
  versionArgs: [],
  suits: (cell) => isBare(cell) && cell.cache === 'warm',
  start: async (bed) => {
    const script = fileURLToPath(new URL('../null-server.js', import.meta.url));
    const child = bed.children.start(process.execPath, [
      ...[script, String(bed.sizeBytes), ...(bed.tlsDir === undefined ? [] : [bed.tlsDir])],
    ]);
    const port = Number(await child.firstLine(START_TIMEOUT_MS));
    return { pids: [child.pid], uris: [nbdUri(port, 'disk', bed.cell.tls)], stop: () => child.stop() };
  },
};

export const bareFile: ServerKind = {
  name: 'file',
  role: 'floor',
  describe:
    'the load on the image itself, without a server (fio, psync: one request at a time; cold as many as the cell has)',
  programs: {},
  versionArgs: [],
  suits: (cell) => isBare(cell) && !cell.tls && !cell.mirror,
  start: async (bed) => ({
    pids: [],
    uris: [],
    load: (cell, seconds) => fileLoadArgs(cell, onlyImage(bed, 'file'), bed.sizeBytes, seconds),
    stop: async () => {},
  }),
};

export const loopback: ServerKind = {
  name: 'loopback',
  role: 'floor',
  describe: 'blocks of that size over loopback TCP: there and back at depth 1, else one way (fio, net)',
  programs: {},
  versionArgs: [],
  suits: (cell) =>
    isBare(cell) && !cell.tls && !cell.mirror && cell.cache === 'warm' && cell.connections === 1,
  start: async () => {
    const port = await freePort();
    return {
      pids: [],
      uris: [],
      load: (cell, seconds) => loopbackLoadArgs(cell, port, seconds),
      countJob: (name) => name === 'sender',
      stop: async () => {},
    };
  },
};
