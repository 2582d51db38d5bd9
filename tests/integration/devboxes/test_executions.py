from __future__ import annotations

import asyncio
import time
from signal import SIGTERM

import pytest
import sqlalchemy as sa

from corral.core import errors
from corral.devboxes.model import ExecutionStatus, Observed
from corral.runtime.contract import BadCommand, BoxUnresponsive, HostExhausted, Stream, TerminalSize
from corral.runtime.fake import FakeHost
from tests.integration.devboxes.stack import ACCOUNT, COMPLETED, Stack


async def collect(stack: Stack, execution_id: str, devbox_id: str, offset: int = 0) -> tuple[bytes, list[int]]:
    execution = await stack.executions.get(ACCOUNT, devbox_id, execution_id)
    data, offsets = b"", []
    async for chunk, after in stack.executions.stream(execution, Stream.STDOUT, offset):
        data += chunk
        offsets.append(after)
    return data, offsets


async def test_a_command_leaves_its_output_and_exit_code(stack: Stack) -> None:
    execution = await stack.run(await stack.running(), "echo out; echo err >&2; exit 3")
    assert (execution.status, execution.exit_code, execution.lost) == (ExecutionStatus.COMPLETED, 3, False)
    assert stack.executions.tail(execution, Stream.STDOUT, 10) == ("out\n", False)
    assert stack.executions.tail(execution, Stream.STDERR, 10) == ("err\n", False)
    assert execution.ended_at_ms is not None
    assert execution.ended_at_ms >= execution.created_at_ms


async def test_an_execution_takes_two_commits(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.run(devbox_id, "true")
    kinds = [kind for kind in await stack.events(devbox_id) if kind.startswith("execution.")]
    assert kinds == ["execution.running", "execution.completed"]


async def test_the_end_is_committed_before_anybody_hears_of_it(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "sleep 0.1")
    await stack.completed(execution)
    status = await stack.store.read(
        lambda connection: connection.execute(
            sa.text("SELECT status FROM executions WHERE id = :id"), {"id": execution.id}
        ).scalar()
    )
    assert status == "completed"


async def test_a_command_needs_a_running_devbox(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    with pytest.raises(errors.WrongState, match=r"it is shutdown \(api_shutdown\), not running"):
        await stack.executions.start(ACCOUNT, devbox_id, "true")


async def test_the_same_command_id_starts_one_command(stack: Stack) -> None:
    devbox_id = await stack.running()
    command = "echo x >> count; sleep 0.1"
    many = await asyncio.gather(
        *(stack.executions.start(ACCOUNT, devbox_id, command, command_id="id-1") for _ in range(5))
    )
    assert len({execution.id for execution in many}) == 1
    await stack.completed(many[0])
    again = await stack.executions.start(ACCOUNT, devbox_id, command, command_id="id-1")
    assert (again.id, again.status) == (many[0].id, ExecutionStatus.COMPLETED)
    assert await stack.files.read_text(ACCOUNT, devbox_id, "count") == "x\n"


async def test_a_command_id_of_another_command_is_a_conflict(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.run(devbox_id, "true", command_id="id-1")
    with pytest.raises(errors.Conflict, match="command id id-1 belongs to another command"):
        await stack.executions.start(ACCOUNT, devbox_id, "false", command_id="id-1")
    assert (await stack.run(await stack.running(), "false", command_id="id-1")).exit_code == 1


async def test_a_caller_that_goes_away_does_not_take_the_command_back(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    with host.held("execute"):
        task = asyncio.ensure_future(stack.executions.start(ACCOUNT, devbox_id, "echo done > mark", command_id="1"))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    execution = await stack.executions.start(ACCOUNT, devbox_id, "echo done > mark", command_id="1")
    assert (await stack.completed(execution)).exit_code == 0
    assert await stack.files.read_text(ACCOUNT, devbox_id, "mark") == "done\n"


@pytest.mark.parametrize(
    ("problem", "error", "exit_code", "lost"),
    [
        (BadCommand("cannot start x: no such user"), errors.Invalid, 127, False),
        (HostExhausted("cannot start x: no more tasks"), errors.Exhausted, 126, False),
        (BoxUnresponsive("cannot start x: no answer"), errors.Unavailable, 137, True),
    ],
)
async def test_a_command_that_cannot_start_is_told_and_recorded(
    stack: Stack,
    host: FakeHost,
    problem: Exception,
    error: type[errors.CorralError],
    exit_code: int,
    lost: bool,
) -> None:
    devbox_id = await stack.running()
    host.fail("execute", problem, times=3)
    with pytest.raises(error, match="cannot start x"):
        await stack.executions.start(ACCOUNT, devbox_id, "true")
    (execution,) = (await stack.executions.list(ACCOUNT, devbox_id)).items
    assert (execution.status, execution.exit_code, execution.lost) == (ExecutionStatus.COMPLETED, exit_code, lost)
    assert execution.message.startswith("cannot start x")


async def test_a_guest_that_answers_late_starts_the_command_once(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    host.fail("execute", BoxUnresponsive("cannot start x: no answer"))
    execution = await stack.run(devbox_id, "echo x >> count")
    assert execution.exit_code == 0
    assert await stack.files.read_text(ACCOUNT, devbox_id, "count") == "x\n"


# -- waiting and streaming


async def test_a_wait_ends_with_the_command_not_later(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "sleep 0.3")
    began = time.monotonic()
    done = await stack.executions.wait(ACCOUNT, devbox_id, execution.id, COMPLETED, 10)
    assert done.ended_at_ms is not None
    assert 0.15 < time.monotonic() - began < 1


async def test_a_wait_that_is_not_fulfilled_times_out(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "sleep 10")
    with pytest.raises(errors.TimedOut, match="it is running after 0.05 s"):
        await stack.executions.wait(ACCOUNT, devbox_id, execution.id, COMPLETED, 0.05)
    await stack.executions.kill(ACCOUNT, devbox_id, execution.id)
    with pytest.raises(errors.TimedOut, match="it is completed"):
        await stack.executions.wait(ACCOUNT, devbox_id, execution.id, frozenset({ExecutionStatus.RUNNING}), 0.05)


async def test_output_is_streamed_while_the_command_runs_and_ends_with_it(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(
        ACCOUNT, devbox_id, "for n in 1 2 3 4 5; do echo line $n; sleep 0.1; done"
    )
    began, at = time.monotonic(), []
    async for _chunk, _after in stack.executions.stream(execution, Stream.STDOUT, 0):
        at.append(time.monotonic() - began)
    assert len(at) >= 4
    assert at[0] < 0.3
    assert time.monotonic() - began < 1.5


async def test_a_stream_can_be_taken_up_at_any_offset_it_gave(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.run(devbox_id, "seq 1 2000")
    whole, offsets = await collect(stack, execution.id, devbox_id)
    assert whole == "".join(f"{n}\n" for n in range(1, 2001)).encode()
    assert offsets[-1] == len(whole)
    rest, _ = await collect(stack, execution.id, devbox_id, offset=1000)
    assert rest == whole[1000:]
    assert await collect(stack, execution.id, devbox_id, offset=len(whole)) == (b"", [])


async def test_chunks_are_bounded_and_do_not_cut_characters(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(
        ACCOUNT,
        devbox_id,
        "printf 'x'; for n in $(seq 40); do printf '€%.0s' $(seq 1000); done;"
        " printf '\\xe2'; sleep 0.3; printf '\\x82\\xac'",
    )
    data = b""
    async for chunk, after in stack.executions.stream(execution, Stream.STDOUT, 0):
        assert len(chunk) <= 65536
        chunk.decode()
        data += chunk
        assert after == len(data)
    assert data.decode() == "x" + "€" * 40_001


async def test_bytes_that_are_no_characters_are_streamed_as_they_are(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.run(devbox_id, "printf 'a\\xff\\xe2\\x82'")
    assert (await collect(stack, execution.id, devbox_id))[0] == b"a\xff\xe2\x82"
    assert stack.stdout(execution) == "a\ufffd\ufffd"


async def test_output_over_the_limit_is_dropped_and_said_to_be(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.run(devbox_id, "head -c 2000000 /dev/zero | tr '\\0' x; echo err >&2")
    assert (execution.stdout_cut, execution.stderr_cut) == (True, False)
    assert len((await collect(stack, execution.id, devbox_id))[0]) == 1024 * 1024
    assert stack.executions.tail(execution, Stream.STDOUT, 1)[1] is True


# -- acting on a command


async def test_kill_ends_the_command_with_its_signal(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "exec sleep 100")
    killed = await stack.executions.kill(ACCOUNT, devbox_id, execution.id)
    assert (killed.status, killed.exit_code) == (ExecutionStatus.COMPLETED, 137)
    assert await stack.executions.kill(ACCOUNT, devbox_id, execution.id) == killed


async def test_a_signal_reaches_the_whole_group_when_asked(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(
        ACCOUNT, devbox_id, "trap 'echo got it; exit 5' TERM; sleep 100 & echo up; wait"
    )
    await stack.until(lambda: stack.stdout(execution) == "up\n")
    await stack.executions.kill(ACCOUNT, devbox_id, execution.id, group=True, signal=SIGTERM)
    done = await stack.completed(execution)
    assert (done.exit_code, stack.stdout(done)) == (5, "up\ngot it\n")


async def test_input_is_written_and_ended(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "cat; echo end", attach_stdin=True)
    for text in (b"one\n", b"two\n"):
        await stack.executions.send_stdin(ACCOUNT, devbox_id, execution.id, text)
    await stack.executions.send_stdin(ACCOUNT, devbox_id, execution.id, b"", eof=True)
    assert stack.stdout(await stack.completed(execution)) == "one\ntwo\nend\n"
    with pytest.raises(errors.WrongState, match="it is completed"):
        await stack.executions.send_stdin(ACCOUNT, devbox_id, execution.id, b"late")


async def test_an_interrupt_ends_a_command_as_ctrl_c_does(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "sleep 100", attach_stdin=True)
    await stack.executions.send_stdin(ACCOUNT, devbox_id, execution.id, b"", interrupt=True)
    assert (await stack.completed(execution)).exit_code == 130


async def test_a_command_without_input_takes_none(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "sleep 100")
    with pytest.raises(errors.WrongState, match="started without attach_stdin"):
        await stack.executions.send_stdin(ACCOUNT, devbox_id, execution.id, b"x")


async def test_a_terminal_is_attached_and_resized(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "read line; stty size", terminal=TerminalSize(24, 80))
    await stack.executions.resize(ACCOUNT, devbox_id, execution.id, TerminalSize(rows=33, cols=99))
    stream = await stack.executions.attach(ACCOUNT, devbox_id, execution.id)
    await stream.write(b"\n")
    seen = b""
    while data := await stream.read():
        seen += data
    await stream.close()
    assert b"33 99" in seen
    with pytest.raises(errors.WrongState):
        await stack.executions.attach(ACCOUNT, devbox_id, execution.id)


# -- named shells


async def test_a_named_shell_keeps_its_directory_and_environment(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.run(devbox_id, "mkdir -p d; cd d; export A=1; exit 3", shell_name="main")
    kept = await stack.run(devbox_id, 'basename "$PWD"; echo $A', shell_name="main")
    other = await stack.run(devbox_id, 'basename "$PWD"; echo $A', shell_name="other")
    assert stack.stdout(kept) == "d\n1\n"
    assert stack.stdout(other) == "user\n\n"
    assert kept.shell_name == "main"


async def test_commands_of_one_shell_run_one_after_another(stack: Stack) -> None:
    devbox_id = await stack.running()
    names = ["main"] * 4 + ["other"]
    started = [
        await stack.executions.start(
            ACCOUNT, devbox_id, f"echo begin {n} >> {name}; sleep 0.1; echo end {n} >> {name}", shell_name=name
        )
        for n, name in enumerate(names)
    ]
    assert [one.status.value for one in started] == ["running", "queued", "queued", "queued", "running"]
    for one in started:
        await stack.completed(one)
    text = await stack.files.read_text(ACCOUNT, devbox_id, "main")
    assert text.split("\n")[:-1] == [f"{word} {n}" for n in range(4) for word in ("begin", "end")]


async def test_a_queued_command_can_be_killed_and_the_next_one_runs(stack: Stack) -> None:
    devbox_id = await stack.running()
    first, second, third = [
        await stack.executions.start(ACCOUNT, devbox_id, command, shell_name="main")
        for command in ("sleep 0.3", "echo second > second", "echo third")
    ]
    killed = await stack.executions.kill(ACCOUNT, devbox_id, second.id)
    assert (killed.status, killed.exit_code) == (ExecutionStatus.COMPLETED, 137)
    assert stack.stdout(await stack.completed(third)) == "third\n"
    assert (await stack.completed(first)).exit_code == 0
    with pytest.raises(errors.NotFound):
        await stack.files.read_text(ACCOUNT, devbox_id, "second")


async def test_a_command_that_cannot_start_does_not_hold_its_shell_up(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    first = await stack.executions.start(ACCOUNT, devbox_id, "sleep 0.2", shell_name="main")
    second, third = [await stack.executions.start(ACCOUNT, devbox_id, f"echo {n}", shell_name="main") for n in (2, 3)]
    host.fail("execute", BadCommand("cannot start x: no such user"))
    assert (await stack.completed(second)).exit_code == 127
    assert stack.stdout(await stack.completed(third)) == "3\n"
    assert (await stack.completed(first)).exit_code == 0


# -- the end of the box


async def test_commands_of_a_box_that_dies_are_lost_and_keep_their_output(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    running = await stack.executions.start(ACCOUNT, devbox_id, "echo before; sleep 100", shell_name="main")
    queued = await stack.executions.start(ACCOUNT, devbox_id, "echo never", shell_name="main")
    await stack.until(lambda: stack.stdout(running) == "before\n")
    host.kill_box(devbox_id)
    for one in (running, queued):
        done = await stack.completed(one)
        assert (done.exit_code, done.lost) == (137, True)
    assert stack.stdout(running) == "before\n"
    assert stack.stdout(queued) == ""
    assert (await stack.ends(devbox_id)).observed is Observed.FAILURE


async def test_executions_are_listed_newest_first_in_pages(stack: Stack) -> None:
    devbox_id = await stack.running()
    ids = [(await stack.run(devbox_id, f"echo {n}")).id for n in range(5)]
    first = await stack.executions.list(ACCOUNT, devbox_id, limit=2)
    assert ([one.id for one in first.items], first.has_more, first.total) == (ids[:2:-1], True, 5)
    rest = await stack.executions.list(ACCOUNT, devbox_id, limit=10, starting_after=ids[3], count=False)
    assert ([one.id for one in rest.items], rest.has_more, rest.total) == (ids[2::-1], False, None)
    running = await stack.executions.list(ACCOUNT, devbox_id, status=ExecutionStatus.RUNNING)
    assert running.items == ()
    with pytest.raises(errors.Invalid, match="no execution exe_x to start after"):
        await stack.executions.list(ACCOUNT, devbox_id, starting_after="exe_x")
