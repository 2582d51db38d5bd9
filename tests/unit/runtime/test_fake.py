"""What the fake offers to tests beside the contract, which tests/conformance holds it to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.runtime.contract import (
    BoxSpec,
    BoxStatus,
    DeathReason,
    ExecResult,
    ExecSpec,
    HostExhausted,
    Stream,
)
from corral.runtime.fake import FakeHost, FakeRuntime
from corral.runtime.fake.host import processes


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[FakeHost]:
    with FakeHost(tmp_path / "host") as host:
        yield host


@pytest.fixture
async def runtime(host: FakeHost) -> AsyncIterator[FakeRuntime]:
    runtime = FakeRuntime(host)
    await runtime.start()
    yield runtime
    await runtime.close()


def box_spec(name: str = "dbx_1") -> BoxSpec:
    return BoxSpec(name, (), "host")


async def result_of(runtime: FakeRuntime, exec_id: str) -> ExecResult | None:
    last = None
    async for progress in runtime.follow("dbx_1", exec_id):
        last = progress.result
    return last


async def test_a_planned_failure_is_raised_as_often_as_planned(host: FakeHost, runtime: FakeRuntime) -> None:
    host.fail("create", HostExhausted("cannot create box: full"), times=2)
    for _ in range(2):
        with pytest.raises(HostExhausted):
            await runtime.create(box_spec())
    assert (await runtime.create(box_spec())).status is BoxStatus.RUNNING


async def test_a_held_call_waits(host: FakeHost, runtime: FakeRuntime) -> None:
    with host.held("create"):
        task = asyncio.ensure_future(runtime.create(box_spec()))
        await asyncio.sleep(0.03)
        assert not task.done()
        assert await runtime.boxes() == []
    assert (await task).status is BoxStatus.RUNNING


@pytest.mark.parametrize("reason", DeathReason)
async def test_a_death_has_the_reason_that_the_test_gives(
    host: FakeHost, runtime: FakeRuntime, reason: DeathReason
) -> None:
    await runtime.create(box_spec())
    host.kill_box("dbx_1", reason)
    box = await anext(runtime.deaths())
    assert (box.id, box.status, box.reason) == ("dbx_1", BoxStatus.DEAD, reason)


async def test_daemons_die_with_their_box(host: FakeHost, runtime: FakeRuntime) -> None:
    await runtime.create(box_spec())
    await runtime.execute("dbx_1", ExecSpec("e1", ("setsid", "-f", "sleep", "300")))
    assert await result_of(runtime, "e1") == ExecResult(0)
    token = host.boxes["dbx_1"].token
    assert len(processes(token)) == 1
    await runtime.destroy("dbx_1")
    assert processes(token) == []


async def test_closing_the_host_leaves_nothing(tmp_path: Path) -> None:
    host = FakeHost()
    runtime = FakeRuntime(host)
    await runtime.start()
    await runtime.create(box_spec())
    await runtime.execute("dbx_1", ExecSpec("e1", ("sleep", "300")))
    token, root = host.boxes["dbx_1"].token, host.root
    assert processes(token)
    host.close()
    host.close()
    assert processes(token) == []
    assert not root.exists()


async def test_no_descriptor_is_left(host: FakeHost, runtime: FakeRuntime) -> None:
    await runtime.create(box_spec())

    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def one(number: int) -> None:
        await runtime.execute("dbx_1", ExecSpec(f"e{number}", ("true",), stdin=bool(number % 2)))
        await result_of(runtime, f"e{number}")

    await one(0)
    before = opened()
    for number in range(1, 20):
        await one(number)
    # The guest thread closes a pipe when it sees its end, a moment after the result.
    for _ in range(100):
        if opened() == before:
            break
        await asyncio.sleep(0.01)
    assert opened() == before


def test_commands_go_on_when_the_event_loop_ends(tmp_path: Path) -> None:
    """The fake's host outlives a server that is gone without a word, as a real host does."""

    async def first(host: FakeHost) -> None:
        runtime = FakeRuntime(host)
        await runtime.start()
        await runtime.create(box_spec())
        await runtime.execute("dbx_1", ExecSpec("e1", ("bash", "-c", "echo one; sleep 0.2; echo two; exit 3")))

    async def second(host: FakeHost) -> tuple[ExecResult | None, bytes]:
        runtime = FakeRuntime(host)
        await runtime.start()
        result = await result_of(runtime, "e1")
        return result, runtime.read_output("dbx_1", "e1", Stream.STDOUT, 0, 100)

    with FakeHost(tmp_path) as host:
        asyncio.run(first(host))
        assert asyncio.run(second(host)) == (ExecResult(3), b"one\ntwo\n")


async def test_a_full_disk_cuts_the_output_and_not_the_command(runtime: FakeRuntime, host: FakeHost) -> None:
    await runtime.create(box_spec())
    await runtime.execute("dbx_1", ExecSpec("e1", ("bash", "-c", "read; echo text; exit 4"), stdin=True))
    execution = host.boxes["dbx_1"].executions["e1"]
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, execution._sinks[Stream.STDOUT].fd)
    os.close(full)
    await runtime.write_stdin("dbx_1", "e1", b"\n")
    assert await result_of(runtime, "e1") == ExecResult(4, stdout_cut=True)


async def test_the_servers_children_are_not_the_boxs(runtime: FakeRuntime, host: FakeHost) -> None:
    await runtime.create(box_spec())
    with subprocess.Popen(["sleep", "300"]) as other:
        await runtime.destroy("dbx_1")
        assert other.poll() is None
        other.send_signal(signal.SIGKILL)


async def test_a_temporary_file_that_a_command_is_given_is_its_boxs(runtime: FakeRuntime) -> None:
    for name in ("dbx_1", "dbx_2"):
        await runtime.create(box_spec(name))
        argv = ("bash", "-c", 'cat "$1"; echo kept > "$1"', "bash", "/tmp/of-the-box")
        await runtime.execute(name, ExecSpec("e1", argv))
        async for _ in runtime.follow(name, "e1"):
            pass
        assert runtime.read_output(name, "e1", Stream.STDOUT, 0, 100) == b""
        reader = await runtime.read_file(name, "/tmp/of-the-box")
        assert b"".join([chunk async for chunk in reader]) == b"kept\n"
