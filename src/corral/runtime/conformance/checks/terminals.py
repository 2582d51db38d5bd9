"""Promises about terminals: a command on one, its size, those who look on."""

from __future__ import annotations

import asyncio
import signal as signals

from corral.runtime.conformance.suite import (
    Bench,
    Group,
    expect,
    expect_equal,
    raises,
    read_to_end,
    read_until,
)
from corral.runtime.contract import ExecResult, ExecutionEnded, TerminalSize

GROUP = Group()


@GROUP.check
async def a_terminal_is_one(bench: Bench) -> None:
    """With `terminal` all three streams are a terminal of that size; what is written to any goes to STDOUT."""
    box = await bench.box()
    script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && stty size && echo error >&2; [ -w /dev/tty ] && echo controlling"
    ran = await bench.sh(box, script, terminal=TerminalSize(rows=33, cols=101))
    expect_equal(ran.result, ExecResult(0), "the result")
    expect_equal(ran.stdout, b"33 101\r\nerror\r\ncontrolling\r\n", "standard output")
    expect_equal(ran.stderr, b"", "standard error")


@GROUP.check
async def a_terminal_can_be_resized(bench: Bench) -> None:
    """`resize` changes the size and tells the command with SIGWINCH."""
    box = await bench.box()
    script = "trap 'stty size; exit 8' WINCH; echo ready; while :; do sleep 0.05; done"
    running = await bench.start_sh(box, script, terminal=TerminalSize())
    await bench.until_output(box, running, b"ready")
    await bench.runtime.resize(box, running, TerminalSize(rows=50, cols=132))
    ran = await bench.finish(box, running)
    expect_equal((ran.result.exit_code, ran.stdout), (8, b"ready\r\n50 132\r\n"), "what the command saw")


@GROUP.check
async def a_signal_to_the_foreground_reaches_the_job(bench: Bench) -> None:
    """`foreground` signals the process group that has the terminal, not the shell that started it."""
    box = await bench.box()
    job = 'trap "echo job; exit 6" USR1; echo ready; while :; do sleep 0.05; done'
    script = f"set -m; trap 'echo shell' USR1; bash -c '{job}'; exit $?"
    running = await bench.start_sh(box, script, terminal=TerminalSize())
    await bench.until_output(box, running, b"ready")
    await bench.runtime.signal(box, running, signals.SIGUSR1, foreground=True)
    ran = await bench.finish(box, running)
    expect_equal(ran.result.exit_code, 6, "the exit code of the job")
    expect(ran.stdout.endswith(b"job\r\n") and b"shell" not in ran.stdout, f"the signal did {ran.stdout!r}")
    plain = await bench.start_sh(box, "sleep 60")
    with raises(ExecutionEnded, "signal to the foreground of a command without a terminal"):
        await bench.runtime.signal(box, plain, signals.SIGUSR1, foreground=True)
    await bench.runtime.signal(box, plain, signals.SIGKILL)


@GROUP.check
async def what_is_attached_talks_to_the_terminal(bench: Bench) -> None:
    """An attached stream gets recent output, then live output, sends input, and ends with the command."""
    box = await bench.box()
    script = "echo earlier; read -r line; echo got $line; exit 3"
    running = await bench.start_sh(box, script, terminal=TerminalSize())
    await bench.until_output(box, running, b"earlier")
    stream = await bench.runtime.attach(box, running)
    await read_until(stream, b"earlier")
    await stream.write(b"hello\r")
    await read_until(stream, b"got hello")
    await read_to_end(stream)
    expect_equal(await stream.read(), b"", "a read after the end")
    await stream.close()
    await stream.close()
    expect_equal((await bench.finish(box, running)).result, ExecResult(3), "the result")


@GROUP.check
async def several_can_be_attached(bench: Bench) -> None:
    """Two attached streams see the same; one that leaves does not end the command or the other."""
    box = await bench.box()
    running = await bench.start_sh(box, "stty -echo; echo ready; cat", terminal=TerminalSize())
    await bench.until_output(box, running, b"ready")
    first, second = await bench.runtime.attach(box, running), await bench.runtime.attach(box, running)
    await first.write(b"to both\r")
    for stream in (first, second):
        await read_until(stream, b"to both")
    await first.close()
    await second.write(b"to one\r")
    await read_until(second, b"to one")
    third = await bench.runtime.attach(box, running)
    await read_until(third, b"to one")
    await bench.runtime.signal(box, running, 9)
    for stream in (second, third):
        await read_to_end(stream)
        await stream.close()


@GROUP.check
async def keys_work_on_a_terminal(bench: Bench) -> None:
    """Control-C written to the terminal interrupts the command; `close` of its input is the end of file."""
    box = await bench.box()
    script = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    running = await bench.start_sh(box, script, terminal=TerminalSize())
    await bench.until_output(box, running, b"ready")
    await bench.runtime.write_stdin(box, running, b"\x03")
    expect_equal((await bench.finish(box, running)).result, ExecResult(9), "the interrupted command")
    running = await bench.start_sh(box, "echo ready; cat; exit 4", terminal=TerminalSize())
    await bench.until_output(box, running, b"ready")
    await bench.runtime.write_stdin(box, running, b"text\r", close=True)
    ran = await bench.finish(box, running)
    expect_equal(ran.result, ExecResult(4), "the command whose input ended")
    expect(b"text" in ran.stdout, f"the text is not in {ran.stdout!r}")


@GROUP.check
async def only_a_live_terminal_is_attached_to(bench: Bench) -> None:
    """`attach` and `resize` raise ExecutionEnded for a command without a terminal, or one that has ended."""
    box = await bench.box()
    plain = await bench.start(box, bench.command("sleep", "60"))
    ended = await bench.start(box, bench.command("true", terminal=TerminalSize()))
    await bench.finish(box, ended)
    for what, exec_id in (("without a terminal", plain), ("that has ended", ended)):
        with raises(ExecutionEnded, f"attach to a command {what}"):
            await bench.runtime.attach(box, exec_id)
        with raises(ExecutionEnded, f"resize of a command {what}"):
            await bench.runtime.resize(box, exec_id, TerminalSize())
    await bench.runtime.signal(box, plain, 9)


@GROUP.check
async def a_slow_viewer_does_not_stop_the_command(bench: Bench) -> None:
    """A viewer that does not read does not hold back the command, the spool or another viewer."""
    box = await bench.box()
    script = "stty raw; echo ready; read -r -n 1; seq 1 200000; echo the end"
    running = await bench.start_sh(box, script, terminal=TerminalSize())
    await bench.until_output(box, running, b"ready")
    idle, reading = await bench.runtime.attach(box, running), await bench.runtime.attach(box, running)
    await reading.write(b"g")
    ran, seen = await asyncio.gather(bench.finish(box, running), read_until(reading, b"the end", 30))
    expect_equal(ran.result, ExecResult(0), "the result")
    expect(b"200000" in ran.stdout and b"199999" in seen, "output is missing")
    await idle.close()
    await reading.close()
