// Serves one disk image over NBD, from a program of one's own. Then connect any NBD client:
//
//   qemu-img info nbd:localhost:10809
//   qemu-system-x86_64 ... -drive file=nbd:localhost:10809,format=raw,if=virtio
//
// In a project of your own, import from 'repagent'.
import {
  buildChain,
  createFilterContext,
  createLogger,
  filterLink,
  openImage,
  parseFilterSpec,
  Stopper,
  startNbdServer,
} from '../src/index.ts';

/**
 * @param path a raw image, or nbd://... for a disk that another server holds
 * @param port 0 takes any
 * @returns the port, and close(), which answers what is in flight, flushes and lets go of the image
 */
export async function serveOneImage(
  path: string,
  port = 10809,
): Promise<{ port: number; close(): Promise<void> }> {
  const stopper = new Stopper();
  try {
    const logger = createLogger('warn', 'serve-one-image');
    const image = await openImage({ source: path, logger });

    // Every request passes the filters on its way down, the outermost first; the chain closes the image with itself.
    const context = createFilterContext({ logger, exportName: 'disk' });
    const stats = filterLink(await parseFilterSpec('stats'), context);
    const device = await buildChain(image, [stats], context);
    stopper.add('disk', () => device.close());

    const server = await startNbdServer({
      exports: [{ name: 'disk', description: 'the only one', device }],
      listen: [{ kind: 'tcp', host: '127.0.0.1', port }],
      logger,
    });
    stopper.add('server', () => server.close());

    const [address] = server.addresses;
    return { port: address?.kind === 'tcp' ? address.port : 0, close: () => stopper.close() };
  } catch (error) {
    await stopper.close();
    throw error;
  }
}
