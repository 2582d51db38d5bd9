"""Promises about commands: how they start, what they see, how they end."""

from __future__ import annotations

import asyncio
import os
import signal as signals
from dataclasses import replace

from corral.runtime.conformance.suite import Bench, Group, expect, expect_equal, raises
from corral.runtime.contract import BadCommand, ExecResult, ExecSpec, ExecutionEnded, NoSuchExecution, Stream

GROUP = Group()


@GROUP.check
async def exit_codes_are_kept(bench: Bench) -> None:
    """The exit code of the command is the result's, and no signal is made up."""
    box = await bench.box()
    for code in (0, 1, 3, 126, 127, 130, 255):
        ran = await bench.run(box, "bash", "-c", f"exit {code}")
        expect_equal(ran.result, ExecResult(code), f"the result of exit {code}")


@GROUP.check
async def deadly_signals_are_told(bench: Bench) -> None:
    """A command that a signal ended has exit code 128 + N and the signal's number."""
    box = await bench.box()
    for number in (signals.SIGKILL, signals.SIGTERM, signals.SIGSEGV, signals.SIGABRT, signals.SIGHUP):
        ran = await bench.sh(box, f"ulimit -c 0; kill -{int(number)} $$; sleep 5")
        expect_equal(ran.result, ExecResult(128 + number, signal=number), f"the result of {number.name}")


@GROUP.check
async def arguments_arrive_as_they_are(bench: Bench) -> None:
    """No shell looks at the arguments: blanks, quotes, newlines, globs and any script arrive unchanged."""
    box = await bench.box()
    words = ("", "a b", "'\"", "$HOME `id` $(id)", "*", "line\nline", "\\n", "日本語 é 🐎", "--", "-n", ";&|")
    ran = await bench.run(box, "printf", "%s\\0", *words)
    expect_equal(ran.stdout, b"".join(word.encode() + b"\0" for word in words), "the arguments")


@GROUP.check
async def a_login_shell_runs_in_the_home(bench: Bench) -> None:
    """`bash -l -c` runs in the user's home, with HOME, USER, PATH and SHELL set."""
    box = await bench.box()
    ran = await bench.run(
        box, "bash", "-l", "-c", '[ "$PWD" -ef ~ ] && echo "$USER"; [ -n "$PATH$SHELL" ] && command -v ls'
    )
    expect_equal(ran.result.exit_code, 0, "the exit code")
    user = bench.factory("dbx").user
    expect_equal(ran.text.splitlines()[0], user.name, "USER")


@GROUP.check
async def the_directory_of_a_command_can_be_chosen(bench: Bench) -> None:
    """`cwd` is the command's working directory."""
    box = await bench.box()
    await bench.write(box, "~/some/where/mark", b"here")
    home = (await bench.runtime.list_files(box, "~/some"))[0].path
    expect_equal((await bench.run(box, "cat", "mark", cwd=home)).text, "here", f"a file in {home}")
    expect_equal((await bench.run(box, "pwd", cwd="/")).result.exit_code, 0, "pwd in /")


@GROUP.check
async def the_environment_of_a_command_wins(bench: Bench) -> None:
    """`env` is added to the box's and wins over it; nothing of the server's environment comes through."""
    box = await bench.box(env={"BOTH": "box", "BOX": "box"})
    os.environ["CORRAL_CONFORMANCE_CANARY"] = "canary"
    try:
        ran = await bench.run(box, "env", env={"BOTH": "command", "MINE": "é \n end"})
    finally:
        del os.environ["CORRAL_CONFORMANCE_CANARY"]
    for line in ("BOTH=command", "BOX=box", "MINE=é \n end"):
        expect(line in ran.stdout.decode(), f"the environment has {line!r}")
    expect(b"CANARY" not in ran.stdout, "the server's environment is in the box")


@GROUP.check
async def a_large_environment_arrives(bench: Bench) -> None:
    """A variable of 100,000 bytes, and a thousand small ones, arrive whole."""
    box = await bench.box()
    env = {f"SMALL_{number}": str(number) for number in range(1000)} | {"LARGE": "x" * 100_000}
    ran = await bench.sh(box, "echo ${#LARGE} $(env | grep -c ^SMALL_) $SMALL_999", env=env)
    expect_equal(ran.text, "100000 1000 999", "what arrived")


@GROUP.check
async def bad_commands_are_refused(bench: Bench) -> None:
    """What cannot be started raises BadCommand and is no execution: its id is free, and `follow` does not know it."""
    box = await bench.box()
    await bench.write(box, "~/text", b"no program", mode=0o644)
    where = await bench.runtime.list_files(box, "~")
    text = next(info.path for info in where if info.path.endswith("/text"))
    bad = {
        "no such program": bench.command("no-such-program"),
        "no such path": bench.command("/no/such/program"),
        "not executable": bench.command(text),
        "a directory": bench.command("/etc"),
        "no such directory": bench.command("true", cwd="/no/such/directory"),
        "a file as directory": bench.command("true", cwd=text),
        "no such user": bench.command("true", user="nobody-of-this-name"),
        "no program": bench.command(),
        "an empty program": bench.command(""),
        "NUL in an argument": bench.command("echo", "a\0b"),
        "an argument over the kernel's 128 KiB": bench.command("echo", "x" * 200_000),
        "an argument of 4 MiB": bench.command("echo", "x" * (4 << 20)),
        "a lone surrogate": bench.command("echo", "\ud800"),
        "NUL in a variable": bench.command("true", env={"A": "a\0b"}),
        "a variable's name with =": bench.command("true", env={"A=B": "c"}),
    }
    for what, spec in bad.items():
        with raises(BadCommand, what):
            await bench.runtime.execute(box, spec)
        with raises(NoSuchExecution, f"follow after {what}"):
            async for _ in bench.runtime.follow(box, spec.id):
                pass
        good = replace(spec, argv=("echo", "good"), cwd=None, user=None, env={})
        expect_equal((await bench.finish(box, await bench.start(box, good))).text, "good", f"the id after {what}")


@GROUP.check
async def an_id_starts_one_command(bench: Bench) -> None:
    """The same id starts a command once: while it runs, when it has ended, and from ten calls at once."""
    box = await bench.box()
    spec = ExecSpec(bench.new_id("exe"), ("bash", "-c", "echo started >> ~/starts; sleep 0.1"))
    await asyncio.gather(*[bench.runtime.execute(box, spec) for _ in range(10)])
    await bench.finish(box, spec.id)
    await bench.runtime.execute(box, spec)
    await bench.clock.sleep(0.1)
    expect_equal(await bench.read(box, "~/starts"), b"started\n", "the file that each start appends to")


@GROUP.check
async def an_id_starts_one_command_across_a_restart(bench: Bench) -> None:
    """An id that was started before the server's restart is not started again after it."""
    box = await bench.box()
    spec = ExecSpec(bench.new_id("exe"), ("bash", "-c", "echo started >> ~/starts"))
    await bench.finish(box, await bench.start(box, spec))
    await bench.reopen()
    await bench.runtime.execute(box, spec)
    await bench.clock.sleep(0.1)
    expect_equal(await bench.read(box, "~/starts"), b"started\n", "the file that each start appends to")


@GROUP.check
async def commands_run_at_once(bench: Bench) -> None:
    """Thirty commands at once run side by side, each with its own output and exit code."""
    box = await bench.box()
    # Each ends once all are there; how long that takes is the host's affair.
    meet = "for _ in {1..400}; do set -- *; [ $# = 30 ] && exit $0; sleep 0.1; done; exit 99"
    script = f"mkdir -p ~/met; cd ~/met; touch $0; echo out $0; echo err $0 >&2; {meet}"

    async def one(number: int) -> tuple[int, bytes, bytes]:
        ran = await bench.run(box, "bash", "-c", script, str(number))
        return ran.result.exit_code, ran.stdout, ran.stderr

    ran = await asyncio.gather(*[one(number) for number in range(30)])
    expect_equal(ran, [(n, b"out %d\n" % n, b"err %d\n" % n) for n in range(30)], "what they gave")


@GROUP.check
async def a_signal_reaches_the_command(bench: Bench) -> None:
    """`signal` delivers the signal, which the command may catch."""
    box = await bench.box()
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    running = await bench.start_sh(box, script)
    await bench.until_output(box, running, b"ready\n")
    await bench.runtime.signal(box, running, signals.SIGTERM)
    ran = await bench.finish(box, running)
    expect_equal((ran.result, ran.stdout), (ExecResult(5), b"ready\ncaught\n"), "the command")


@GROUP.check
async def a_signal_reaches_the_group(bench: Bench) -> None:
    """`signal` goes to the children of the command too; with `group` false to the command alone."""
    for group in (True, False):
        box = await bench.box()
        child = "while :; do date +%s%N > ~/beat; sleep 0.05; done"
        script = f"({child}) & until [ -s ~/beat ]; do sleep 0.01; done; echo ready; wait"
        running = await bench.start_sh(box, script)
        await bench.until_output(box, running, b"ready\n")
        await bench.runtime.signal(box, running, signals.SIGKILL, group=group)
        ran = await bench.finish(box, running)
        expect_equal(ran.result.signal, signals.SIGKILL, "the signal that ended it")
        await _expect_beat(bench, box, goes_on=not group)


async def _expect_beat(bench: Bench, box: str, *, goes_on: bool) -> None:
    """The child writes another time into ~/beat, or does not."""
    await bench.clock.sleep(0.2)
    last = await bench.read(box, "~/beat")

    async def beats() -> bool:
        return await bench.read(box, "~/beat") not in (last, b"")

    if goes_on:
        await bench.until(beats, "the child of a command that was signalled alone goes on")
    else:
        await bench.clock.sleep(0.3)
        expect(not await beats(), "a child was not ended with the group")


@GROUP.check
async def a_stopped_command_can_go_on(bench: Bench) -> None:
    """SIGSTOP and SIGCONT stop and continue a command; being stopped is not its end."""
    box = await bench.box()
    running = await bench.start_sh(box, "echo ready; while [ ! -e ~/go ]; do sleep 0.05; done; echo end")
    await bench.until_output(box, running, b"ready\n")
    await bench.runtime.signal(box, running, signals.SIGSTOP)
    await bench.write(box, "~/go", b"")
    await bench.clock.sleep(0.3)
    expect_equal(bench.output(box, running), b"ready\n", "the output of a stopped command")
    await bench.runtime.signal(box, running, signals.SIGCONT)
    ran = await bench.finish(box, running)
    expect_equal((ran.result, ran.stdout), (ExecResult(0), b"ready\nend\n"), "the continued command")


@GROUP.check
async def what_has_ended_takes_no_signal(bench: Bench) -> None:
    """Calls on an execution that has ended raise ExecutionEnded; on one that never was, NoSuchExecution."""
    box = await bench.box()
    ended = await bench.start(box, bench.command("true", stdin=True))
    await bench.finish(box, ended)
    with raises(ExecutionEnded, "signal"):
        await bench.runtime.signal(box, ended, 15)
    with raises(ExecutionEnded, "write_stdin"):
        await bench.runtime.write_stdin(box, ended, b"x")
    never = bench.new_id("exe")
    with raises(NoSuchExecution, "signal of none"):
        await bench.runtime.signal(box, never, 15)
    with raises(NoSuchExecution, "write_stdin to none"):
        await bench.runtime.write_stdin(box, never, b"x")
    with raises(NoSuchExecution, "attach to none"):
        await bench.runtime.attach(box, never)
    with raises(NoSuchExecution, "read_output of none"):
        bench.runtime.read_output(box, never, Stream.STDOUT, 0, 1)
    expect_equal(bench.runtime.output_size(box, never, Stream.STDOUT), 0, "the output size of none")


@GROUP.check
async def children_do_not_delay_the_end(bench: Bench) -> None:
    """The execution ends when its process ends, though a child holds its streams open; the child goes on."""
    box = await bench.box()
    script = "(until [ -e ~/go ]; do echo child; sleep 0.02; done; echo survived > ~/child) & echo parent; exit 4"
    running = await bench.start_sh(box, script)
    ran = await bench.finish(box, running)
    expect_equal(ran.result, ExecResult(4), "the result")
    expect(b"parent\n" in ran.stdout, f"the output {ran.stdout!r}")
    await bench.clock.sleep(0.1)
    await bench.write(box, "~/go", b"")

    async def survived() -> bool:
        names = [info.path for info in await bench.runtime.list_files(box, "~")]
        return any(name.endswith("/child") for name in names)

    await bench.until(survived, "the child ran to its end")
    expect_equal(bench.output(box, running), ran.stdout, "the output after the end")
