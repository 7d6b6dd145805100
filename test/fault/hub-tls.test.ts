// The link to the hub with TLS: who may replicate, what a stranger gets, and that nothing goes in the clear when it
// must not. Certificates are made by openssl while the test runs.
import { randomBytes } from 'node:crypto';
import { copyFileSync } from 'node:fs';
import { connect } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { MemoryDevice } from '../../src/blockdev/memory-device.ts';
import { Agent, type AgentOptions } from '../../src/repagent/agent.ts';
import type { HubTls } from '../../src/rephub/agent-gate.ts';
import { loadClientCredentials, loadServerCredentials } from '../../src/transport/tls-credentials.ts';
import { type CapturedLog, captureLog } from '../support/capture-log.ts';
import { closeHub, type TestHub, testHub } from '../support/hub-harness.ts';
import { type TempDir, tempDir } from '../support/temp-dir.ts';
import { TestCa } from '../support/tls-files.ts';
import { waitUntil } from '../support/wait-until.ts';

const SIZE = 1 << 20;

let dir: TempDir;
let undo: Array<() => Promise<unknown> | unknown> = [];

beforeAll(async () => {
  dir = tempDir();
  const ca = await TestCa.create(dir.file('ca'));
  await ca.issue(dir.file('hub'), 'server', { name: 'hub.test', altNames: 'DNS:hub.test,IP:127.0.0.1' });
  await ca.issue(dir.file('other-hub'), 'server', { name: 'other.test' });
  await ca.issue(dir.file('vm1'), 'client', { name: 'vm1' });
  await ca.issue(dir.file('expired'), 'client', { name: 'vm1', days: -1 });
  const stranger = await TestCa.create(dir.file('stranger-ca'), 'Stranger');
  await stranger.issue(dir.file('stranger'), 'client', { name: 'vm1' });
  // It trusts our hub; our hub does not trust it.
  copyFileSync(dir.file('vm1/ca-cert.pem'), dir.file('stranger/ca-cert.pem'));
  await stranger.issue(dir.file('stranger-hub'), 'server', { name: 'hub.test', altNames: 'IP:127.0.0.1' });
});
afterAll(() => dir.remove());
afterEach(async () => {
  for (const one of undo.reverse()) await one();
  undo = [];
});

interface Started {
  readonly hub: TestHub;
  readonly log: CapturedLog;
}

async function startTlsHub(options: { dir?: string; anyName?: boolean } = {}): Promise<Started> {
  const log = captureLog();
  const credentials = await loadServerCredentials({ dir: dir.file(options.dir ?? 'hub') });
  const tls: HubTls = { credentials: () => credentials, anyName: options.anyName ?? false };
  const hub = await testHub({ disk: SIZE }, { tls, logger: log.logger });
  undo.push(() => closeHub(hub));
  return { hub, log };
}

interface StartedAgent {
  readonly agent: Agent;
  readonly device: MemoryDevice;
  readonly top: ReturnType<Agent['protect']>;
}

async function startAgent(
  port: number,
  options: { dir?: string; vmName?: string; serverName?: string } = {},
): Promise<StartedAgent> {
  const { vmName = 'vm1', serverName = '127.0.0.1' } = options;
  let tls: AgentOptions['tls'];
  if (options.dir !== undefined) {
    const credentials = await loadClientCredentials({ dir: dir.file(options.dir) });
    tls = { credentials: () => credentials, serverName };
  }
  const agent = new Agent({
    hubHost: '127.0.0.1',
    hubPort: port,
    vmName,
    agentId: randomBytes(16),
    reconnect: { firstMs: 5, longestMs: 20 },
    reportRetryMs: 20,
    logger: captureLog().logger,
    ...(tls && { tls }),
  });
  const device = new MemoryDevice({ sizeBytes: SIZE });
  device.write(4096, randomBytes(64 * 1024), false);
  const top = agent.protect('disk', device);
  undo.push(() => agent.close());
  agent.start();
  return { agent, device, top };
}

const stateOf = ({ agent }: StartedAgent): string => agent.status().volumes[0]!.state;
const errorOf = ({ agent }: StartedAgent): string => agent.status().link.lastError ?? '';

async function protectedSoon(one: StartedAgent): Promise<void> {
  await waitUntil(() => stateOf(one) === 'protected', { what: 'protected', intervalMs: 5 });
}

function contentOf(device: MemoryDevice): Buffer {
  const content = Buffer.alloc(SIZE);
  device.read(0, content);
  return content;
}

describe('with certificates on both sides', () => {
  test('a volume is replicated, and its changes follow', async () => {
    const { hub, log } = await startTlsHub();
    const one = await startAgent(hub.port, { dir: 'vm1' });
    await protectedSoon(one);
    await one.top.write(0, randomBytes(300 * 1024), false);
    await one.top.trim(512 * 1024, 64 * 1024, false);
    await waitUntil(() => one.agent.status().volumes[0]!.dirtyBytes === 0, { what: 'all of it durable' });
    expect(hub.image().durable.equals(contentOf(one.device))).toBe(true);
    expect(log.text()).toContain('"certificate":"vm1"');
  });

  test("the hub's certificate has to be for the name that was dialed, whatever CA signed it", async () => {
    const { hub } = await startTlsHub({ dir: 'other-hub' });
    const one = await startAgent(hub.port, { dir: 'vm1' });
    await waitUntil(() => errorOf(one).includes('for another name'), { what: 'a wrong name' });
    expect(stateOf(one)).toBe('unprotected');
    // Told the name that it has, the same hub will do.
    const other = await startAgent(hub.port, { dir: 'vm1', serverName: 'other.test' });
    await protectedSoon(other);
  });

  test('a hub of a strange CA is left at once', async () => {
    const { hub } = await startTlsHub({ dir: 'stranger-hub' });
    const one = await startAgent(hub.port, { dir: 'vm1' });
    await waitUntil(() => errorOf(one).includes('not signed by ca-cert.pem'), { what: 'a strange CA' });
    expect(hub.hub.status()[0]!.state).toBe('unprotected');
  });
});

describe('an agent that is not let in', () => {
  test.each([
    ['stranger', /not signed by ca-cert\.pem/],
    ['expired', /has expired/],
  ])('with the certificate %s: the hub says why', async (name, reason) => {
    const { hub, log } = await startTlsHub();
    const one = await startAgent(hub.port, { dir: name });
    await waitUntil(() => reason.test(log.text()), { what: `the hub's reason; ${log.text()}` });
    expect(stateOf(one)).toBe('unprotected');
    expect(hub.hub.status()[0]!.state).toBe('unprotected');
  });

  test('that speaks for another machine is refused, on both sides in words', async () => {
    const { hub } = await startTlsHub();
    const before = Buffer.from(hub.image().durable);
    const one = await startAgent(hub.port, { dir: 'vm1', vmName: 'vm2' });
    const { lastError } = await waitUntil(
      () => one.agent.status().volumes.find(({ state }) => state === 'failed'),
      { what: 'a refusal' },
    );
    expect(lastError).toMatch(
      /certificate is for "vm1", not for the machine "vm2"; give the agent --vm-name/,
    );
    expect(hub.hub.status().some(({ lastError: text }) => text?.includes('"vm2"'))).toBe(true);
    expect(hub.image().durable.equals(before)).toBe(true);
  });

  test('for its name alone may be let in', async () => {
    const { hub } = await startTlsHub({ anyName: true });
    await protectedSoon(await startAgent(hub.port, { dir: 'vm1', vmName: 'vm2' }));
  });

  test('without TLS gets nowhere, and one with TLS never talks to a hub without', async () => {
    const { hub, log } = await startTlsHub();
    const plain = await startAgent(hub.port);
    await waitUntil(() => log.text().includes('something that is not TLS'), { what: 'the reason' });
    expect(stateOf(plain)).toBe('unprotected');
    const plainLog = captureLog();
    const plainHub = await testHub({ disk: SIZE }, { logger: plainLog.logger });
    undo.push(() => closeHub(plainHub));
    const secure = await startAgent(plainHub.port, { dir: 'vm1' });
    await waitUntil(() => plainLog.text().includes('the peer speaks TLS, and this side does not'), {
      what: "the plain hub's reason",
    });
    await waitUntil(() => errorOf(secure) !== '', { what: "the agent's reason" });
    expect(stateOf(secure)).toBe('unprotected');
  });
});

test('handshakes that stall are ended, hold up nobody, and do not hold the hub when it closes', async () => {
  const log = captureLog();
  const credentials = await loadServerCredentials({ dir: dir.file('hub') });
  const tls: HubTls = { credentials: () => credentials, anyName: false };
  const hub = await testHub({ disk: SIZE }, { tls, logger: log.logger, tuning: { handshakeMs: 150 } });
  let closed = false;
  undo.push(() => (closed ? undefined : closeHub(hub)));
  const sockets = Array.from({ length: 50 }, () => connect(hub.port, '127.0.0.1'));
  undo.push(() => sockets.map((socket) => socket.destroy()));
  for (const socket of sockets) socket.on('error', () => {});
  await protectedSoon(await startAgent(hub.port, { dir: 'vm1' }));
  await waitUntil(() => sockets.every((socket) => socket.destroyed || socket.readyState === 'closed'), {
    what: 'all of them ended',
  });
  // Anybody can cause these lines, so that there are fewer of them than strangers.
  expect(log.text().match(/did not finish TLS/g)!.length).toBeLessThan(50);
  const late = connect(hub.port, '127.0.0.1');
  late.on('error', () => {});
  await new Promise((resolve) => late.once('connect', resolve));
  await closeHub(hub);
  closed = true;
});
