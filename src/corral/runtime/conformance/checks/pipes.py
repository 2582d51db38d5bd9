"""Promises about streams that somebody is attached to: all of them, in order, at the reader's pace."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib

from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal, raises, read_to_end, read_until
from corral.runtime.contract import MIB, BoxGone, ByteStream, ExecResult, ExecutionEnded, Stream, TerminalSize

GROUP = Group()

#: More than pipes, sockets and viewers hold together.
PLENTY = 16 * MIB

#: Of each stream in the spool, so that what is attached must get more than is kept.
KEPT = 1 * MIB


async def _digest(stream: ByteStream) -> tuple[int, str]:
    """How much came until the end, and its digest."""
    count, digest = 0, hashlib.sha256()
    async with asyncio.timeout(60):
        while data := await stream.read():
            count += len(data)
            digest.update(data)
    return count, digest.hexdigest()


@GROUP.check
async def who_is_attached_gets_all_output(bench: Bench) -> None:
    """Of a held command both streams arrive whole, apart, and beyond what the spool keeps."""
    box = await bench.box()
    script = f"head -c {PLENTY} /dev/zero & head -c {PLENTY} /dev/zero | tr '\\0' x >&2; wait"
    running = await bench.start_sh(box, script, hold=True, output_limit=KEPT)
    out = await bench.runtime.attach(box, running, stream=Stream.STDOUT, patient=True)
    err = await bench.runtime.attach(box, running, stream=Stream.STDERR, patient=True)
    seen = await asyncio.gather(_digest(out), _digest(err))
    expected = [(PLENTY, hashlib.sha256(byte * PLENTY).hexdigest()) for byte in (b"\0", b"x")]
    expect_equal(list(seen), expected, "what was attached saw")
    for stream in (out, err):
        await stream.close()
    ran = await bench.finish(box, running)
    expect_equal(ran.result, ExecResult(0, stdout_cut=True, stderr_cut=True), "the result")
    expect_equal((len(ran.stdout), len(ran.stderr)), (KEPT, KEPT), "bytes in the spool")


@GROUP.check
async def who_is_patient_holds_a_command_back(bench: Bench) -> None:
    """A patient reader that does not read stops the command; one that leaves lets it go on."""
    box = await bench.box()
    script = f"head -c {PLENTY} /dev/zero; echo done >&2"
    running = await bench.start_sh(box, script, hold=True)
    slow = await bench.runtime.attach(box, running, stream=Stream.STDOUT, patient=True)
    err = await bench.runtime.attach(box, running, stream=Stream.STDERR, patient=True)
    await slow.read()
    await bench.clock.sleep(2.5)
    kept = bench.runtime.output_size(box, running, Stream.STDOUT)
    expect(kept < PLENTY // 2, f"{kept} bytes were taken from a command whose reader does not read")
    await slow.close()
    expect_equal(await err.read(), b"done\n", "standard error once the reader had left")
    await err.close()
    expect_equal((await bench.finish(box, running)).result, ExecResult(0), "the result")


@GROUP.check
async def what_is_attached_writes_input(bench: Bench) -> None:
    """Bytes written to STDOUT's stream are the command's input, at its pace; `finish` is its end."""
    box = await bench.box()
    data = bytes(range(256)) * (PLENTY // 256)
    running = await bench.start_sh(box, "sleep 0.5; cat", stdin=True, hold=True, output_limit=KEPT)
    stream = await bench.runtime.attach(box, running, stream=Stream.STDOUT, patient=True)

    async def send() -> None:
        for start in range(0, len(data), 100_000):
            await stream.write(data[start : start + 100_000])
        await stream.finish()

    _, seen = await asyncio.gather(send(), _digest(stream))
    expect_equal(seen, (PLENTY, hashlib.sha256(data).hexdigest()), "what came back")
    await stream.close()
    expect_equal((await bench.finish(box, running)).result.exit_code, 0, "the exit code")


@GROUP.check
async def output_goes_on_when_input_is_not_taken(bench: Bench) -> None:
    """A command that has closed its input is not bothered by more of it, and its output still comes."""
    box = await bench.box()
    running = await bench.start_sh(box, "exec 0<&-; echo closed; sleep 0.5; echo more", stdin=True, hold=True)
    stream = await bench.runtime.attach(box, running, stream=Stream.STDOUT, patient=True)
    seen = await read_until(stream, b"closed\n")
    for _ in range(4):
        with contextlib.suppress(ExecutionEnded, BoxGone):
            await stream.write(b"x" * 100_000)
    expect_equal(seen + await read_to_end(stream), b"closed\nmore\n", "the output")
    await stream.close()


@GROUP.check
async def a_late_reader_starts_at_the_first_byte(bench: Bench) -> None:
    """Without `hold` a stream is attached to from its first byte, or not at all when a part of it was dropped."""
    box = await bench.box()
    running = await bench.start_sh(box, "echo first; read -r line; echo $line", stdin=True)
    await bench.until_output(box, running, b"first")
    stream = await bench.runtime.attach(box, running, stream=Stream.STDOUT, patient=True)
    await stream.write(b"second\n")
    expect_equal(await read_to_end(stream), b"first\nsecond\n", "what the late reader saw")
    await stream.close()
    running = await bench.start_sh(box, "echo 123456; sleep 60", output_limit=3)
    await bench.until_output(box, running, b"123")
    with raises(ExecutionEnded, "attach to a stream that was cut"):
        await bench.runtime.attach(box, running, stream=Stream.STDOUT)
    await bench.runtime.signal(box, running, 9)


@GROUP.check
async def a_stream_and_a_terminal_are_not_the_same(bench: Bench) -> None:
    """A command on a terminal has no streams to attach to."""
    box = await bench.box()
    running = await bench.start(box, bench.command("sleep", "60", terminal=TerminalSize()))
    with raises(ExecutionEnded, "attach to a stream of a terminal"):
        await bench.runtime.attach(box, running, stream=Stream.STDERR)
    await bench.runtime.signal(box, running, 9)
