"""Promises about output: whole, in order, by offset, bounded, and followed as it grows."""

from __future__ import annotations

import asyncio
import itertools

from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal, raises
from corral.runtime.contract import ExecResult, NoSuchExecution, Progress, Stream

GROUP = Group()


@GROUP.check
async def the_streams_are_apart(bench: Bench) -> None:
    """Standard output and standard error are two streams, each in its order."""
    box = await bench.box()
    ran = await bench.sh(box, "for i in 1 2 3; do echo out $i; echo err $i >&2; done")
    expect_equal(ran.stdout, b"out 1\nout 2\nout 3\n", "standard output")
    expect_equal(ran.stderr, b"err 1\nerr 2\nerr 3\n", "standard error")


@GROUP.check
async def two_thousand_lines_arrive(bench: Bench) -> None:
    """2,000 lines that are written one by one arrive whole and in order."""
    box = await bench.box()
    ran = await bench.sh(box, "for i in {1..2000}; do echo line $i; done")
    expect_equal(ran.stdout, b"".join(b"line %d\n" % n for n in range(1, 2001)), "the lines")


@GROUP.check
async def large_output_arrives(bench: Bench) -> None:
    """32 MiB on standard output arrive whole."""
    box = await bench.box()
    ran = await bench.sh(box, "yes 0123456789abcde | head -c 33554432")
    expect_equal(len(ran.stdout), 32 << 20, "the size")
    expect(ran.stdout == b"0123456789abcde\n" * (2 << 20), "the bytes differ")
    expect_equal(ran.result, ExecResult(0), "the result")


@GROUP.check
async def any_bytes_are_output(bench: Bench) -> None:
    """Output is bytes: all 256 values and broken UTF-8 come through unchanged."""
    box = await bench.box()
    script = "for i in {0..255}; do printf \"\\\\x$(printf %02x $i)\"; done; printf 'é🐎\\xff\\xf0\\x9f'"
    ran = await bench.sh(box, script)
    expect_equal(ran.stdout, bytes(range(256)) + "é🐎".encode() + b"\xff\xf0\x9f", "the bytes")


@GROUP.check
async def output_is_read_by_offset(bench: Bench) -> None:
    """`read_output` gives the bytes from an offset, at most as many as asked for, and none at the end."""
    box = await bench.box()
    done = await bench.start(box, bench.command("printf", "0123456789"))
    await bench.finish(box, done)
    runtime = bench.runtime
    for offset, limit, expected in ((0, 4, b"0123"), (4, 100, b"456789"), (9, 1, b"9"), (10, 5, b""), (99, 5, b"")):
        found = runtime.read_output(box, done, Stream.STDOUT, offset, limit)
        expect_equal(found, expected, f"{limit} bytes from {offset}")
    expect_equal(runtime.output_size(box, done, Stream.STDOUT), 10, "the size")
    expect_equal(runtime.output_size(box, done, Stream.STDERR), 0, "the size of the other stream")
    for stream in Stream:
        expect_equal(runtime.output_missing(box, done, stream), expected=False, what=f"{stream.value} is missing")


@GROUP.check
async def output_is_there_while_it_runs(bench: Bench) -> None:
    """`follow` tells of output before the command has ended, and it can be read then."""
    box = await bench.box()
    running = await bench.start_sh(box, "printf partial; cat; printf ' whole'", stdin=True)
    seen: list[Progress] = []
    async with asyncio.timeout(10):
        async for progress in bench.runtime.follow(box, running):
            seen.append(progress)
            if progress.result is None and progress.stdout == len("partial"):
                expect_equal(bench.output(box, running), b"partial", "the output so far")
                await bench.runtime.write_stdin(box, running, b"", close=True)
    expect(seen[0].result is None, "the first progress was the result")
    expect_equal((seen[-1].stdout, seen[-1].result), (13, ExecResult(0)), "the last progress")


@GROUP.check
async def progress_only_grows_and_keeps_its_pace(bench: Bench) -> None:
    """`follow` gives sizes that never shrink, at most about fifty times a second, and one result, at the end."""
    box = await bench.box()
    running = await bench.start_sh(box, "for i in {1..100}; do echo $i; echo $i >&2; sleep 0.005; done")
    started = bench.clock.monotonic()
    seen = [progress async for progress in bench.runtime.follow(box, running)]
    took = bench.clock.monotonic() - started
    for earlier, later in itertools.pairwise(seen):
        expect(later.stdout >= earlier.stdout and later.stderr >= earlier.stderr, f"{later} came after {earlier}")
    expect_equal([p.result is None for p in seen], [True] * (len(seen) - 1) + [False], "where the result is")
    expect_equal((seen[-1].stdout, seen[-1].stderr), (292, 292), "the last sizes")
    # Two more than the pace: one at the start and the result.
    expect(len(seen) <= took / 0.02 + 2, f"{len(seen)} reports in {took:.2f} s")
    expect(len(seen) >= 3, f"only {len(seen)} reports in {took:.2f} s")


@GROUP.check
async def many_can_follow(bench: Bench) -> None:
    """Several followers at once, and one that comes after the end, all get the result."""
    box = await bench.box()
    running = await bench.start_sh(box, "sleep 0.2; echo done; exit 6")
    ran = await asyncio.gather(*[bench.finish(box, running) for _ in range(5)])
    expect_equal({(one.result.exit_code, one.stdout) for one in ran}, {(6, b"done\n")}, "what the followers got")
    late = [progress async for progress in bench.runtime.follow(box, running)]
    expect_equal(late[-1], Progress(5, 0, ExecResult(6)), "what a late follower got")


@GROUP.check
async def a_follower_may_leave(bench: Bench) -> None:
    """A follower that stops early harms neither the command nor the next follower."""
    box = await bench.box()
    running = await bench.start_sh(box, "echo one; sleep 0.2; echo two")
    follower = asyncio.ensure_future(bench.finish(box, running))
    await bench.clock.sleep(0.05)
    follower.cancel()
    await asyncio.wait([follower])
    expect_equal((await bench.finish(box, running)).stdout, b"one\ntwo\n", "the output")


@GROUP.check
async def an_unknown_execution_is_not_followed(bench: Bench) -> None:
    """`follow` raises NoSuchExecution for an id that was never started."""
    box = await bench.box()
    with raises(NoSuchExecution, "follow"):
        async for _ in bench.runtime.follow(box, bench.new_id("exe")):
            pass


@GROUP.check
async def output_over_the_limit_is_cut(bench: Bench) -> None:
    """A stream over `output_limit` is cut there and says so; the command goes on, the other stream is whole."""
    box = await bench.box()
    ran = await bench.sh(box, "yes | head -c 5000000; echo end >&2; exit 3", output_limit=10_000)
    expect_equal(ran.result, ExecResult(3, stdout_cut=True), "the result")
    expect_equal(ran.stdout, b"y\n" * 5000, "standard output")
    expect_equal(ran.stderr, b"end\n", "standard error")
    ran = await bench.run(box, "printf", "0123456789", output_limit=10)
    expect_equal((ran.result, ran.stdout), (ExecResult(0), b"0123456789"), "output of just the limit")
    ran = await bench.sh(box, "printf 0123456789 >&2", output_limit=9)
    expect_equal((ran.result, ran.stderr), (ExecResult(0, stderr_cut=True), b"012345678"), "one over the limit")


@GROUP.check
async def output_outlives_the_box(bench: Bench) -> None:
    """Output and result can be read after `destroy`, until `forget_output`."""
    box = await bench.box()
    done = await bench.start_sh(box, "echo kept; exit 2")
    await bench.finish(box, done)
    await bench.runtime.destroy(box)
    ran = await bench.finish(box, done)
    expect_equal((ran.stdout, ran.result), (b"kept\n", ExecResult(2)), "what was kept")
    await bench.runtime.forget_output(box)
    with raises(NoSuchExecution, "read_output after forget_output"):
        bench.runtime.read_output(box, done, Stream.STDOUT, 0, 10)
    expect_equal(bench.runtime.output_size(box, done, Stream.STDOUT), 0, "the size after forget_output")
    expect_equal(bench.runtime.output_missing(box, done, Stream.STDOUT), expected=True, what="it is missing then")
    await bench.runtime.forget_output(box)


@GROUP.check
async def a_destroyed_box_loses_its_commands(bench: Bench) -> None:
    """`destroy` of a box with a running command: followers get a lost result, the output so far is kept."""
    box = await bench.box()
    running = await bench.start_sh(box, "echo so far; sleep 60")
    await bench.until_output(box, running, b"so far\n")
    follower = asyncio.ensure_future(bench.finish(box, running))
    await bench.clock.sleep(0.05)
    await bench.runtime.destroy(box)
    ran = await follower
    expect_equal((ran.result, ran.stdout), (ExecResult(137, lost=True), b"so far\n"), "what a follower got")
    expect_equal(await bench.finish(box, running), ran, "what a late follower got")
