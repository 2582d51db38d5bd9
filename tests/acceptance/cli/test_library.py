"""The client library against a real server, in both of its forms."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral_sdk import AsyncCorral, Corral, errors
from corral_sdk.models import TerminalSize
from tests.harness.server import Server


@pytest.fixture
def corral(server: Server) -> Iterator[Corral]:
    with Corral(server.url, server.key) as client:
        yield client


def test_a_devbox_is_made_used_and_ended(corral: Corral, tmp_path: Path) -> None:
    devbox = corral.devboxes.create(name="library", metadata={"made": "by a test"}, files={"given": "text\n"})
    assert (devbox.status, devbox.name) == ("running", "library")
    result = devbox.exec("cat given; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code, result.ok) == ("text\n", "err\n", 3, False)
    content = os.urandom(1_000_000)
    devbox.files.write("~/data", content)
    assert devbox.files.read("data") == content
    assert devbox.kind_of("data") == "file"
    assert devbox.kind_of("~") == "folder"
    assert devbox.kind_of("none") is None
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("in a folder")
    devbox.upload(tmp_path / "folder", "there")
    devbox.download("there", tmp_path / "back")
    assert (tmp_path / "back" / "file").read_text() == "in a folder"
    assert [info.id for info in corral.devboxes.list(name="library", status="running")] == [devbox.id]
    assert next(iter(devbox.executions())).devbox_id == devbox.id
    devbox.keep_alive()
    assert devbox.shutdown().status == "shutdown"
    with pytest.raises(errors.WrongState):
        devbox.exec("true")
    with pytest.raises(errors.Ended):
        devbox.wait()


def test_more_output_than_a_view_holds_is_whole(corral: Corral, shared_box: str) -> None:
    result = corral.devboxes.get(shared_box).exec("seq 5000; seq 5000 >&2")
    expected = "".join(f"{number}\n" for number in range(1, 5001))
    assert (result.stdout, result.stderr) == (expected, expected)


def test_input_is_written_and_ended(corral: Corral, shared_box: str) -> None:
    execution = corral.devboxes.get(shared_box).start("sort", stdin=True)
    execution.send_stdin("b\n")
    execution.send_stdin("a\n")
    execution.close_stdin()
    assert execution.result(timeout_s=10).stdout == "a\nb\n"


def test_a_command_is_interrupted_and_killed(corral: Corral, shared_box: str) -> None:
    devbox = corral.devboxes.get(shared_box)
    interrupted = devbox.start("trap 'exit 42' INT; echo ready; while true; do sleep 0.05; done", stdin=True)
    assert next(iter(interrupted.output())).text == "ready\n"
    interrupted.interrupt()
    assert interrupted.wait(10).exit_code == 42
    killed = devbox.start("sleep 300 & sleep 300")
    killed.kill()
    assert killed.wait(10).exit_code == 137


def test_a_wait_ends_in_time_and_the_command_goes_on(corral: Corral, shared_box: str) -> None:
    devbox = corral.devboxes.get(shared_box)
    started = time.monotonic()
    with pytest.raises(errors.TimedOut):
        devbox.exec("sleep 4; echo done > went-on", timeout_s=1.5)
    assert time.monotonic() - started < 4
    assert devbox.exec("while ! [ -e went-on ]; do sleep 0.1; done; cat went-on; rm went-on").stdout == "done\n"


def test_a_terminal_is_read_and_written(corral: Corral, shared_box: str) -> None:
    with corral.devboxes.get(shared_box).terminal(size=TerminalSize(33, 99)) as terminal:
        terminal.write(b"stty size; exit 8\n")
        seen = b""
        while data := terminal.read():
            seen += data
        assert b"33 99" in seen
        assert terminal.exit_code() == 8


async def test_asyncio_runs_many_commands_at_once(server: Server) -> None:
    async with AsyncCorral(server.url, server.key) as corral:
        boxes = await asyncio.gather(*[corral.devboxes.create() for _ in range(3)])
        commands = [box.exec(f"sleep 0.3; echo {n}") for n, box in enumerate(boxes * 4)]
        results = await asyncio.gather(*commands)
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(12)]
        await asyncio.gather(*[box.shutdown() for box in boxes])


async def test_every_wait_ends_when_its_devbox_runs(server: Server) -> None:
    async with AsyncCorral(server.url, server.key) as corral:

        async def made() -> float:
            started = time.monotonic()
            devbox = await corral.devboxes.create()
            took = time.monotonic() - started
            await devbox.shutdown()
            return took

        times = [took for _ in range(5) for took in await asyncio.gather(*[made() for _ in range(8)])]
        assert max(times) < 20  # a wake-up that is missed shows as the 25 s of one hold


async def test_asyncio_streams_both_outputs_as_they_come(server: Server, shared_box: str) -> None:
    async with AsyncCorral(server.url, server.key) as corral:
        devbox = await corral.devboxes.get(shared_box)
        output = devbox.exec_stream("echo a; sleep 1; echo b >&2; exit 5")
        seen = [(chunk.stream, chunk.text, time.monotonic()) async for chunk in output]
        assert [(stream, text) for stream, text, _ in seen] == [("stdout", "a\n"), ("stderr", "b\n")]
        assert seen[1][2] - seen[0][2] > 0.5
        assert output.exit_code == 5


async def test_asyncio_moves_files_and_talks_to_terminals(server: Server, shared_box: str, tmp_path: Path) -> None:
    async with AsyncCorral(server.url, server.key) as corral:
        devbox = await corral.devboxes.find("shared")
        source = tmp_path / "source"
        source.write_bytes(os.urandom(2_000_000))
        await devbox.upload(source, "asyncio/source")
        await devbox.download("asyncio", tmp_path / "target")
        assert (tmp_path / "target" / "source").read_bytes() == source.read_bytes()
        async with devbox.terminal("read line; echo got-$line; exit 2") as terminal:
            await terminal.write(b"typed\n")
            seen = b""
            while data := await terminal.read():
                seen += data
            assert b"got-typed" in seen
            assert await terminal.exit_code() == 2
