// Serves one disk image over NBD from a program of one's own. Any NBD client can then use it:
//   qemu-img info nbd:localhost:10809
//   qemu-system-x86_64 ... -drive file=nbd:localhost:10809,format=raw,if=virtio
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

export interface Serving {
  readonly port: number;
  /** Answers what is in flight, flushes, and lets go of the image. */
  close(): Promise<void>;
}

/**
 * @param source a raw image's path, or nbd://HOST/NAME for a disk that another server holds
 * @param port 0 takes any that is free
 */
export async function serveOneImage(source: string, port: number): Promise<Serving> {
  const logger = createLogger('warn', 'serve-one-image');
  // What was started is stopped in reverse order, also when a later step fails.
  const stopper = new Stopper();
  try {
    // A request passes the filters, the outermost first, on its way to the image, which the chain closes with itself.
    const image = await openImage({ source, logger });
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
    return { port: address?.kind === 'tcp' ? address.port : port, close: () => stopper.close() };
  } catch (error) {
    await stopper.close();
    throw error;
  }
}
