"""Promises about standard input."""

from __future__ import annotations

import asyncio
import hashlib

from corral.runtime.conformance.suite import Bench, Group, expect_equal, raises
from corral.runtime.contract import MIB, ExecResult, ExecutionEnded

GROUP = Group()


@GROUP.check
async def input_is_empty_unless_asked_for(bench: Bench) -> None:
    """Without `stdin` the command reads an empty input at once, and writing raises ExecutionEnded."""
    box = await bench.box()
    ran = await bench.run(box, "wc", "-c")
    expect_equal((ran.result, ran.text), (ExecResult(0), "0"), "what it read")
    running = await bench.start(box, bench.command("sleep", "60"))
    with raises(ExecutionEnded, "write_stdin to a command without input"):
        await bench.runtime.write_stdin(box, running, b"x")
    await bench.runtime.signal(box, running, 9)


@GROUP.check
async def input_arrives_as_written(bench: Bench) -> None:
    """Each write arrives at once and in order; `close` ends the input."""
    box = await bench.box()
    running = await bench.start(box, bench.command("cat", stdin=True))
    for text in (b"one\n", b"two\n", b"\x00\xff"):
        await bench.runtime.write_stdin(box, running, text)
        await bench.until_output(box, running, text)
    await bench.runtime.write_stdin(box, running, b"end", close=True)
    ran = await bench.finish(box, running)
    expect_equal((ran.result, ran.stdout), (ExecResult(0), b"one\ntwo\n\x00\xffend"), "what it read")


@GROUP.check
async def large_input_arrives(bench: Bench) -> None:
    """8 MiB of input in one call arrive whole, at the pace of the command."""
    box = await bench.box()
    data = bytes(range(256)) * (8 * MIB // 256)
    running = await bench.start_sh(box, "sleep 0.3; sha256sum", stdin=True)
    await bench.runtime.write_stdin(box, running, data, close=True)
    ran = await bench.finish(box, running)
    expect_equal(ran.text.split()[0], hashlib.sha256(data).hexdigest(), "the digest of what it read")


@GROUP.check
async def closed_input_takes_no_more(bench: Bench) -> None:
    """After `close` a write raises ExecutionEnded, though the command still runs."""
    box = await bench.box()
    running = await bench.start_sh(box, "cat; sleep 60", stdin=True)
    await bench.runtime.write_stdin(box, running, b"a", close=True)
    with raises(ExecutionEnded, "write_stdin after close"):
        await bench.runtime.write_stdin(box, running, b"b")
    expect_equal(await _stdout_soon(bench, box, running, b"a"), b"a", "what it read")
    await bench.runtime.signal(box, running, 9)


async def _stdout_soon(bench: Bench, box: str, exec_id: str, text: bytes) -> bytes:
    await bench.until_output(box, exec_id, text)
    return bench.output(box, exec_id)


@GROUP.check
async def a_write_does_not_outlast_its_command(bench: Bench) -> None:
    """A write that waits for a command that does not read raises ExecutionEnded when the command ends."""
    box = await bench.box()
    running = await bench.start_sh(box, "sleep 60", stdin=True)
    write = asyncio.ensure_future(bench.runtime.write_stdin(box, running, b"x" * (4 * MIB)))
    await bench.clock.sleep(0.2)
    expect_equal(write.done(), False, "whether the write was done though nobody read")
    await bench.runtime.signal(box, running, 9)
    with raises(ExecutionEnded, "the waiting write"):
        async with asyncio.timeout(10):
            await write
