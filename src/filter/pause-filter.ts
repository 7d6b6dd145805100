// filter pause: the place in a chain where `repagent pause` holds calls. The guard above every link can do that; this
// one only has a name by which its guard is found.
import { defineFilter } from './define-filter.ts';
import { PassThrough } from './pass-through.ts';

export const pauseFilter = defineFilter({
  name: 'pause',
  summary: 'Marks the place where `repagent pause` holds calls; without it they wait above all filters',
  options: {},
  examples: [
    {
      spec: 'pause',
      text: 'Given after `--filter repagent`, it also holds what a hub reads and writes while the volume is paused',
    },
  ],
  create(below) {
    return new PassThrough(below);
  },
});
