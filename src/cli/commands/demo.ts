// `repagent demo`: its options. The body is in demo/.
import { defineCommand } from '../command.ts';

export const demoCommand = defineCommand({
  name: 'demo',
  describe: 'Show replication from first sync to recovery from a hub crash, on temporary files',
  options: {},
  examples: [['demo', 'takes less than half a minute and needs nothing but Node']],
  configFile: false,
  run: async () => {
    const { runDemo } = await import('../demo/demo.ts');
    return runDemo();
  },
});
