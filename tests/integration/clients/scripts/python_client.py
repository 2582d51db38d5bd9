"""One check a function, run by name: what a user of the official Python client does.

python python_client.py CHECK
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import runloop_api_client
from runloop_api_client import AsyncRunloopSDK, Runloop, RunloopSDK

FAKE = os.environ["CHECK_RUNTIME"] == "fake"
LINES = "".join(f"line {n} äöü €\n" for n in range(1, 2001))
PRINT_LINES = 'for i in {1..2000}; do echo "line $i äöü €"; done'


def lifecycle() -> None:
    sdk = RunloopSDK()
    devbox = sdk.devbox.create(name="lifecycle", metadata={"check": "lifecycle"})
    info = devbox.get_info()
    assert (info.status, info.name, info.metadata) == ("running", "lifecycle", {"check": "lifecycle"}), info
    assert info.launch_parameters.resource_size_request == "SMALL"
    assert info.state_transitions[0].status == "provisioning"
    assert info.tunnel is None
    devbox.keep_alive()
    usage = sdk.api.devboxes.retrieve_resource_usage(devbox.id)
    assert usage.total_elapsed_seconds >= 0
    ended = devbox.shutdown()
    assert (ended.status, ended.shutdown_reason) == ("shutdown", "api_shutdown"), ended
    assert devbox.get_info().status == "shutdown"


def create_in_two_steps() -> None:
    client = Runloop()
    view = client.devboxes.create(environment_variables={"GREETING": "hello"})
    assert view.status in {"provisioning", "initializing", "running"}
    view = client.devboxes.await_running(view.id)
    assert view.status == "running"
    done = client.devboxes.execute_and_await_completion(view.id, command="echo $GREETING; pwd")
    home = done.stdout.splitlines()[1]
    assert done.stdout.startswith("hello\n"), done
    assert FAKE or home == "/home/user", home
    client.devboxes.shutdown(view.id)
    renamed = client.devboxes.update(view.id, name="after")
    assert renamed.name == "after"


def ssh() -> None:
    with RunloopSDK().devbox.create() as devbox, tempfile.TemporaryDirectory() as folder:
        answer = Runloop().devboxes.create_ssh_key(devbox.id)
        key = Path(folder, "key")
        key.touch(mode=0o600)
        key.write_text(answer.ssh_private_key)
        # As the dialect's own tools do it, but for the address, which they take from the domain of the API.
        proxy = f"openssl s_client -quiet -servername {answer.url} -connect {os.environ['CHECK_SSH']} 2>/dev/null"
        options = ["-F", "none", "-i", str(key), "-o", f"ProxyCommand={proxy}", "-o", "StrictHostKeyChecking=no"]
        options += ["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]
        command = ["ssh", *options, f"{answer.ssh_user}@{answer.url}", "echo by ssh; exit 4"]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (4, b"by ssh\n", b""), done


def commands() -> None:
    with RunloopSDK().devbox.create() as devbox:
        result = devbox.cmd.exec("echo out; echo err >&2; exit 3")
        assert (result.stdout(), result.stderr(), result.exit_code) == ("out\n", "err\n", 3)
        assert result.failed
        result = devbox.cmd.exec("seq 1 250")
        assert result.result.stdout_truncated
        assert result.stdout() == "".join(f"{n}\n" for n in range(1, 251))
        assert result.stdout(num_lines=2) == "249\n250"
        sync = Runloop().devboxes.execute_sync(devbox.id, command="seq 1 500; exit 4")
        assert (sync.exit_status, sync.stdout) == (4, "".join(f"{n}\n" for n in range(1, 501)))


def streaming() -> None:
    with RunloopSDK().devbox.create() as devbox:
        seen: list[str] = []
        result = devbox.cmd.exec(PRINT_LINES, stdout=seen.append)
        assert result.stdout() == LINES
        assert "".join(seen).replace("\n", "") == LINES.replace("\n", "")
        moments: list[float] = []
        begun = time.monotonic()
        execution = devbox.cmd.exec_async(
            "for i in 1 2 3; do echo $i; sleep 1; done",
            stdout=lambda _line: moments.append(time.monotonic() - begun),
        )
        assert execution.result().exit_code == 0
        assert len(moments) == 3
        assert moments[0] < 1.5, moments
        with Runloop().devboxes.executions.stream_stdout_updates(
            execution.execution_id, devbox_id=devbox.id, offset="2"
        ) as stream:
            assert "".join(chunk.output for chunk in stream) == "2\n3\n"


def asynchronous_commands() -> None:
    with RunloopSDK().devbox.create() as devbox:
        execution = devbox.cmd.exec_async("exec sleep 100")
        assert execution.get_state().status == "running"
        execution.kill()
        state = execution.get_state()
        assert (state.status, state.exit_status) == ("completed", 137), state
        slow = devbox.cmd.exec_async("sleep 2; echo slow")
        assert slow.result().stdout() == "slow\n"


def long_command() -> None:
    """Longer than one long-poll of 25 s."""
    with RunloopSDK().devbox.create() as devbox:
        assert devbox.cmd.exec("sleep 27; echo long").stdout() == "long\n"


def standard_input() -> None:
    client = Runloop()
    with RunloopSDK().devbox.create() as devbox:
        execution = client.devboxes.execute_async(devbox.id, command="cat; echo end", attach_stdin=True)
        for text in ("one\n", "two\n"):
            sent = client.devboxes.executions.send_std_in(execution.execution_id, devbox_id=devbox.id, text=text)
            assert sent.success
        client.devboxes.executions.send_std_in(execution.execution_id, devbox_id=devbox.id, signal="EOF")
        done = client.devboxes.executions.await_completed(execution.execution_id, devbox_id=devbox.id)
        assert done.stdout == "one\ntwo\nend\n", done


def files() -> None:
    with RunloopSDK().devbox.create() as devbox, tempfile.TemporaryDirectory() as folder:
        devbox.file.write(file_path="notes/a.txt", contents="häl\nlo")
        assert devbox.file.read(file_path="~/notes/a.txt") == "häl\nlo"
        content = os.urandom(3_000_000)
        local = Path(folder, "b.bin")
        local.write_bytes(content)
        devbox.file.upload(path="deep/er/b.bin", file=local)
        assert devbox.file.download(path="deep/er/b.bin") == content
        digest = devbox.cmd.exec("sha256sum < deep/er/b.bin").stdout().split()[0]
        assert digest == hashlib.sha256(content).hexdigest()
        devbox.file.upload(path="empty", file=b"")
        assert devbox.file.download(path="empty") == b""


def lists() -> None:
    client = Runloop()
    made = [client.devboxes.create(name=f"list-{n}").id for n in range(5)]
    found = []
    for view in client.devboxes.list(limit=2):
        found.append(view.id)
        if len(found) == 5:
            break
    assert found == made[::-1], (made, found)
    page = client.devboxes.list(limit=3, status="running", include_total_count=False)
    assert page.total_count is None
    for devbox_id in made:
        client.devboxes.shutdown(devbox_id, force="true")


def refusals() -> None:
    client = Runloop()
    for ask, kind, status in (
        (lambda: client.devboxes.retrieve("dbx_nonexistent12345"), runloop_api_client.BadRequestError, 400),
        (lambda: client.devboxes.retrieve("dbx_" + "0" * 21), runloop_api_client.NotFoundError, 404),
        (lambda: client.devboxes.create(blueprint_name="none"), runloop_api_client.BadRequestError, 400),
        (lambda: client.devboxes.create(extra_body={"nmae": "x"}), runloop_api_client.BadRequestError, 400),
        (client.secrets.list, runloop_api_client.InternalServerError, 501),
        (Runloop(bearer_token="ak_wrong").devboxes.list, runloop_api_client.AuthenticationError, 401),
    ):
        begun = time.monotonic()
        error = raised(ask, kind)
        assert error.status_code == status, error
        assert error.body["message"], error
        assert time.monotonic() - begun < 1, "it was tried again"


def raised(
    ask: Callable[[], object], kind: type[runloop_api_client.APIStatusError]
) -> runloop_api_client.APIStatusError:
    """The error that asking gives."""
    try:
        ask()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def account_and_keys() -> None:
    client = Runloop()
    assert client.accounts.me().id.startswith("acc_")
    made = client.apikeys.create(name="second")
    assert Runloop(bearer_token=made.key_secret).accounts.me().id == client.accounts.me().id
    scope = {"resource_type": "RESOURCE_TYPE_DEVBOXES", "access_level": "ACCESS_LEVEL_READ"}
    restricted = Runloop(bearer_token=client.restricted_keys.create(name="reader", scopes=[scope]).key_secret)
    assert restricted.devboxes.list(limit=1) is not None
    raised(restricted.devboxes.create, runloop_api_client.PermissionDeniedError)


def logs() -> None:
    with RunloopSDK().devbox.create(launch_parameters={"launch_commands": ["echo from-launch"]}) as devbox:
        devbox.cmd.exec("echo from-exec")
        lines = devbox.logs().logs
        assert any("from-exec" in (line.message or "") and line.source == "exec" for line in lines), lines
        assert any("from-launch" in (line.message or "") and line.source == "setup_commands" for line in lines), lines


def log_tail() -> None:
    """No client has a method for it: the route is called as their users call what has none."""
    from runloop_api_client import Stream  # noqa: PLC0415 - of this check alone
    from runloop_api_client.types.devboxes.devbox_logs_list_view import Log  # noqa: PLC0415

    client = Runloop()

    def follow(**query: str) -> Stream[Log]:
        path = f"/v1/devboxes/{devbox.id}/logs/tail"
        return client.get(path, cast_to=Log, options={"params": query}, stream=True, stream_cls=Stream[Log])

    with RunloopSDK().devbox.create(launch_parameters={"launch_commands": ["echo from-launch"]}) as devbox:
        lines = iter(follow())
        seen = [next(lines) for _ in range(3)]
        assert [line.message for line in seen] == [None, "from-launch", "exited with code 0"], seen
        time.sleep(11)  # a keep-alive comment passes by
        devbox.cmd.exec("echo from-exec")
        seen = [next(lines) for _ in range(3)]
        assert [(line.source, line.message) for line in seen[1:]] == [
            ("exec", "from-exec"),
            ("exec", "exited with code 0"),
        ]
    assert list(lines) == []
    again = list(follow(starting_after=seen[1].cursor))
    assert [line.message for line in again] == ["exited with code 0"], again
    raised(lambda: follow(starting_after="nonsense"), runloop_api_client.BadRequestError)


def named_shell() -> None:
    """Only in the client 1.x."""
    with RunloopSDK().devbox.create() as devbox:
        shell = devbox.shell("main")
        shell.exec("mkdir -p work && cd work && export WHO=me")
        assert shell.exec('echo "$(basename $PWD) $WHO"').stdout() == "work me\n"
        assert devbox.shell("other").exec("echo [$WHO]").stdout() == "[]\n"


def idempotency() -> None:
    client = Runloop()
    first, second = (client.devboxes.create(idempotency_key="the-same", name="once") for _ in range(2))
    assert first.id == second.id
    client.devboxes.shutdown(first.id)


def asyncio_client() -> None:
    async def main() -> None:
        async with AsyncRunloopSDK() as sdk:
            devboxes = await asyncio.gather(*(sdk.devbox.create() for _ in range(3)))
            results = await asyncio.gather(*(devbox.cmd.exec(PRINT_LINES) for devbox in devboxes))
            for result in results:
                assert await result.stdout() == LINES
            await devboxes[0].file.upload(path="up", file=b"abc")
            assert await devboxes[0].file.download(path="up") == b"abc"
            await asyncio.gather(*(devbox.shutdown() for devbox in devboxes))

    asyncio.run(main())


if __name__ == "__main__":
    globals()[sys.argv[1]]()
