"""Promises about boxes that end without `destroy`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from corral.runtime.conformance.checks.boxes import calls_on
from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal, raises, read_to_end
from corral.runtime.contract import Box, BoxGone, BoxStatus, DeathReason, ExecResult, TerminalSize

GROUP = Group()


@contextlib.asynccontextmanager
async def _listening(bench: Bench) -> AsyncIterator[list[Box]]:
    """A list that grows by the deaths that the runtime reports."""
    heard: list[Box] = []

    async def listen() -> None:
        deaths = bench.runtime.deaths()
        while True:
            heard.append(await anext(deaths))

    task = asyncio.ensure_future(listen())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.wait([task])


@GROUP.check
async def a_death_is_reported(bench: Bench) -> None:
    """A box that is killed from outside is reported once, as DEAD and KILLED; `destroy` then removes it."""
    box, other = await bench.box(), await bench.box()
    async with _listening(bench) as heard:
        await bench.kill(box)
        await bench.until(lambda: [dead for dead in heard if dead.id == box], "the death is reported")
        await bench.clock.sleep(0.1)
    mine = [dead for dead in heard if dead.id in (box, other)]
    expected = Box(box, BoxStatus.DEAD, pid=0, reason=DeathReason.KILLED)
    expect_equal(mine, [expected], "what was reported")
    expect_equal(await bench.runtime.inspect(box), expected, "inspect")
    expect(expected in await bench.runtime.boxes(), "boxes() lists the dead box")
    expect_equal((await bench.sh(other, "echo alive")).text, "alive", "the other box")
    await bench.runtime.destroy(box)
    with raises(BoxGone, "inspect after destroy"):
        await bench.runtime.inspect(box)


@GROUP.check
async def a_destroy_is_no_death(bench: Bench) -> None:
    """A box that is destroyed is not reported as a death."""
    box = await bench.box()
    async with _listening(bench) as heard:
        await bench.runtime.destroy(box)
        await bench.clock.sleep(0.3)
    expect_equal([dead for dead in heard if dead.id == box], [], "reported deaths")


@GROUP.check
async def a_dead_box_is_gone(bench: Bench) -> None:
    """Every call that needs a live box raises BoxGone on a dead one."""
    box = await bench.box()
    await bench.kill(box)
    for name, call in calls_on(bench, box).items():
        with raises(BoxGone, name):
            await call()


@GROUP.check
async def a_death_loses_running_commands(bench: Bench) -> None:
    """Followers of a command whose box died get a lost result; its output, and the results of others, are kept."""
    box = await bench.box()
    ended = await bench.start_sh(box, "echo ended; exit 3")
    await bench.finish(box, ended)
    running = await bench.start_sh(box, "echo so far; sleep 60")
    await bench.until_output(box, running, b"so far\n")
    follower = asyncio.ensure_future(bench.finish(box, running))
    await bench.clock.sleep(0.05)
    await bench.kill(box)
    ran = await follower
    expect_equal((ran.result, ran.stdout), (ExecResult(137, lost=True), b"so far\n"), "the running command")
    expect_equal(await bench.finish(box, running), ran, "what a late follower got")
    expect_equal((await bench.finish(box, ended)).result, ExecResult(3), "the command that had ended")


@GROUP.check
async def a_death_ends_connections(bench: Bench) -> None:
    """An attached terminal ends, and a waiting write to standard input raises BoxGone, when the box dies."""
    box = await bench.box()
    terminal = await bench.start_sh(box, "echo ready; sleep 60", terminal=TerminalSize())
    deaf = await bench.start_sh(box, "sleep 60", stdin=True)
    await bench.until_output(box, terminal, b"ready")
    stream = await bench.runtime.attach(box, terminal)
    write = asyncio.ensure_future(bench.runtime.write_stdin(box, deaf, b"x" * (4 << 20)))
    await bench.clock.sleep(0.1)
    await bench.kill(box)
    await read_to_end(stream)
    await stream.close()
    with raises(BoxGone, "the waiting write"):
        async with asyncio.timeout(10):
            await write


@GROUP.check
async def a_death_while_the_server_is_away_is_seen(bench: Bench) -> None:
    """A box that died between `close` and the next start is listed as DEAD, and its commands are lost."""
    box = await bench.box()
    running = await bench.start_sh(box, "echo so far; sleep 60")
    await bench.until_output(box, running, b"so far\n")
    found = await bench.runtime.inspect(box)
    await bench.runtime.close()
    bench.hooks.kill(found)
    await bench.clock.sleep(0.2)
    await bench.reopen()
    found = await bench.runtime.inspect(box)
    expect_equal((found.status, found.pid), (BoxStatus.DEAD, 0), "the box after the restart")
    expect(found in await bench.runtime.boxes(), "boxes() lists the dead box")
    ran = await bench.finish(box, running)
    expect_equal((ran.result, ran.stdout), (ExecResult(137, lost=True), b"so far\n"), "its command")


@GROUP.check
async def a_death_while_commands_start(bench: Bench) -> None:
    """Calls that are under way when the box dies end soon, with BoxGone or with a result; none hangs."""
    box = await bench.box()

    async def churn() -> None:
        while True:
            await bench.sh(box, "echo x")
            await bench.write(box, "~/file", b"x" * 100_000)
            await bench.runtime.list_files(box, "~")

    workers = [asyncio.ensure_future(churn()) for _ in range(4)]
    await bench.clock.sleep(0.2)
    expect(not any(worker.done() for worker in workers), "a worker ended before the death")
    await bench.kill(box)
    _, waiting = await asyncio.wait(workers, timeout=10)
    for worker in waiting:
        worker.cancel()
    expect_equal(len(waiting), 0, "calls that hang")
    others = [error for error in (worker.exception() for worker in workers) if not isinstance(error, BoxGone)]
    expect_equal(others, [], "what calls under way raised beside BoxGone")
