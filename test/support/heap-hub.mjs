// A program for mirror-memory.test.ts: the built hub with one replica (argv[2], an image), whose heap can be watched.
import { silentLogger } from '../../dist/base/log.js';
import { startHub } from '../../dist/rephub/hub.js';
import { answerLooks } from './heap-watch.mjs';

const hub = await startHub({
  listen: { host: '127.0.0.1', port: 0 },
  pairs: new Map([['disk', process.argv[2]]]),
  logger: silentLogger,
});
process.stdout.write(`${hub.address.port}\n`);
await answerLooks();
await hub.close();
