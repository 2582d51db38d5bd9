"""Output of commands: both streams as they come, taken up again where a connection was lost, whole at the end."""

from __future__ import annotations

import contextlib
import json
import threading

import pytest

from corral_sdk import AsyncCorral, Corral, errors
from corral_sdk._async import concurrency as tasks
from corral_sdk._sync import concurrency as threads
from corral_sdk.models import Chunk
from tests.unit.sdk.scripted import Answer, Script, answer, devbox, events, execution, problem

PATH = "/v1/devboxes/dbx_1/executions/exec_1"


def start(script: Script) -> None:
    script.on("/v1/devboxes/dbx_1", answer(devbox()))
    script.on("/v1/devboxes/dbx_1/execute_async", answer(execution("running")))
    script.on(f"{PATH}/wait_for_status", answer(execution(exit_status=3)))
    script.on(f"{PATH}/stream_stderr_updates", events(("oops\n", 5)))


def breaking(*chunks: tuple[str, int]) -> Answer:
    whole = events(*chunks)
    return Answer(whole.status, whole.body, whole.headers, breaks=True)


GIVEN_UP = events(("b\n", 4), then='event: error\ndata: {"code": 408, "kind": "timed-out", "message": "stopping"}\n\n')


@pytest.mark.parametrize("hiccup", [breaking(("b\n", 4)), GIVEN_UP], ids=["broken", "server-stops"])
def test_a_stream_goes_on_at_the_offset_where_it_was_lost(script: Script, corral: Corral, hiccup: Answer) -> None:
    start(script)
    script.on(f"{PATH}/stream_stdout_updates", breaking(("a\n", 2)), hiccup, events(("c\n", 6)))
    output = corral.devboxes.get("dbx_1").exec_stream("make")
    chunks = list(output)
    assert "".join(chunk.text for chunk in chunks if chunk.stream == "stdout") == "a\nb\nc\n"
    assert Chunk("stderr", "oops\n", 5) in chunks
    assert output.exit_code == 3
    asked = [ask.path.partition("?")[2] for ask in script.asked if "stream_stdout" in ask.path]
    assert asked == ["offset=0", "offset=2", "offset=4"]


async def test_the_asyncio_client_goes_on_in_the_same_way(script: Script, async_corral: AsyncCorral) -> None:
    start(script)
    script.on(f"{PATH}/stream_stdout_updates", breaking(("a\n", 2)), GIVEN_UP, events(("c\n", 6)))
    output = (await async_corral.devboxes.get("dbx_1")).exec_stream("make")
    text = "".join([chunk.text async for chunk in output if chunk.stream == "stdout"])
    assert text == "a\nb\nc\n"
    assert output.exit_code == 3


def test_a_stream_that_does_not_come_back_is_an_error(script: Script, corral: Corral) -> None:
    start(script)
    script.on(f"{PATH}/stream_stdout_updates", problem(404, "not-found", "cannot stream output: no such execution"))
    with pytest.raises(errors.NotFound, match="no such execution"):
        list(corral.devboxes.get("dbx_1").exec_stream("make"))


@pytest.mark.parametrize("data", ["[]", "{", '{"output": 1}', '{"offset": 1}', '{"output": "a", "offset": null}'])
def test_a_stream_that_makes_no_sense_is_an_error(script: Script, corral: Corral, data: str) -> None:
    start(script)
    script.on(f"{PATH}/stream_stdout_updates", events(then=f"data: {data}\n\n"))
    with pytest.raises(errors.BadAnswer):
        list(corral.devboxes.get("dbx_1").exec_stream("make"))


def test_leaving_a_stream_early_ends_its_threads(script: Script, corral: Corral) -> None:
    start(script)
    script.on(f"{PATH}/stream_stdout_updates", events(*[(f"{number}\n", number) for number in range(1000)]))
    before = threading.active_count()
    with contextlib.closing(corral.devboxes.get("dbx_1").start("make").output()) as chunks:  # type: ignore[type-var]
        next(chunks)
    # The scripted server has a thread for each connection, which may outlive this by a moment; ours are joined.
    ours = [thread for thread in threading.enumerate() if "pump" in thread.name]
    assert ours == []
    assert threading.active_count() <= before + 4


def test_output_that_was_cut_in_the_view_is_read_whole(script: Script, corral: Corral) -> None:
    script.on("/v1/devboxes/dbx_1", answer(devbox()))
    script.on("/v1/devboxes/dbx_1/execute", answer(execution(stdout="tail\n", stdout_truncated=True, stderr="err")))
    script.on(f"{PATH}/stream_stdout_updates", events(("head\n", 5), ("tail\n", 10)))
    result = corral.devboxes.get("dbx_1").exec("seq 2000")
    assert (result.stdout, result.stderr, result.exit_code, result.ok) == ("head\ntail\n", "err", 0, True)


def test_exec_goes_on_waiting_when_the_command_takes_long(script: Script, corral: Corral) -> None:
    script.on("/v1/devboxes/dbx_1", answer(devbox()))
    script.on("/v1/devboxes/dbx_1/execute", answer(execution("running")))
    late = problem(408, "timed-out", "x", x_should_retry="true")
    script.on(f"{PATH}/wait_for_status", late, late, answer(execution(exit_status=137, lost=True)))
    assert corral.devboxes.get("dbx_1").exec("sleep 60").exit_code == 137


def test_exec_says_when_its_time_is_over(script: Script, corral: Corral) -> None:
    script.on("/v1/devboxes/dbx_1", answer(devbox()))
    script.on("/v1/devboxes/dbx_1/execute", answer(execution("running")))
    script.on(f"{PATH}/wait_for_status", problem(408, "timed-out", "x"))
    with pytest.raises(errors.TimedOut, match="exec_1: it still runs"):
        corral.devboxes.get("dbx_1").exec("sleep 60", timeout_s=0.5)


def test_exec_asks_with_one_command_id(script: Script, corral: Corral) -> None:
    script.on("/v1/devboxes/dbx_1", answer(devbox()))
    script.on("/v1/devboxes/dbx_1/execute", Answer(silent=True), answer(execution()))
    corral.devboxes.get("dbx_1").exec("true", shell="work")
    bodies = [json.loads(ask.body) for ask in script.asked if ask.path.endswith("/execute")]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]
    assert bodies[0]["shell_name"] == "work"


class Numbers:
    """A source for both clients."""

    def __init__(self, count: int, fails: bool = False) -> None:
        self.count = count
        self.fails = fails
        self.stopped = False

    def numbers(self) -> range:
        if self.fails:
            raise errors.Internal("this source fails")
        return range(self.count)


class ThreadNumbers(Numbers):
    def read(self):  # type: ignore[no-untyped-def]
        yield from self.numbers()

    def stop(self) -> None:
        self.stopped = True


class TaskNumbers(Numbers):
    async def read(self):  # type: ignore[no-untyped-def]
        for number in self.numbers():
            yield number

    async def stop(self) -> None:
        self.stopped = True


def test_merging_by_threads_gives_everything_in_the_order_of_each_source() -> None:
    assert sorted(threads.merge(ThreadNumbers(500), ThreadNumbers(500))) == sorted([*range(500), *range(500)])
    assert list(threads.merge(ThreadNumbers(500))) == list(range(500))
    assert list(threads.merge()) == []


async def test_merging_by_tasks_gives_everything_in_the_order_of_each_source() -> None:
    assert sorted([n async for n in tasks.merge(TaskNumbers(500), TaskNumbers(500))]) == sorted([*range(500)] * 2)
    assert [n async for n in tasks.merge(TaskNumbers(500))] == list(range(500))


def test_an_error_of_one_source_stops_the_others_by_threads() -> None:
    endless = ThreadNumbers(10**9)
    with pytest.raises(errors.Internal, match="this source fails"):
        list(threads.merge(endless, ThreadNumbers(0, fails=True)))
    assert endless.stopped


async def test_an_error_of_one_source_stops_the_others_by_tasks() -> None:
    with pytest.raises(errors.Internal, match="this source fails"):
        async for _ in tasks.merge(TaskNumbers(10**9), TaskNumbers(0, fails=True)):
            pass
