// One check a function, run by name: what a user of the official TypeScript client does, with its default transport.
//
//     node typescript_client.mjs CHECK      (in a folder from which the client is found)

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { createReadStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const { default: Runloop, RunloopSDK, toFile } = require('@runloop/api-client');

const LINES = Array.from({ length: 2000 }, (_, n) => `line ${n + 1} äöü €\n`).join('');
const PRINT_LINES = 'for i in {1..2000}; do echo "line $i äöü €"; done';

async function withDevbox(params, use) {
  const devbox = await new RunloopSDK().devbox.create(params);
  try {
    await use(devbox);
  } finally {
    await devbox.shutdown();
  }
}

async function refused(ask, status) {
  const begun = Date.now();
  await assert.rejects(ask, (error) => {
    assert.equal(error.status, status, String(error));
    assert.ok(error.message.length > 10, error.message);
    return true;
  });
  assert.ok(Date.now() - begun < 1500, 'it was tried again');
}

const checks = {
  async lifecycle() {
    const devbox = await new RunloopSDK().devbox.create({ name: 'ts', metadata: { check: 'lifecycle' } });
    const info = await devbox.getInfo();
    assert.equal(info.status, 'running');
    assert.deepEqual(info.metadata, { check: 'lifecycle' });
    assert.equal(await devbox.getTunnel(), null);
    await devbox.keepAlive();
    assert.equal((await devbox.shutdown()).status, 'shutdown');
    assert.equal((await devbox.getInfo()).shutdown_reason, 'api_shutdown');
  },

  async objects() {
    const sdk = new RunloopSDK();
    const folder = mkdtempSync(path.join(tmpdir(), 'objects-'));
    try {
      const file = path.join(folder, 'notes.txt');
      writeFileSync(file, LINES);
      const object = await sdk.storageObject.uploadFromFile(file, 'notes.txt', { metadata: { from: 'ts' } });
      const info = await object.getInfo();
      assert.deepEqual([info.state, info.content_type, info.metadata], ['READ_ONLY', 'text', { from: 'ts' }]);
      assert.equal(info.size_bytes, Buffer.byteLength(LINES));
      assert.equal(await object.downloadAsText(), LINES);
      const content = randomBytes(3_000_000);
      const binary = await sdk.storageObject.uploadFromBuffer(content, 'bytes', 'binary');
      assert.deepEqual(Buffer.from(await binary.downloadAsBuffer()), content);
      const listed = await sdk.storageObject.list({ content_type: 'binary', limit: 1 });
      assert.deepEqual(listed.map((one) => one.id), [binary.id]);
      await binary.delete();
      assert.equal((await binary.getInfo()).state, 'DELETED');
      await object.delete();
    } finally {
      rmSync(folder, { recursive: true });
    }
  },

  async object_mounts() {
    const sdk = new RunloopSDK();
    const folder = mkdtempSync(path.join(tmpdir(), 'objects-'));
    try {
      writeFileSync(path.join(folder, 'inner.txt'), 'inner');
      const archive = await sdk.storageObject.uploadFromDir(folder, { name: 'folder.tgz' });
      const text = await sdk.storageObject.uploadFromText('outer', 'outer.txt');
      const home = process.env.CHECK_RUNTIME === 'oci' ? '/home/user' : '~'; // a fake box has no root of its own
      const mounts = [
        { type: 'object_mount', object_id: archive.id, object_path: `${home}/in side` },
        { type: 'object_mount', object_id: text.id, object_path: `${home}/deep/outer.txt` },
      ];
      await withDevbox({ mounts, launch_parameters: { launch_commands: ['cat deep/outer.txt'] } }, async (devbox) => {
        const shown = await devbox.cmd.exec('cat "in side/inner.txt" deep/outer.txt; ls -A "in side"');
        assert.equal(await shown.stdout(), 'innerouterinner.txt\n');
      });
    } finally {
      rmSync(folder, { recursive: true });
    }
  },

  async commands() {
    await withDevbox({}, async (devbox) => {
      const result = await devbox.cmd.exec('echo out; echo err >&2; exit 3');
      assert.equal(await result.stdout(), 'out\n');
      assert.equal(await result.stderr(), 'err\n');
      assert.equal(result.exitCode, 3);
      const slow = await devbox.cmd.execAsync('sleep 2; echo slow');
      assert.equal((await slow.getState()).status, 'running');
      assert.equal(await (await slow.result()).stdout(), 'slow\n');
      const endless = await devbox.cmd.execAsync('exec sleep 100');
      await endless.kill();
      assert.equal((await endless.getState()).status, 'completed');
      const sync = await new Runloop().devboxes.executeSync(devbox.id, { command: 'seq 1 500; exit 4' });
      assert.equal(sync.exit_status, 4);
      assert.equal(sync.stdout, Array.from({ length: 500 }, (_, n) => `${n + 1}\n`).join(''));
    });
  },

  async streaming() {
    await withDevbox({}, async (devbox) => {
      let seen = '';
      const result = await devbox.cmd.exec(PRINT_LINES, { stdout: (line) => { seen += line; } });
      assert.equal(await result.stdout(), LINES);
      assert.equal(seen.replaceAll('\n', ''), LINES.replaceAll('\n', ''));
      const moments = [];
      const begun = Date.now();
      await devbox.cmd.exec('for i in 1 2 3; do echo $i; sleep 1; done', { stdout: () => moments.push(Date.now() - begun) });
      assert.equal(moments.length, 3);
      assert.ok(moments[0] < 1500, String(moments));
    });
  },

  async callbacks() {
    await withDevbox({}, async (devbox) => {
      const seen = { stdout: '', stderr: '', output: '' };
      const into = Object.fromEntries(Object.keys(seen).map((name) => [name, (line) => { seen[name] += line; }]));
      const done = await devbox.cmd.exec('echo one; echo two >&2; echo three', into);
      assert.equal(done.success, true);
      assert.equal(seen.stdout.replaceAll('\n', ''), 'onethree');
      assert.equal(seen.stderr.replaceAll('\n', ''), 'two');
      for (const word of ['one', 'two', 'three']) assert.ok(seen.output.includes(word), seen.output);
      const early = [];
      const running = await devbox.cmd.execAsync('echo first; sleep 2; echo last >&2', {
        stdout: (line) => early.push(line), stderr: (line) => early.push(line),
      });
      await new Promise((resolve) => setTimeout(resolve, 1000));
      assert.deepEqual(early.map((line) => line.trim()), ['first']);
      assert.equal((await running.result()).exitCode, 0);
      assert.deepEqual(early.map((line) => line.trim()), ['first', 'last']);
      const several = await Promise.all(['a', 'b', 'c'].map((word) => devbox.cmd.exec(`sleep 0.3; echo ${word}`)));
      assert.deepEqual(await Promise.all(several.map((one) => one.stdout())), ['a\n', 'b\n', 'c\n']);
    });
  },

  async lastLines() {
    await withDevbox({}, async (devbox) => {
      const many = await devbox.cmd.exec('for i in {1..1000}; do echo "out $i"; echo "err $i" >&2; done');
      const last = (word, count) => Array.from({ length: count }, (_, n) => `${word} ${1001 - count + n}`);
      for (const count of [1, 3, 10]) {
        assert.deepEqual((await many.stdout(count)).trimEnd().split('\n'), last('out', count));
        assert.deepEqual((await many.stderr(count)).trimEnd().split('\n'), last('err', count));
      }
      assert.equal(await many.stderr(), `${last('err', 1000).join('\n')}\n`);
      const few = await devbox.cmd.exec('echo one; echo two');
      assert.equal((await few.stdout(100)).trimEnd(), 'one\ntwo');
      const silent = await devbox.cmd.exec('exit 42');
      assert.deepEqual([await silent.stdout(), await silent.stderr(), silent.exitCode, silent.failed], ['', '', 42, true]);
    });
  },

  async logs() {
    await withDevbox({ launch_parameters: { launch_commands: ['echo from-launch'] } }, async (devbox) => {
      const done = await devbox.cmd.exec('echo from-exec');
      const has = (logs, word, source) => logs.some((line) => line.message?.includes(word) && line.source === source);
      const { logs } = await devbox.logs();
      assert.ok(has(logs, 'from-launch', 'setup_commands') && has(logs, 'from-exec', 'exec'), JSON.stringify(logs));
      const own = (await devbox.logs({ execution_id: done.executionId })).logs;
      assert.ok(has(own, 'from-exec', 'exec') && !has(own, 'from-launch', 'setup_commands'), JSON.stringify(own));
    });
  },

  async accountAndKeys() {
    const client = new Runloop();
    const { id } = await client.accounts.me();
    const second = await client.apikeys.create({ name: 'second' });
    assert.equal((await new Runloop({ bearerToken: second.key_secret }).accounts.me()).id, id);
    const scopes = [{ resource_type: 'RESOURCE_TYPE_DEVBOXES', access_level: 'ACCESS_LEVEL_READ' }];
    const reader = await client.restrictedKeys.create({ name: 'reader', scopes });
    const restricted = new Runloop({ bearerToken: reader.key_secret });
    await restricted.devboxes.list({ limit: 1 });
    await refused(() => restricted.devboxes.create(), 403);
  },

  async longCommand() {
    await withDevbox({}, async (devbox) => {
      assert.equal(await (await devbox.cmd.exec('sleep 27; echo long')).stdout(), 'long\n');
    });
  },

  async namedShell() {
    await withDevbox({}, async (devbox) => {
      const shell = devbox.shell('main');
      await shell.exec('mkdir -p work && cd work && export WHO=me');
      assert.equal(await (await shell.exec('echo "$(basename $PWD) $WHO"')).stdout(), 'work me\n');
    });
  },

  async standardInput() {
    await withDevbox({}, async (devbox) => {
      const client = new Runloop();
      const begun = await client.devboxes.executeAsync(devbox.id, { command: 'cat; echo end', attach_stdin: true });
      // The client takes a body whose only key is `signal` for request options; `text: undefined` is not sent.
      for (const body of [{ text: 'one\n' }, { text: 'two\n' }, { text: undefined, signal: 'EOF' }]) {
        assert.equal((await client.devboxes.executions.sendStdIn(devbox.id, begun.execution_id, body)).success, true);
      }
      const done = await client.devboxes.executions.awaitCompleted(devbox.id, begun.execution_id);
      assert.equal(done.stdout, 'one\ntwo\nend\n');
    });
  },

  async files() {
    await withDevbox({}, async (devbox) => {
      await devbox.file.write({ file_path: 'notes/a.txt', contents: 'häl\nlo' });
      assert.equal(await devbox.file.read({ file_path: '~/notes/a.txt' }), 'häl\nlo');
      const content = randomBytes(3_000_000);
      const folder = mkdtempSync(path.join(tmpdir(), 'corral-ts-'));
      process.on('exit', () => rmSync(folder, { recursive: true }));
      const local = path.join(folder, 'b.bin');
      writeFileSync(local, content);
      const ways = [() => toFile(content, 'b.bin'), () => createReadStream(local), () => new File([content], 'b.bin')];
      for (const way of ways) {
        await devbox.file.upload({ file: await way(), path: 'deep/er/b.bin' });
        const answer = await devbox.file.download({ path: 'deep/er/b.bin' });
        assert.ok(Buffer.from(await answer.arrayBuffer()).equals(content));
        await devbox.cmd.exec('mv deep/er/b.bin last');
      }
      const digest = (await (await devbox.cmd.exec('sha256sum < last')).stdout()).split(' ')[0];
      assert.equal(digest, createHash('sha256').update(content).digest('hex'));
    });
  },

  async lists() {
    const client = new Runloop();
    const made = [];
    for (let n = 0; n < 5; n += 1) made.push((await client.devboxes.create({ name: `ts-${n}` })).id);
    const found = [];
    for await (const view of client.devboxes.list({ limit: 2 })) {
      found.push(view.id);
      if (found.length === 5) break;
    }
    assert.deepEqual(found, made.reverse());
    for (const id of made) await client.devboxes.shutdown(id);
  },

  async refusals() {
    const client = new Runloop();
    await refused(() => client.devboxes.retrieve('dbx_nonexistent12345'), 400);
    await refused(() => client.devboxes.retrieve(`dbx_${'0'.repeat(21)}`), 404);
    await refused(() => client.devboxes.create({ blueprint_name: 'none' }), 400);
    await refused(() => client.devboxes.create({ nmae: 'x' }), 400);
    await refused(() => client.agents.list(), 501);
    await refused(() => new Runloop({ bearerToken: 'ak_wrong' }).devboxes.list(), 401);
  },

  async abandonedStream() {
    // The client aborts a stream; the server must let go of it and go on answering on the same connection.
    await withDevbox({}, async (devbox) => {
      const client = new Runloop();
      const begun = await client.devboxes.executeAsync(devbox.id, { command: 'yes | head -c 20000000; sleep 60' });
      for (let round = 0; round < 20; round += 1) {
        const stream = await client.devboxes.executions.streamStdoutUpdates(devbox.id, begun.execution_id, {});
        for await (const chunk of stream) {
          assert.ok(chunk.output.length > 0);
          break;
        }
      }
      assert.equal((await client.devboxes.retrieve(devbox.id)).status, 'running');
    });
  },
};

await checks[process.argv[2]]();
