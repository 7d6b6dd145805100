// What guests do at the worst moment: more than fits at once, and changes that fail while others are on their way.
import type { Life } from './life.ts';

/** More than a turn of the event loop sends, and than small windows and queues hold. */
export function burst(life: Life): void {
  const volume = life.volume();
  const sectors = volume.disk.now.length;
  for (let left = 2 + life.int(12); left > 0; left -= 1) {
    const length = Math.min(sectors, 40 + life.int(150));
    // A change that fails is read by the hub, while the others are on their way.
    if (life.int(3) === 0) volume.disk.failChanges = 1;
    life.world.guest(volume, 'write', life.int(sectors - length + 1), length, false);
    if (life.int(3) === 0) life.world.pass(0.1);
  }
}

/** Answers to the hub overtake what the stream still has, on a narrow line to a quick store. */
export function narrow(life: Life): void {
  const { weather } = life.world.net;
  const before = { ...weather };
  Object.assign(weather, { latencyMs: 1, bytesPerMs: 10_000, windowBytes: 65_536 });
  for (const { image } of life.world.volumes) Object.assign(image.disk, { slowMs: 0, flushMs: 0.1 });
  const volume = life.volume();
  const sectors = volume.disk.now.length;
  // The hub reads what the first one left, while megabytes of the others wait.
  volume.disk.failChanges = 1;
  for (let left = 10 + life.int(20); left > 0; left -= 1) {
    const length = Math.min(sectors, 60 + life.int(340));
    life.world.guest(volume, 'write', life.int(sectors - length + 1), length, false);
  }
  life.world.pass(life.random() * 1000);
  Object.assign(weather, before);
}

/** A change fails and is read, while the commit that makes the one before durable takes its time. */
export function reread(life: Life): void {
  const { world } = life;
  const volume = life.volume();
  const fails = (): void => {
    volume.disk.failChanges = 1;
    world.guest(volume, 'write', life.int(volume.disk.now.length), 1, false);
  };
  volume.disk.slowMs = 0;
  Object.assign(volume.image.disk, { slowMs: 0, flushMs: 400 });
  fails();
  world.pass(300, () => volume.replica?.state === 'converging');
  world.pass(life.random() * 20);
  fails();
  world.pass(life.random() * 500);
}
