// For programs whose heap a test watches: answers each line on standard input with what the heap holds. With
// `--expose-gc` and a large young generation nothing is collected unless asked.
import { PerformanceObserver } from 'node:perf_hooks';
import { createInterface } from 'node:readline';

/** Collections so far. They are told a turn later than they were. */
let collections = 0;
new PerformanceObserver((list) => {
  collections += list.getEntries().length;
}).observe({ entryTypes: ['gc'] });

/** @param more what else an answer tells. Resolves when standard input ends. */
export async function answerLooks(more = () => ({})) {
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === 'gc') globalThis.gc();
    await new Promise((resolve) => setTimeout(resolve, 50));
    const { user, system } = process.cpuUsage();
    const usedBytes = process.memoryUsage().heapUsed;
    process.stdout.write(`${JSON.stringify({ usedBytes, collections, cpuUs: user + system, ...more() })}\n`);
  }
}
