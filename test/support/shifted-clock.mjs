// Loaded before a program (node --import), gives it a wall clock that a test sets: off by as many milliseconds as the
// file named by TEST_CLOCK says, looked up again at SIGUSR2 and then confirmed in TEST_CLOCK.PID. What is steady
// (performance.now, timers) stays as it is, as it does when a machine's clock is set.
import fs from 'node:fs';

const file = process.env.TEST_CLOCK;
const RealDate = Date;
let offsetMs = 0;

function look() {
  offsetMs = Number(fs.readFileSync(file, 'utf8'));
  fs.writeFileSync(`${file}.${process.pid}`, String(offsetMs));
}

globalThis.Date = class TestDate extends RealDate {
  constructor(...args) {
    if (args.length === 0) super(RealDate.now() + offsetMs);
    else super(...args);
  }

  static now() {
    return RealDate.now() + offsetMs;
  }
};

look();
process.on('SIGUSR2', look);
