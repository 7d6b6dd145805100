// Which hub's maps lie where, over restarts: a map must come back to the hub that it is relative to, and what a hub that
// is left out does not hear of must not be believed later.
import fs from 'node:fs';
import { afterEach, beforeEach, describe, expect, it, test } from 'vitest';
import { Bitmap } from '../../../src/base/bitmap.ts';
import { silentLogger } from '../../../src/base/log.ts';
import type { DirtySidecar } from '../../../src/repagent/dirty-sidecar.ts';
import {
  assignPlaces,
  decodePlaces,
  encodePlaces,
  type HubName,
  type HubPlace,
} from '../../../src/repagent/hub-places.ts';
import { HubRoster } from '../../../src/repagent/hub-roster.ts';
import { AgentState } from '../../../src/repagent/state-dir.ts';
import { type TempDir, tempDir } from '../../support/temp-dir.ts';

const SIZE = 2 ** 22;

/** `near@a:1`, or `a:1` for a hub without a name. */
function hub(text: string): HubName {
  const [name, address = name] = text.split('@');
  return { name: name!, address: address! };
}

function place(text: string, folder: string): HubPlace {
  return { ...hub(text), folder };
}

const nameless: HubPlace = { name: null, address: null, folder: 'maps' };

/** What is known, who is asked for, the folder of each, and what is left. */
const ROWS: ReadonlyArray<[string, HubPlace[], string[], string[], string[]]> = [
  ['the first start', [], ['a:1', 'b:1'], ['maps', 'maps-2'], []],
  ['a directory of the time of one hub', [nameless], ['a:1'], ['maps'], []],
  ['the same, with one more hub', [nameless], ['a:1', 'b:1'], ['maps', 'maps-2'], []],
  ['the only hub at another address', [place('a:1', 'maps')], ['b:1'], ['maps'], []],
  ['one more hub, before the old one', [place('a:1', 'maps')], ['b:1', 'a:1'], ['maps-2', 'maps'], []],
  ['a hub that gets a name', [place('a:1', 'maps')], ['b:1', 'near@a:1'], ['maps-2', 'maps'], []],
  [
    'named hubs that swap their addresses',
    [place('x@a:1', 'maps'), place('y@b:1', 'maps-2')],
    ['y@a:1', 'x@b:1'],
    ['maps-2', 'maps'],
    [],
  ],
  [
    'one of two that has moved',
    [place('a:1', 'maps'), place('b:1', 'maps-2')],
    ['c:1', 'b:1'],
    ['maps', 'maps-2'],
    [],
  ],
  [
    'two that have moved, which nobody can tell apart',
    [place('a:1', 'maps'), place('b:1', 'maps-2')],
    ['c:1', 'd:1'],
    ['maps-3', 'maps-4'],
    ['maps', 'maps-2'],
  ],
  ['one that is left out', [place('a:1', 'maps'), place('b:1', 'maps-2')], ['b:1'], ['maps-2'], ['maps']],
];

describe('the place of each hub', () => {
  test.each(ROWS)('%s', (_what, known, asked, folders, left) => {
    const found = assignPlaces(known, asked.map(hub));
    expect(found.places.map(({ folder }) => folder)).toEqual(folders);
    expect(found.places.map(({ name, address }) => ({ name, address }))).toEqual(asked.map(hub));
    expect(found.left.map(({ folder }) => folder)).toEqual(left);
    // What was written comes back, and gives the same again.
    const again = decodePlaces(encodePlaces(found))!;
    expect(assignPlaces(again, asked.map(hub))).toEqual(found);
  });

  it('is dropped when sixteen others were left after it', () => {
    const known = Array.from({ length: 19 }, (_, at) => place(`h${at}:1`, `maps-${at + 2}`));
    const { left, dropped } = assignPlaces(known, [hub('h0:1')]);
    expect([left.length, dropped.map(({ name }) => name)]).toEqual([16, ['h17:1', 'h18:1']]);
  });

  it.each([
    '',
    '{}',
    '[]',
    '{"version":2,"hubs":[]}',
    '{"version":1,"hubs":[{"name":"a","address":"a","folder":"../x"}]}',
    '{"version":1,"hubs":[{"name":1,"address":"a","folder":"maps"}]}',
    '{"version":1,"hubs":[{"name":"a","address":"a","folder":"maps"},{"name":"b","address":"b","folder":"maps"}]}',
  ])('is not read from %s', (text) => expect(decodePlaces(text)).toBeUndefined());
});

describe('a state directory', () => {
  let dir: TempDir;
  const opened: Array<{ state: AgentState; maps: DirtySidecar[] }> = [];

  beforeEach(() => {
    dir = tempDir();
  });
  afterEach(async () => {
    for (const one of opened.splice(0)) await end(one);
    dir.remove();
  });

  /** A start of an agent with the hubs named, or with none that has a name. @returns the map of `disk` of each */
  async function start(...names: string[]): Promise<{ state: AgentState; maps: DirtySidecar[] }> {
    const hubs = names.length > 0 ? names.map(hub) : undefined;
    const state = await AgentState.open({ stateDir: dir.path, hubs, logger: silentLogger });
    const keepers = hubs ? hubs.map(({ name }) => state.mapsOf(name)) : [state];
    const request = { volumeName: 'disk', sizeBytes: SIZE, image: undefined, onBroken: () => {} };
    const one = { state, maps: keepers.map((keeper) => keeper.openMap(request)) };
    opened.push(one);
    return one;
  }

  /** In order, or as kill -9 does. */
  async function end(one: { state: AgentState; maps: DirtySidecar[] }, killed = false): Promise<void> {
    const at = opened.indexOf(one);
    if (at !== -1) opened.splice(at, 1);
    if (!killed) for (const map of one.maps) await map.close(undefined);
    one.state.close();
  }

  /** Has nothing set but the chunks given, and is relative to a pairing. */
  async function settle(map: DirtySidecar, pairing: bigint, ...chunks: number[]): Promise<void> {
    const all = new Bitmap(map.bits.sizeBits);
    all.union(map.bits);
    map.offer(all);
    map.settle();
    while (map.retire(1000));
    await map.adopt(pairing, 3);
    for (const chunk of chunks) map.mark(chunk, chunk + 1);
  }

  it('of the time of one hub goes on with that one, and a second one is new', async () => {
    const before = await start();
    await settle(before.maps[0]!, 77n, 5);
    await end(before, true);
    const after = await start('a:1', 'b:1');
    expect(after.maps.map(({ finding, pairing }) => [finding, pairing])).toEqual([
      ['agent-crash', 77n],
      ['new', 0n],
    ]);
    expect(after.maps.map(({ bits }) => bits.count)).toEqual([1, SIZE / 65_536]);
    expect(fs.existsSync(dir.file('maps/disk.map'))).toBe(true);
  });

  it('keeps the map of each hub apart, whatever their order', async () => {
    const first = await start('a:1', 'b:1');
    await settle(first.maps[0]!, 1n, 10);
    await settle(first.maps[1]!, 2n, 20, 21);
    await end(first, true);
    const { maps } = await start('b:1', 'a:1');
    expect(maps.map(({ pairing, bits }) => [pairing, bits.count, bits.test(10), bits.test(20)])).toEqual([
      [2n, 2, false, true],
      [1n, 1, true, false],
    ]);
  });

  it.each([false, true])(
    'does not believe the map of a hub that was left out (killed: %s)',
    async (killed) => {
      const first = await start('a:1', 'b:1');
      await settle(first.maps[0]!, 1n, 10);
      await settle(first.maps[1]!, 2n, 20);
      await end(first, killed);
      await end(await start('a:1'), killed);
      const { maps } = await start('a:1', 'b:1');
      expect(maps.map(({ finding, pairing }) => [finding, pairing])).toEqual([
        [killed ? 'agent-crash' : 'clean', 1n],
        ['image-changed', 2n],
      ]);
      expect(maps[1]!.bits.count).toBe(SIZE / 65_536);
      // Once it is kept again it is as good as any.
      await settle(maps[1]!, 2n, 30);
      await end(opened[0]!, killed);
      expect((await start('a:1', 'b:1')).maps[1]!.bits.count).toBe(1);
    },
  );

  it('that does not say whose its maps are is refused, in words, and let go', async () => {
    await end(await start('a:1', 'b:1'));
    fs.rmSync(dir.file('hubs.json'));
    await expect(start('a:1')).rejects.toMatchObject({
      message: expect.stringMatching(/whose dirty maps are in .* is not known.*missing/) as string,
      hint: expect.stringMatching(
        /^put it back, or remove the maps too.*rm -r .*hubs\.json .*maps\*$/,
      ) as string,
    });
    fs.writeFileSync(dir.file('hubs.json'), '{}');
    await expect(start('a:1')).rejects.toThrow(/something else/);
    for (const name of ['hubs.json', 'maps', 'maps-2']) fs.rmSync(dir.file(name), { recursive: true });
    expect((await start('a:1')).maps[0]!.finding).toBe('new');
  });
});

describe('the roster', () => {
  const one = Buffer.alloc(16, 1);
  const two = Buffer.alloc(16, 2);

  it('refuses a second name of one hub by the first one, for good', () => {
    const roster = new HubRoster();
    expect(roster.admit('near', one)).toBeUndefined();
    expect(roster.admit('far', one)).toMatch(/replicated to as near already \(id 0101/);
    expect(roster.admit('near', one)).toBeUndefined();
    expect(roster.admit('far', one)).toMatch(/as near/);
    expect(roster.admit('far', two)).toBeUndefined();
  });

  it('lets a name go on to another hub, and frees the one that it had', () => {
    const roster = new HubRoster();
    roster.admit('near', one);
    expect(roster.admit('near', two)).toBeUndefined();
    expect(roster.admit('far', one)).toBeUndefined();
    expect(roster.admit('near', one)).toMatch(/as far/);
  });
});
