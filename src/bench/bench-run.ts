// What every kind of bench run needs, and leaves as it was: no process and no file remains, whatever happens.
import { setMaxListeners } from 'node:events';
import { OperationError } from '../base/errors.ts';
import { Children, findProgram } from './children.ts';
import { Workspace } from './workspace.ts';

export interface BenchRunOptions {
  /** The command line program that serves. */
  readonly program: string;
  readonly repagentVersion: string;
  readonly aborted: AbortSignal;
  /** What is being done, and about how long everything still takes. */
  readonly onProgress: (what: string, secondsLeft: number) => void;
}

/** Of a run whose images all have one size, and which uses a disk too. */
export interface DiskRunOptions extends BenchRunOptions {
  readonly sizeBytes: number;
  /** A folder on the disk, for what is to lie there. */
  readonly diskFolder: string | undefined;
}

/**
 * Gives `work` processes and folders that are gone when it has ended, or when the run is aborted.
 * @throws OperationError when fio is missing, or the run was aborted; and whatever `work` throws
 */
export async function runCleanly<T>(
  { aborted, diskFolder }: BenchRunOptions & { readonly diskFolder?: string | undefined },
  work: (children: Children, workspace: Workspace) => Promise<T>,
): Promise<T> {
  if (findProgram('fio') === undefined) {
    throw new OperationError('fio is not installed', {
      hint: 'apt-get install fio (its nbd engine is the client)',
    });
  }
  const children = new Children();
  const workspace = new Workspace(diskFolder);
  const abort = (): void => children.killAll();
  setMaxListeners(0, aborted);
  aborted.addEventListener('abort', abort, { once: true });
  try {
    return await work(children, workspace);
  } catch (error) {
    throw aborted.aborted ? new OperationError('the bench was stopped') : error;
  } finally {
    aborted.removeEventListener('abort', abort);
    children.close();
    workspace.close();
  }
}
