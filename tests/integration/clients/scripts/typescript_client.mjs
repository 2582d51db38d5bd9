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
