// Every method of the official TypeScript client, found by walking its resources, called once.
//
//     node every_method.mjs      (in a folder from which the client is found)
//
// A method with a scene here must succeed; all others must be refused with 501 and a message.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const { default: Runloop, toFile } = require('@runloop/api-client');
const { APIResource } = require('@runloop/api-client/resource');

const client = new Runloop();
const box = (await client.devboxes.createAndAwaitRunning({ name: 'scene' })).id;
await client.devboxes.writeFileContents(box, { file_path: 'f', contents: 'text' });

const tunnel = await client.devboxes.createPtyTunnel(box);
// A host of its own is only possible without HTTP/2, where the client takes the authority from the address.
const terminals = new Runloop({
  http2: false,
  defaultHeaders: {
    host: `13-${tunnel.tunnel_key}.tunnel.localhost`,
    'X-Runloop-Tunnel-Authorization': `Bearer ${tunnel.auth_token}`,
  },
});

const fresh = async () => (await client.devboxes.create()).id;
const running = async () => (await client.devboxes.createAndAwaitRunning()).id;
const suspended = async () => {
  const id = await running();
  await client.devboxes.suspend(id);
  await client.devboxes.awaitSuspended(id);
  return id;
};
const snapshot = async () => (await client.devboxes.snapshotDisk(box)).id;
const uploaded = async () => {
  const made = await client.objects.create({ name: 'object', content_type: 'text' });
  const sent = await fetch(made.upload_url, { method: 'PUT', body: 'content' });
  assert.equal(sent.status, 200);
  return made.id;
};
const whole = async () => (await client.objects.complete(await uploaded())).id;
// Fake boxes cannot build: blueprints fail there.
const base = 'FROM debian-13-slim\n';
const blueprint = async () => (await client.blueprints.create({ name: 'scene', dockerfile: base })).id;
const building =
  process.env.CHECK_RUNTIME === 'fake'
    ? {}
    : {
        'blueprints.awaitBuildComplete': async () => [await blueprint()],
        'blueprints.createAndAwaitBuildCompleted': async () => [{ name: 'scene', dockerfile: base }],
      };
const leftOut = Object.keys(building).length ? [] : ['blueprints.awaitBuildComplete', 'blueprints.createAndAwaitBuildCompleted'];
const begun = async (command, more = {}) =>
  (await client.devboxes.executeAsync(box, { command, ...more })).execution_id;
const soon = Date.now() + 3_600_000;
const scopes = [{ resource_type: 'RESOURCE_TYPE_DEVBOXES', access_level: 'ACCESS_LEVEL_READ' }];

// Method -> its arguments.
const scenes = {
  'accounts.me': async () => [],
  'apikeys.create': async () => [{ name: 'key', expires_at_ms: soon }],
  'restrictedKeys.create': async () => [{ name: 'key', scopes }],
  'blueprints.create': async () => [{ name: 'scene', dockerfile: base, metadata: { a: 'b' } }],
  'blueprints.retrieve': async () => [await blueprint()],
  'blueprints.list': async () => [{ limit: 3, name: 'scene' }],
  'blueprints.listPublic': async () => [{ limit: 3 }],
  'blueprints.preview': async () => [{ name: 'scene', system_setup_commands: ['true'] }],
  'blueprints.logs': async () => [await blueprint()],
  'blueprints.delete': async () => [await blueprint(), {}],
  ...building,
  'devboxes.create': async () => [{ name: 'new' }],
  'devboxes.createAndAwaitRunning': async () => [{ name: 'new' }],
  'devboxes.awaitRunning': async () => [await fresh()],
  'devboxes.retrieve': async () => [box],
  'devboxes.createSSHKey': async () => [box],
  'devboxes.suspend': async () => [await running()],
  'devboxes.resume': async () => [await suspended()],
  'devboxes.awaitSuspended': async () => [await suspended()],
  'devboxes.snapshotDisk': async () => [box, { name: 'one', metadata: { a: 'b' } }],
  'devboxes.snapshotDiskAsync': async () => [box, { commit_message: 'why' }],
  'devboxes.listDiskSnapshots': async () => [{ devbox_id: box, limit: 2 }],
  'devboxes.deleteDiskSnapshot': async () => [await snapshot()],
  'devboxes.diskSnapshots.list': async () => [{ devbox_id: box, limit: 2 }],
  'devboxes.diskSnapshots.update': async () => [await snapshot(), { name: 'again' }],
  'devboxes.diskSnapshots.delete': async () => [await snapshot()],
  'devboxes.diskSnapshots.queryStatus': async () => [await snapshot()],
  'devboxes.diskSnapshots.awaitCompleted': async () => [await snapshot()],
  'devboxes.update': async () => [box, { metadata: { a: 'b' } }],
  'devboxes.list': async () => [{ limit: 3 }],
  'devboxes.keepAlive': async () => [box],
  'devboxes.retrieveResourceUsage': async () => [box],
  'devboxes.shutdown': async () => [await fresh(), { force: 'true' }],
  'devboxes.watchEvictions': async () => [],
  'devboxes.createPtyTunnel': async () => [box],
  'devboxes.readFileContents': async () => [box, { file_path: 'f' }],
  'devboxes.writeFileContents': async () => [box, { file_path: 'g', contents: 'x' }],
  'devboxes.uploadFile': async () => [box, { path: 'h', file: await toFile(Buffer.from('bytes'), 'h') }],
  'devboxes.downloadFile': async () => [box, { path: 'f' }],
  'devboxes.execute': async () => [box, { command: 'echo out', command_id: randomUUID() }],
  'devboxes.executeAsync': async () => [box, { command: 'true' }],
  'devboxes.executeSync': async () => [box, { command: 'true' }],
  'devboxes.executeAndAwaitCompletion': async () => [box, { command: 'echo out' }],
  'devboxes.waitForCommand': async () => [box, await begun('true'), { statuses: ['completed'] }],
  'devboxes.executions.retrieve': async () => [box, await begun('true'), { last_n: '5' }],
  'devboxes.executions.awaitCompleted': async () => [box, await begun('true')],
  'devboxes.executions.executeAsync': async () => [box, { command: 'true' }],
  'devboxes.executions.executeSync': async () => [box, { command: 'true' }],
  'devboxes.executions.kill': async () => [box, await begun('exec sleep 60'), { kill_process_group: true }],
  'devboxes.executions.sendStdIn': async () => [box, await begun('exec cat', { attach_stdin: true }), { text: 'in' }],
  'devboxes.executions.streamStdoutUpdates': async () => [box, await begun('seq 3'), { offset: '2' }],
  'devboxes.executions.streamStderrUpdates': async () => [box, await begun('seq 3 >&2'), {}],
  'devboxes.logs.list': async () => [box],
  'objects.create': async () => [{ name: 'object', content_type: 'text', metadata: { a: 'b' }, ttl_ms: 600_000 }],
  'objects.retrieve': async () => [await uploaded()],
  'objects.list': async () => [{ limit: 2, content_type: 'text' }],
  'objects.listPublic': async () => [{ limit: 2 }],
  'objects.complete': async () => [await uploaded()],
  'objects.download': async () => [await whole(), { duration_seconds: 60 }],
  'objects.delete': async () => [await uploaded(), {}],
  'pty.connect': async () => ['one', { cols: 80, rows: 24 }],
  'pty.control': async () => ['one', { action: 'resize', cols: 90, rows: 20 }],
};

function* methods(resource, prefix) {
  const kind = Object.getOwnPropertyDescriptors(Object.getPrototypeOf(resource));
  for (const [name, { value }] of Object.entries(kind)) {
    // What has no value is an accessor, and makes no request.
    if (name !== 'constructor' && !name.startsWith('_') && value) yield [prefix + name, resource, name];
  }
  for (const [name, inner] of Object.entries(resource)) {
    if (inner instanceof APIResource) yield* methods(inner, `${prefix}${name}.`);
  }
}

function* all(root) {
  for (const [name, resource] of Object.entries(root)) {
    if (resource instanceof APIResource) yield* methods(resource, `${name}.`);
  }
}

// Arguments for a method that is not offered, by the names of its parameters: a body, or an id.
function someArguments(method) {
  const names = /^[^(]*\(([^)]*)\)/.exec(method.toString())[1].split(',').map((one) => one.trim().split(/\W/)[0]);
  return names
    .filter((name) => name && name !== 'options')
    .map((name) => (['body', 'query', 'params'].includes(name) ? {} : 'x'));
}

async function contents(name, answer) {
  if (name === 'devboxes.watchEvictions') return answer.controller.abort(); // no eviction ever comes
  if (typeof answer?.arrayBuffer === 'function') return answer.arrayBuffer();
  if (name.includes('.stream')) for await (const event of answer) assert.equal(typeof event.output, 'string');
  return answer;
}

const wrong = [];
const names = new Set();
for (const [name, resource, own] of [...all(client)]) {
  names.add(name);
  if (leftOut.includes(name)) continue;
  const target = name.startsWith('pty.') ? terminals.pty : resource;
  try {
    const given = name in scenes ? await scenes[name]() : someArguments(target[own]);
    await contents(name, await target[own](...given));
    if (!(name in scenes)) wrong.push(`${name}: there is no scene for it`);
  } catch (error) {
    const refused = error.status === 501 && /does not offer/.test(error.message);
    if (name in scenes || !refused) wrong.push(`${name}: ${error}`);
  }
}
await client.devboxes.shutdown(box);
console.log(`${names.size} methods`);
assert.deepEqual(Object.keys(scenes).filter((name) => !names.has(name)), []);
assert.equal(wrong.length, 0, wrong.join('\n'));
process.exit(0);
