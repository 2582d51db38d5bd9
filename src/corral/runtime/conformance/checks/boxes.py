"""Promises about boxes: making, listing, destroying, measuring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal, raises
from corral.runtime.contract import (
    MIB,
    BoxExists,
    BoxGone,
    BoxStatus,
    BoxUnresponsive,
    ExecSpec,
    NoSuchExecution,
    Stream,
    TerminalSize,
)

GROUP = Group()
_AT_ONCE = 8


async def _one_byte() -> AsyncIterator[bytes]:
    yield b"x"


def calls_on(bench: Bench, box: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every call that needs a live box, on `box`."""
    runtime, size = bench.runtime, TerminalSize()
    return {
        "usage": lambda: runtime.usage(box),
        "ping": lambda: runtime.ping(box),
        "execute": lambda: runtime.execute(box, bench.command("true")),
        "signal": lambda: runtime.signal(box, "exe_none", 15),
        "write_stdin": lambda: runtime.write_stdin(box, "exe_none", b"x"),
        "resize": lambda: runtime.resize(box, "exe_none", size),
        "attach": lambda: runtime.attach(box, "exe_none"),
        "read_file": lambda: runtime.read_file(box, "a"),
        "write_file": lambda: runtime.write_file(box, "a", _one_byte()),
        "list_files": lambda: runtime.list_files(box, "~"),
        "connect": lambda: runtime.connect(box, 80),
    }


@GROUP.check
async def a_created_box_runs(bench: Bench) -> None:
    """`create` returns a running box, which `inspect` and `boxes` show the same way."""
    spec = bench.spec()
    box = await bench.runtime.create(spec)
    expect_equal((box.id, box.status, box.reason), (spec.id, BoxStatus.RUNNING, None), "the created box")
    expect(box.pid > 0, "a running box has a process 1")
    expect_equal(await bench.runtime.inspect(spec.id), box, "inspect")
    expect(box in await bench.runtime.boxes(), "boxes() lists it")
    expect_equal((await bench.sh(spec.id, "echo hello")).text, "hello", "a first command's output")


@GROUP.check
async def an_id_makes_one_box(bench: Bench) -> None:
    """A second `create` with the id raises BoxExists and leaves the first box alone, also when both come at once."""
    spec = bench.spec()
    made = await asyncio.gather(*[bench.runtime.create(spec) for _ in range(3)], return_exceptions=True)
    refused = [error for error in made if isinstance(error, BaseException)]
    expect_equal([type(error) for error in refused], [BoxExists] * 2, "errors of three creates at once")
    with raises(BoxExists, "a fourth create"):
        await bench.runtime.create(spec)
    expect_equal((await bench.sh(spec.id, "echo alive")).text, "alive", "the first box")


@GROUP.check
async def destroy_leaves_no_box(bench: Bench) -> None:
    """After `destroy` nothing of the box is on the host; destroying again, or what never was, does nothing."""
    box = await bench.box()
    await bench.runtime.destroy(box)
    expect(box not in [other.id for other in await bench.runtime.boxes()], "a destroyed box is not listed")
    with raises(BoxGone, "inspect after destroy"):
        await bench.runtime.inspect(box)
    await bench.runtime.destroy(box)
    await bench.runtime.destroy(bench.new_id())


@GROUP.check
async def destroys_at_once_agree(bench: Bench) -> None:
    """Several `destroy` calls of one box at once all return, and the box is gone."""
    box = await bench.box()
    await asyncio.gather(*[bench.runtime.destroy(box) for _ in range(4)])
    with raises(BoxGone, "inspect after destroy"):
        await bench.runtime.inspect(box)


@GROUP.check
async def a_destroyed_id_starts_fresh(bench: Bench) -> None:
    """The id of a destroyed box can be used again, and nothing of the old disk is there."""
    spec = bench.spec()
    await bench.runtime.create(spec)
    await bench.write(spec.id, "~/old", b"old")
    await bench.runtime.destroy(spec.id)
    await bench.runtime.create(spec)
    names = [info.path.rpartition("/")[2] for info in await bench.runtime.list_files(spec.id, "~")]
    expect("old" not in names, f"the old file is still there: {names}")


@GROUP.check
async def an_unknown_box_is_gone(bench: Bench) -> None:
    """Every call on an id that never was raises BoxGone."""
    box = bench.new_id()
    with raises(BoxGone, "inspect"):
        await bench.runtime.inspect(box)
    for name, call in calls_on(bench, box).items():
        with raises(BoxGone, name):
            await call()


@GROUP.check
async def a_hostile_id_is_no_box(bench: Bench) -> None:
    """An id that is a path or an option names no box and no execution, and harms nothing."""
    box = await bench.box()
    for bad in ("../" + box, box + "/../" + box, "", ".", "-f", "a\0b", "x" * 5000):
        with raises(BoxGone, f"inspect of {bad[:20]!r}"):
            await bench.runtime.inspect(bad)
        await bench.runtime.destroy(bad)
        await bench.runtime.forget_output(bad)
        with raises(NoSuchExecution, f"read_output of {bad[:20]!r}"):
            bench.runtime.read_output(box, bad, Stream.STDOUT, 0, 10)
    expect_equal((await bench.sh(box, "echo alive")).text, "alive", "the box")


@GROUP.check
async def boxes_are_made_at_once(bench: Bench) -> None:
    """Several boxes made at once all run, and each has its own files."""
    boxes = await asyncio.gather(*[bench.box() for _ in range(_AT_ONCE)])
    await asyncio.gather(*[bench.write(box, "~/name", box.encode()) for box in boxes])
    ran = await asyncio.gather(*[bench.sh(box, "cat ~/name") for box in boxes])
    expect_equal([one.text for one in ran], list(boxes), "each box's own file")
    await asyncio.gather(*[bench.runtime.destroy(box) for box in boxes])
    left = {box.id for box in await bench.runtime.boxes()} & set(boxes)
    expect_equal(left, set(), "boxes left after destroy")


@GROUP.check
async def a_cancelled_create_leaves_nothing(bench: Bench) -> None:
    """Whenever `create` is cancelled, no box is left, and the id can be used."""
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08):
        spec = bench.spec()
        task = asyncio.ensure_future(bench.runtime.create(spec))
        await bench.clock.sleep(delay)
        cancelled = task.cancel()
        await asyncio.wait([task])
        if not cancelled or not task.cancelled():
            expect(task.exception() is None, f"a cancelled create raised {task.exception()!r}")
            continue
        with raises(BoxGone, f"inspect after a cancel at {delay} s"):
            await bench.runtime.inspect(spec.id)
        await bench.runtime.create(spec)


@GROUP.check
async def the_environment_of_the_spec_is_there(bench: Bench) -> None:
    """`BoxSpec.env` is in the environment of every command."""
    box = await bench.box(env={"PLAIN": "value", "ODD": "a b\n'\"$HOME é"})
    ran = await bench.run(box, "printenv", "PLAIN", "ODD")
    expect_equal(ran.stdout.decode(), "value\na b\n'\"$HOME é\n", "the variables")


@GROUP.check
async def usage_measures(bench: Bench) -> None:
    """`usage` shows the limits of the spec, tasks, CPU time and disk as they grow."""
    spec = bench.spec()
    spec = replace(spec, limits=replace(spec.limits, memory=512 * MIB, pids=256))
    await bench.runtime.create(spec)
    box = spec.id
    before = await bench.runtime.usage(box)
    expect_equal(before.limits, spec.limits, "the limits")
    sleeper = await bench.start(box, bench.command("sleep", "60"))
    await bench.sh(
        box, "for i in {1..50000}; do :; done; dd if=/dev/urandom of=$HOME/grown bs=1M count=8 status=none; sync"
    )
    after = await bench.runtime.usage(box)
    expect(after.pids >= before.pids + 1, f"tasks grew from {before.pids} to {after.pids}")
    expect(after.cpu_us > before.cpu_us + 5_000, f"CPU time grew from {before.cpu_us} to {after.cpu_us} us")
    expect(after.disk >= before.disk + 7 * MIB, f"disk grew from {before.disk} to {after.disk} bytes")
    expect(0 < after.memory <= after.memory_peak, f"memory is {after.memory}, its peak {after.memory_peak} bytes")
    expect_equal(after.oom_kills, 0, "kills for memory")
    await bench.runtime.signal(box, sleeper, 9)


@GROUP.check
async def many_boxes_are_measured_at_once(bench: Bench) -> None:
    """`usages` says of each what `usage` does, and leaves out what is dead, gone or was never there."""
    boxes = [await bench.box() for _ in range(3)]
    gone = await bench.box()
    await bench.runtime.destroy(gone)
    before = (await bench.runtime.usage(boxes[0])).pids
    sleeper = await bench.start(boxes[0], bench.command("sleep", "60"))
    deadline = bench.clock.monotonic() + 5
    while (await bench.runtime.usage(boxes[0])).pids == before and bench.clock.monotonic() < deadline:
        await bench.clock.sleep(0.01)
    found = await bench.runtime.usages([*boxes, gone, "box_none", "../box"])
    expect_equal(set(found), set(boxes), "the boxes that were measured")
    for box in boxes:
        alone = await bench.runtime.usage(box)
        expect_equal((found[box].limits, found[box].pids), (alone.limits, alone.pids), "limits and tasks")
        expect(found[box].cpu_us <= alone.cpu_us, f"CPU time went from {found[box].cpu_us} to {alone.cpu_us} us")
    expect(found[boxes[0]].pids > found[boxes[1]].pids, "a command is not among the tasks of its box")
    await bench.runtime.signal(boxes[0], sleeper, 9)
    expect_equal(await bench.runtime.usages([]), {}, "nothing of nothing")


@GROUP.check
async def a_guest_that_hangs_is_told_from_one_that_answers(bench: Bench) -> None:
    """`ping` returns while the guest answers; once it hangs it raises BoxUnresponsive in time; `destroy` works."""
    box, other = await bench.box(), await bench.box()
    await asyncio.gather(*[bench.runtime.ping(one) for one in (box, other) * 4])
    bench.hooks.stop(await bench.runtime.inspect(box))
    start = bench.clock.monotonic()
    with raises(BoxUnresponsive, "ping of a guest that hangs"):
        await bench.runtime.ping(box, 0.5)
    took = bench.clock.monotonic() - start
    expect(took < 5, f"the ping with a limit of 0.5 s took {took:.1f} s")
    await bench.runtime.ping(other)
    expect_equal((await bench.runtime.inspect(box)).status, BoxStatus.RUNNING, "a box whose guest hangs")
    await bench.runtime.destroy(box)
    with raises(BoxGone, "ping after destroy"):
        await bench.runtime.ping(box)


@GROUP.check
async def boxes_outlive_the_server(bench: Bench) -> None:
    """After `close` and a new start the boxes are adopted: commands went on, their output is whole, new ones run."""
    box = await bench.box()
    script = "echo before; until [ -e ~/go ]; do sleep 0.02; done; echo after; cat; exit 7"
    running = await bench.start(box, ExecSpec(bench.new_id("exe"), ("bash", "-c", script), stdin=True))
    await bench.until_output(box, running, b"before\n")
    ended = await bench.start_sh(box, "echo ended; exit 3")
    await bench.finish(box, ended)
    pid = (await bench.runtime.inspect(box)).pid
    await bench.reopen()
    found = await bench.runtime.inspect(box)
    expect_equal((found.status, found.pid), (BoxStatus.RUNNING, pid), "the adopted box")
    await bench.write(box, "~/go", b"")
    await bench.runtime.write_stdin(box, running, b"input\n", close=True)
    ran = await bench.finish(box, running)
    expect_equal((ran.result.exit_code, ran.stdout), (7, b"before\nafter\ninput\n"), "the command that went on")
    ran = await bench.finish(box, ended)
    expect_equal((ran.result.exit_code, ran.stdout), (3, b"ended\n"), "the command that had ended")
    expect_equal((await bench.sh(box, "echo new")).text, "new", "a new command")


@GROUP.check
async def commands_end_while_the_server_is_away(bench: Bench) -> None:
    """A command that ends between `close` and the next start is there with its output and exit code."""
    box = await bench.box()
    running = await bench.start_sh(box, "echo one; sleep 0.3; seq 1 20000; exit 9")
    await bench.until_output(box, running, b"one\n")
    await bench.runtime.close()
    await bench.clock.sleep(0.6)
    await bench.reopen()
    ran = await bench.finish(box, running)
    expect_equal(ran.result.exit_code, 9, "the exit code")
    expect_equal(ran.stdout, b"one\n" + b"".join(b"%d\n" % n for n in range(1, 20001)), "the output")
