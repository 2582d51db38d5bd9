"""A log that is followed: every line once and in order, from any cursor, with slow readers and across restarts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from corral.core import errors
from corral.devboxes import cursors, log_tail, logs
from corral.devboxes.log_tail import Which
from corral.devboxes.model import LogEntry
from corral.runtime.fake import FakeHost
from tests.integration.devboxes.stack import ACCOUNT, Stack

Lines = list[tuple[LogEntry, str]]


async def tail(
    stack: Stack, devbox_id: str, after: str | None = None, **which: str
) -> AsyncIterator[tuple[LogEntry, str]]:
    return await stack.tails.tail(ACCOUNT, devbox_id, Which(**which), after)


async def whole(stack: Stack, devbox_id: str, after: str | None = None, **which: str) -> Lines:
    """All lines of a log that ends."""
    async with asyncio.timeout(20):
        return [line async for line in await tail(stack, devbox_id, after, **which)]


async def some(lines: AsyncIterator[tuple[LogEntry, str]], count: int) -> Lines:
    """The next lines of a log that goes on."""
    async with asyncio.timeout(20):
        return [await anext(lines) for _ in range(count)]


def said(lines: Lines) -> list[str]:
    """Messages, and commands with a `$`."""
    return [entry.message if entry.message is not None else f"$ {entry.cmd}" for entry, _ in lines]


async def a_life(stack: Stack) -> str:
    """A devbox that has ended, with all sources in its log."""
    devbox_id = await stack.running(launch_commands=("echo setting up",), entrypoint="echo serving; sleep 100")
    await stack.files.write_text(ACCOUNT, devbox_id, "a.txt", "text")
    await stack.run(devbox_id, "echo hello; echo oops >&2; exit 2")
    await asyncio.gather(*(stack.run(devbox_id, f"seq {n} {n + 2}", shell_name="one") for n in (10, 20, 30)))
    with contextlib.suppress(errors.NotFound):
        await stack.files.read_text(ACCOUNT, devbox_id, "missing")
    await asyncio.sleep(0.01)  # what happens in the same millisecond has no order
    await stack.run(devbox_id, "printf 'a\\rb\\r\\nno end'")
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    await stack.until(lambda: not stack.followers.all_live())
    return devbox_id


async def test_a_followed_log_has_every_line_of_the_log_in_the_order_of_its_events(stack: Stack) -> None:
    devbox_id = await a_life(stack)
    lines = await whole(stack, devbox_id)
    kept = await stack.devboxes.logs(ACCOUNT, devbox_id)
    assert sorted(said(lines)) == sorted(said([(entry, "") for entry in kept]))
    messages = said(lines)
    assert messages[:4] == ["$ echo setting up", "setting up", "exited with code 0", "$ echo serving; sleep 100"]
    assert messages.index("write a.txt as user: 4 bytes") < messages.index("hello") < messages.index("10")
    at = messages.index("$ printf 'a\\rb\\r\\nno end'")
    assert messages[at : at + 5] == [messages[at], "a", "b", "no end", "exited with code 0"]
    assert [entry.timestamp_ms for entry, _ in lines[:4]] == sorted(entry.timestamp_ms for entry, _ in lines[:4])


async def test_a_followed_log_goes_on_after_any_of_its_lines(stack: Stack) -> None:
    devbox_id = await a_life(stack)
    lines = await whole(stack, devbox_id)
    for number, (_, cursor) in enumerate(lines):
        assert await whole(stack, devbox_id, cursor) == lines[number + 1 :], number


async def test_lines_come_as_they_are_written_and_the_log_ends_with_its_devbox(stack: Stack) -> None:
    devbox_id = await stack.running()
    lines = await tail(stack, devbox_id)
    execution = await stack.executions.start(
        ACCOUNT, devbox_id, "printf 'one\\nhalf'; read line; echo; echo $line", attach_stdin=True
    )
    assert said(await some(lines, 2))[1] == "one"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting := asyncio.ensure_future(anext(lines))), 0.3)
    await stack.executions.send_stdin(ACCOUNT, devbox_id, execution.id, b"typed\n")
    assert (await asyncio.wait_for(waiting, 5))[0].message == "half"
    assert said(await some(lines, 2)) == ["typed", "exited with code 0"]
    await stack.files.write_text(ACCOUNT, devbox_id, "a", "text")
    assert said(await some(lines, 1)) == ["write a as user: 4 bytes"]
    await stack.executions.start(ACCOUNT, devbox_id, "sleep 100")
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    async with asyncio.timeout(10):
        rest = [line async for line in lines]
    assert said(rest) == ["$ sleep 100", "the devbox ended before the command did"]


async def test_a_followed_log_goes_on_after_a_restart_of_the_server(stack: Stack) -> None:
    devbox_id = await stack.running()
    command = "for n in $(seq 1 400); do echo out $n; echo err $n >&2; sleep 0.002; done"
    execution = await stack.executions.start(ACCOUNT, devbox_id, command)
    first = await some(await tail(stack, devbox_id), 150)
    again = await stack.again()
    try:
        second = await some(await tail(again, devbox_id, first[-1][1]), 200)
        await again.completed(execution, within_s=30)
        await again.run(devbox_id, "echo later")
        await again.devboxes.shutdown(ACCOUNT, devbox_id)
        third = await whole(again, devbox_id, second[-1][1])
    finally:
        await again.stop()
        await stack.start()
    got = said([*first, *second, *third])
    for stream in ("out", "err"):
        assert [one for one in got if one.startswith(f"{stream} ")] == [f"{stream} {n}" for n in range(1, 401)]
    assert got[-3:] == ["$ echo later", "later", "exited with code 0"]
    assert got.count(f"$ {command}") == got.count("exited with code 0") - 1 == 1


async def test_a_burst_is_not_cut_for_who_follows_and_is_for_who_comes_later(stack: Stack) -> None:
    devbox_id = await stack.running()
    lines = await tail(stack, devbox_id)
    await stack.run(devbox_id, "seq 1 5000")
    assert said(await some(lines, 5002)) == ["$ seq 1 5000", *map(str, range(1, 5001)), "exited with code 0"]
    late = said(await some(await tail(stack, devbox_id), logs.LINES + 3))
    marker = "… earlier or later stdout is not shown"
    assert late == ["$ seq 1 5000", marker, *map(str, range(4001, 5001)), "exited with code 0"]


async def test_who_comes_late_gets_as_much_as_the_log_shows(stack: Stack) -> None:
    devbox_id = await stack.running(entrypoint="echo long ago; sleep 0.1; read line < /dev/zero")
    for number in range(14):
        await stack.run(devbox_id, f"seq {number}000 {number}999")
    lines = await tail(stack, devbox_id)
    shown = said(await some(lines, 10 * 1002))
    assert shown[0] == "$ seq 4000 4999"
    assert shown[-2:] == ["13999", "exited with code 0"]
    await stack.run(devbox_id, "echo new")
    assert said(await some(lines, 3)) == ["$ echo new", "new", "exited with code 0"]


async def test_a_line_without_end_comes_in_pieces(stack: Stack) -> None:
    devbox_id = await stack.running()
    lines = await tail(stack, devbox_id)
    await stack.run(devbox_id, "for n in $(seq 1 40000); do printf 'äöü€'; done")
    got = said(await some(lines, 1))
    while got[-1] != "exited with code 0":
        got += said(await some(lines, 1))
    assert len(got) > 4
    assert "".join(got[1:-1]) == "äöü€" * 40000


async def test_one_command_or_shell_is_followed_alone(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.files.write_text(ACCOUNT, devbox_id, "a", "text")
    one = await stack.run(devbox_id, "echo one", shell_name="main")
    two = await stack.executions.start(ACCOUNT, devbox_id, "sleep 0.5; echo two", shell_name="other")
    assert said(await whole(stack, devbox_id, execution_id=one.id)) == ["$ echo one", "one", "exited with code 0"]
    assert said(await whole(stack, devbox_id, execution_id=two.id))[1:] == ["two", "exited with code 0"]
    await stack.run(devbox_id, "echo three", shell_name="main")
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    main = said(await whole(stack, devbox_id, shell_name="main"))
    assert main == ["$ echo one", "one", "exited with code 0", "$ echo three", "three", "exited with code 0"]


async def test_a_reader_that_is_slow_holds_nothing_back_and_misses_nothing(stack: Stack) -> None:
    devbox_id = await stack.running()
    lines = await tail(stack, devbox_id)
    await some(lines, 0)
    execution = await stack.executions.start(ACCOUNT, devbox_id, "seq 1 100000")
    first = said(await some(lines, 10))
    assert (await stack.completed(execution)).exit_code == 0
    rest = said(await some(lines, 100_000 - 9 + 1))
    assert [*first, *rest] == ["$ seq 1 100000", *map(str, range(1, 100_001)), "exited with code 0"]


async def test_as_many_commands_are_followed_as_a_cursor_holds_and_the_others_later(stack: Stack) -> None:
    devbox_id = await stack.running()
    count = cursors.OPEN + 4
    lines = await tail(stack, devbox_id)
    begun = [await stack.executions.start(ACCOUNT, devbox_id, f"echo {n}; sleep 300") for n in range(count)]
    got = await some(lines, count + cursors.OPEN)
    assert len(got[-1][1]) < 12 * 1024
    assert sorted(one for one in said(got) if one[0] != "$") == sorted(str(n) for n in range(cursors.OPEN))
    for execution in begun[:4]:
        await stack.executions.kill(ACCOUNT, devbox_id, execution.id, group=True)
    late = said(await some(lines, 8))
    assert sorted(late) == sorted([*["exited with code 137"] * 4, *map(str, range(cursors.OPEN, count))])


async def test_what_is_no_cursor_is_refused(stack: Stack) -> None:
    devbox_id = await stack.running()
    for text in (
        "",
        "1",
        "1.2",
        "-1.0.0",
        "1.1.1~",
        "1.1.1~exe_a.1",
        "1.1.1~a/b.1.2",
        "\u0661.0.0",
        "9" * 20 + ".0.0",
    ):
        with pytest.raises(errors.Invalid, match="is not the cursor of a line"):
            await tail(stack, devbox_id, text)
    many = "1.1.1" + "".join(f"~exe_{n}.1.1" for n in range(cursors.OPEN + 1))
    with pytest.raises(errors.Invalid):
        await tail(stack, devbox_id, many)


async def test_a_cursor_of_another_devbox_shows_nothing_of_it(stack: Stack) -> None:
    devbox_id, other = await stack.running(), await stack.running()
    secret = await stack.run(other, "echo secret")
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    assert await whole(stack, devbox_id, f"999999.5.0~{secret.id}.0.0") == []
    assert await whole(stack, devbox_id, f"0.0.0~{secret.id}.0.0") == []
    for call in (
        stack.tails.tail("acc_other", other, Which()),
        stack.tails.tail(ACCOUNT, devbox_id, Which(execution_id=secret.id)),
    ):
        with pytest.raises(errors.NotFound):
            await call


async def test_a_log_whose_commands_are_never_recorded_as_ended_ends_all_the_same(
    stack: Stack, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    devbox_id = await stack.running()
    await stack.executions.start(ACCOUNT, devbox_id, "sleep 300")
    await stack.followers.close()  # nobody records any end now
    monkeypatch.setattr(log_tail, "LAST_WORDS_S", 0.5)
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    assert said(await whole(stack, devbox_id)) == ["$ sleep 300"]
