// The scale run without processes: its cells, its account of progress, what its programs say to each other, its tables.
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { replaceFigures, SCALE_PLACE } from '../../../src/bench/report-document.ts';
import { SCALE_CELLS, scaleSeconds, selectScaleCells } from '../../../src/bench/scale/cells.ts';
import type { ScaleFigures } from '../../../src/bench/scale/figures.ts';
import { firstCopy } from '../../../src/bench/scale/first-copy.ts';
import { fleetLine, isFleetPlan } from '../../../src/bench/scale/fleet-lines.ts';
import { scaleMarkdown } from '../../../src/bench/scale/report.ts';
import type { VolumeStatus } from '../../../src/control/status.ts';

const cellOf = (id: string) => SCALE_CELLS.find((cell) => cell.id === id)!;

describe('the cells of a scale run', () => {
  test('are chosen by id, and take less than six minutes together', () => {
    expect(selectScaleCells(['1x*']).map(({ id }) => id)).toEqual(['1x1g', '1x16t']);
    expect(selectScaleCells([])).toEqual(SCALE_CELLS);
    expect(() => selectScaleCells(['2x1g'])).toThrow(/none of 1x1g, 100x1g/);
    const one = cellOf('1x1g');
    expect(scaleSeconds([one, one], 5)).toBe(2 * (one.startSeconds + 5 + 7));
    expect(scaleSeconds(SCALE_CELLS, 3)).toBeLessThan(360);
  });

  test('tell how far their first copies are', () => {
    const volume = { state: 'initial-sync', syncDoneBytes: 2 ** 28 } as VolumeStatus;
    expect(firstCopy(cellOf('1x1g'), [volume], 1000)).toEqual({
      text: 'first copy 25%, 256 MiB/s',
      secondsLeft: 3,
    });
  });
});

describe('the program of many agents', () => {
  test('is told what to do, and says what came of it in whole lines', () => {
    const plan = {
      agents: 2,
      hubPort: 1,
      sizeBytes: 4096,
      stateDir: '/x',
      restSeconds: 1,
      seconds: 1,
      iops: 1,
    };
    expect([isFleetPlan(plan), isFleetPlan({ ...plan, iops: '1' }), isFleetPlan(null)]).toEqual([
      true,
      false,
      false,
    ]);
    const text = '{"kind":"protected","afterMs":12}\n{"kind":"loaded","latenciesMs":[1,2]}';
    expect(fleetLine(text, 'protected')).toEqual({ kind: 'protected', afterMs: 12 });
    expect(fleetLine(text, 'loaded')).toBeUndefined();
    expect(fleetLine(`${text}\n`, 'loaded')).toMatchObject({ latenciesMs: [1, 2] });
  });
});

test('the report has volumes and agents apart, and its own place in the document', () => {
  const figures = (id: string): ScaleFigures => ({
    ...{
      cell: cellOf(id),
      startedAfterMs: 900,
      protectedAfterMs: 2000,
      agentBytes: 2 ** 26,
      hubBytes: 2 ** 27,
    },
    ...{ agentRestShare: 0.011, hubRestShare: 0.02, agentLoadShare: 0.5, hubLoadShare: 0.4 },
    ...{ iops: 15_200, p50Us: 60, p99Us: undefined },
  });
  const text = scaleMarkdown({
    kind: 'scale',
    ...{ date: '2026-11-25T00:00:00.000Z', repagentVersion: '0.1.0', seconds: 3 },
    machine: { processor: 'a', processors: 2, memoryBytes: 1, system: 'b', node: 'd', loadBefore: 1 },
    figures: [figures('1100x1g-100busy'), figures('500agents')],
  });
  expect(text).toContain('| 1100x1g-100busy | 1100 | 1 GiB | 900ms | 2s | 64 MiB | 128 MiB | 1.1% | 2.0% |');
  expect(text).toContain('| 1100x1g-100busy | 100 of 1100 | 15200 | 60 / - | 50.0% | 40.0% |');
  expect(text).toContain('| 500 | 1 GiB | 900ms | 2s | 64 MiB | 128 MiB | 2.0% | 15200 | 40.0% | 60 / - |');
  const document = readFileSync(new URL('../../../docs/PERFORMANCE.md', import.meta.url), 'utf8');
  expect(replaceFigures(document, text, SCALE_PLACE)).toContain('100 of 1100');
});
