// A program: the NBD server with a mirrored disk, as `serve` builds it, but with a dirty map that is kept as argv[2] says
// (a MirrorServerSettings in JSON). Only a bench needs one whose map is in memory alone. Prints its port, and ends with
// SIGTERM.
import { randomBytes } from 'node:crypto';
import { silentLogger } from '../base/log.ts';
import { openImage } from '../blockdev/open-image.ts';
import { ownSocketPath, prepareRuntimeDir, runtimeDirs } from '../control/runtime-dir.ts';
import { startControlServer } from '../control/server.ts';
import { buildChain } from '../filter/chain.ts';
import { createFilterContext } from '../filter/context.ts';
import { filterLink, parseFilterSpec } from '../filter/registry.ts';
import { startNbdServer } from '../nbd/server.ts';
import { Agent } from '../repagent/agent.ts';
import { DirtyMaps } from '../repagent/dirty-maps.ts';
import { openSidecarFile, type SidecarFile } from '../repagent/sidecar-file.ts';
import { EXPORT, type MapCounts, type MirrorServerSettings } from './mirror-settings.ts';

const settings = JSON.parse(process.argv[2]!) as MirrorServerSettings;
const { image, hubPort, map, mapFile, granularityBytes } = settings;
const logger = silentLogger;
const agentId = randomBytes(16);
const counts = { bitWrites: 0, syncs: 0 } satisfies MapCounts;

function openCounted(): SidecarFile {
  const file = openSidecarFile(mapFile);
  const { write, sync } = file;
  return Object.assign(file, {
    write: (data: Buffer, position: number) => {
      if (data.length === 1) counts.bitWrites += 1;
      write(data, position);
    },
    sync: () => {
      counts.syncs += 1;
      return sync();
    },
  });
}

const maps = new DirtyMaps({
  ...{ agentId, bootId: randomBytes(16), granularityBytes, exact: map === 'durable', logger },
  open: openCounted,
});
const state = map === 'memory' ? undefined : maps;
const agent = new Agent({ hubHost: '127.0.0.1', hubPort, vmName: 'bench', agentId, state, logger });
const context = createFilterContext({ logger, exportName: EXPORT });
const bottom = await openImage({ source: image, logger });
const device = await buildChain(
  bottom,
  [
    filterLink(await parseFilterSpec('align'), context),
    { name: 'repagent', wrap: (below) => agent.protect(EXPORT, below) },
  ],
  { logger, exportName: EXPORT },
);
const server = await startNbdServer({
  exports: [{ name: EXPORT, device }],
  listen: [{ kind: 'tcp', host: '127.0.0.1', port: 0 }],
  logger,
});
agent.start();

const [runDir] = runtimeDirs();
prepareRuntimeDir(runDir!);
const control = await startControlServer({
  address: { kind: 'unix', path: ownSocketPath(runDir!, 'serve') },
  handlers: {
    status: () => ({
      ...{ role: 'agent', pid: process.pid, version: '', listening: [], link: null },
      volumes: agent.status().volumes,
    }),
    stats: () => counts,
    verify: (volume, onProgress) => agent.verify(volume, onProgress),
  },
  logger,
});
process.once('SIGTERM', () => {
  void (async () => {
    await server.close();
    await device.close();
    await agent.close();
    await control.close();
  })();
});
const [address] = server.addresses;
process.stdout.write(`${address?.kind === 'tcp' ? address.port : 0}\n`);
