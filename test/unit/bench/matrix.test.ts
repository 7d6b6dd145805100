import { describe, expect, test } from 'vitest';
import { UsageError } from '../../../src/base/errors.ts';
import {
  bedKey,
  cellId,
  changesDisk,
  FULL_CELLS,
  parseCellId,
  QUICK_CELLS,
  selectCells,
  TLS_CELLS,
} from '../../../src/bench/matrix.ts';
import { bedSeconds, planBeds, takesPart } from '../../../src/bench/plan.ts';
import { SERVER_KINDS, selectServers } from '../../../src/bench/servers/index.ts';

const ALL = [...QUICK_CELLS, ...FULL_CELLS, ...TLS_CELLS];
const kind = (name: string) => SERVER_KINDS.find((one) => one.name === name)!;

describe('cells', () => {
  test('the id says everything about a cell', () => {
    for (const cell of ALL) expect(parseCellId(cellId(cell))).toEqual(cell);
    expect(new Set(FULL_CELLS.map(cellId)).size).toBe(FULL_CELLS.length);
  });

  test('an id tells what is unusual only', () => {
    expect(QUICK_CELLS.map(cellId)).toEqual([
      '4k-randread-qd1',
      '4k-randwrite-qd1',
      '4k-randread-qd32',
      '4k-randwrite-qd32',
      '256k-read-qd8',
      '256k-write-qd8',
      '4k-randwrite-qd32-mirror',
      '256k-write-qd8-mirror',
      '4k-randread-qd32-disk-cold',
      '4k-randread-qd32-tls',
      '256k-read-qd8-tls',
      '4k-randread-qd32-chain6',
      '4k-randread-qd32-w2',
      '256k-read-qd8-unix',
    ]);
    const all = { depth: 8, connections: 4, storage: 'disk', cache: 'cold', tls: true, chain: 3 } as const;
    expect(
      cellId({ access: 'read', blockBytes: 2 ** 20, mirror: false, workers: 0, unix: false, ...all }),
    ).toBe('1m-read-qd8-c4-disk-cold-tls-chain3');
  });

  test.each([
    '4k-randread-qd1-cold',
    '4k-randread-qd1-mirror',
    '4k-randwrite-qd1-chain3-mirror',
    '4k-randread-qd0',
    '64m-read-qd1',
    '4k-randread-qd1-c4-c4',
    '4k-trim-qd1',
    '4k-randread-qd1-w1',
    '4k-randread-qd1-tls-unix',
    '4k-randwrite-qd1-mirror-w2',
    '',
  ])('%s is no cell', (id) => {
    expect(parseCellId(id)).toBeUndefined();
  });

  test('the full matrix holds every load, depth and number of connections, and each axis', () => {
    const ids = new Set(FULL_CELLS.map(cellId));
    for (const operation of [
      '4k-randread',
      '4k-randwrite',
      '4k-randrw',
      '64k-read',
      '256k-write',
      '1m-read',
    ]) {
      for (const depth of [1, 8, 32, 128]) {
        expect(ids).toContain(`${operation}-qd${depth}`);
        expect(ids).toContain(`${operation}-qd${depth}-c4`);
      }
    }
    expect(ids).toContain('4k-randread-qd128-disk-cold');
    expect(ids).toContain('4k-randwrite-qd32-chain6');
    expect(ids).toContain('1m-write-qd8-mirror');
  });

  test('patterns choose within the preset, then among all; an id chooses any cell there can be', () => {
    expect(selectCells(QUICK_CELLS, [])).toEqual(QUICK_CELLS);
    expect(selectCells(QUICK_CELLS, ['4k-*-qd1']).map(cellId)).toEqual([
      '4k-randread-qd1',
      '4k-randwrite-qd1',
    ]);
    expect(selectCells(QUICK_CELLS, ['*-qd8-disk-cold']).length).toBeGreaterThan(2);
    expect(selectCells(QUICK_CELLS, ['16k-write-qd3-c2']).map(cellId)).toEqual(['16k-write-qd3-c2']);
    expect(selectCells(QUICK_CELLS, ['256k-read-qd8', '256k-*-qd8']).map(cellId)).toEqual([
      '256k-read-qd8',
      '256k-write-qd8',
    ]);
    expect(() => selectCells(QUICK_CELLS, ['5k*'])).toThrow(UsageError);
    expect(() => selectCells(QUICK_CELLS, ['.'])).toThrow(/no cell/);
  });
});

describe('plan', () => {
  test('cells that need the same servers share them', () => {
    const beds = planBeds([...QUICK_CELLS, ...TLS_CELLS], SERVER_KINDS);
    expect(beds.map(({ key, cells }) => [key, cells.length])).toEqual([
      ['tmpfs plain chain0 alone', 6],
      ['tmpfs plain chain0 mirror', 2],
      ['disk cold plain chain0 alone', 1],
      ['tmpfs tls chain0 alone', 8],
      ['tmpfs plain chain6 alone', 1],
      ['tmpfs plain chain0 alone workers2', 1],
      ['tmpfs plain chain0 alone unix', 1],
    ]);
    for (const bed of beds) for (const cell of bed.cells) expect(bedKey(cell)).toBe(bed.key);
    expect(beds[1]!.kinds.map(({ name }) => name)).toEqual([
      'repagent',
      'qemu-background',
      'qemu-blocking',
      'null',
    ]);
  });

  test('our server suits every cell, mirrors only mirrored ones', () => {
    for (const cell of ALL) {
      expect(kind('repagent').suits(cell)).toBe(true);
      expect(kind('nbdkit').suits(cell)).toBe(!cell.mirror);
      expect(kind('one-process').suits(cell)).toBe(cell.workers > 0);
      expect(kind('qemu-blocking').suits(cell)).toBe(cell.mirror);
      if (cell.mirror) expect(changesDisk(cell)).toBe(true);
    }
  });

  test('floors take part in every other round, and the time is planned so', () => {
    const [cell] = QUICK_CELLS;
    const rounds = [0, 1, 2, 3];
    expect(rounds.filter((round) => takesPart(kind('null'), cell!, round))).toEqual([0, 2]);
    expect(rounds.filter((round) => takesPart(kind('nbdkit'), cell!, round))).toEqual(rounds);
    const seconds = planBeds(QUICK_CELLS, SERVER_KINDS).map((bed) => bedSeconds(bed, 4, 1));
    expect(seconds.reduce((sum, one) => sum + one, 0)).toBeLessThan(9.5 * 60);
  });

  test('our server is always among those chosen', () => {
    expect(selectServers(['nbdkit', 'null']).map(({ name }) => name)).toEqual(['repagent', 'nbdkit', 'null']);
    expect(selectServers([])).toEqual(SERVER_KINDS);
    expect(() => selectServers(['nbdkid'])).toThrow(/allowed: repagent, one-process, nbdkit/);
  });
});
