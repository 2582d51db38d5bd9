"""Commands: what they see, how they end, and what is said when they cannot begin."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from corral.runtime.contract import (
    BadCommand,
    BoxUnresponsive,
    ExecSpec,
    ExecutionEnded,
    NoSuchExecution,
    Progress,
    User,
)
from tests.integration.guest.box import Box, last_of, soon


async def test_output_and_status_are_in_the_files(box: Box) -> None:
    done = await box.sh("echo out; echo err >&2; exit 3")
    assert (done.code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert (done.progress.stdout, done.progress.stderr) == (4, 4)
    assert done.status == {
        "exit_code": 3,
        "signal": None,
        "stdout_bytes": 4,
        "stderr_bytes": 4,
        "stdout_cut": False,
        "stderr_cut": False,
    }


async def test_a_killed_command_has_128_plus_the_signal(box: Box) -> None:
    done = await box.sh("kill -SEGV $$")
    assert (done.code, done.result.signal) == (139, 11)
    assert (done.status["exit_code"], done.status["signal"]) == (139, 11)


async def test_a_command_sees_only_the_environment_it_should(box: Box) -> None:
    await box.client.claim(
        env={"BASE": "1", "HOME": "/base", "BOTH": "base"},
        user=User(name="user", uid=1000, gid=1000, home="/home/user"),
    )
    done = await box.run("env", env={"GIVEN": "ü=2", "BOTH": "given"})
    assert dict(line.split("=", 1) for line in done.stdout.decode().splitlines()) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "BASE": "1",
        "BOTH": "given",
        "GIVEN": "ü=2",
        "HOME": "/home/user",
        "USER": "user",
        "LOGNAME": "user",
        "SHELL": "/bin/bash",
    }


async def test_a_command_runs_as_its_user_with_its_groups_in_its_home(box: Box) -> None:
    script = "id -u; id -g; id -G; pwd; umask"
    assert (await box.sh(script, user="user")).stdout == b"1000\n1000\n1000 100 2000\n/home/user\n0022\n"
    assert (await box.sh(script, user="other", cwd="/tmp")).stdout == b"1001\n1001\n1001 2000\n/tmp\n0022\n"
    assert (await box.sh(script, user="4242:7", cwd="/")).stdout == b"4242\n7\n7\n/\n0022\n"
    assert (await box.sh(script)).stdout == b"0\n0\n0\n/root\n0022\n"


async def test_a_user_without_a_home_begins_in_the_root_folder(box: Box) -> None:
    assert (await box.sh("rmdir /home/other")).code == 0
    assert (await box.sh("pwd", user="other")).stdout == b"/\n"


async def test_a_command_has_no_descriptor_of_the_guest(box: Box) -> None:
    done = await box.run("/bin/ls", "/proc/self/fd")
    # The last is the folder that ls itself reads.
    assert done.stdout.split() == [b"0", b"1", b"2", b"3"]


async def test_a_command_has_default_signals_its_own_session_and_less_claim_on_memory(box: Box) -> None:
    done = await box.sh("cat /proc/self/status; cat /proc/self/oom_score_adj")
    *status, score = done.stdout.decode().splitlines()
    sets = dict(line.split(":\t") for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt")))
    assert {int(mask, 16) for mask in sets.values()} == {0}
    own = int(Path(f"/proc/{box.pid}/oom_score_adj").read_text())
    assert int(score) == own + 300
    done = await box.sh("cut -d' ' -f1,5,6 /proc/$$/stat")
    pid, group, session = done.stdout.split()
    assert pid == group == session


async def test_a_user_can_open_its_standard_output_by_name(box: Box) -> None:
    done = await box.sh("echo a > /dev/stdout; echo b > /proc/self/fd/2; cat /dev/stdin", user="user")
    assert (done.code, done.stdout, done.stderr) == (0, b"a\n", b"b\n")


@pytest.mark.parametrize(
    ("argv", "options", "cause"),
    [
        (["no-such-program"], {}, "no such program"),
        (["/no/such/program"], {}, "no such program"),
        (["/etc/passwd/program"], {}, "no such program"),
        (["/etc/passwd"], {}, "permission denied"),
        (["/tmp"], {}, "permission denied"),
        (["true"], {"cwd": "/nowhere"}, "the working directory does not exist"),
        (["true"], {"cwd": "/etc/passwd"}, "the working directory does not exist"),
        (["true"], {"cwd": "/root/x", "user": "user"}, "permission denied"),
        (["true"], {"user": "nobody-here"}, "no such user"),
        (["true", "x" * 200_000], {}, "arguments and environment are longer than the kernel takes"),
        (["true"], {"env": {"A=B": "c"}}, "an argument, variable or directory that no kernel takes"),
        (["true\0"], {}, "an argument, variable or directory that no kernel takes"),
        (["true", "\ud800"], {}, "an argument, variable or directory that no kernel takes"),
        ([""], {}, "an argument, variable or directory that no kernel takes"),
        ([], {}, "an argument, variable or directory that no kernel takes"),
    ],
)
async def test_what_cannot_begin_says_why_and_leaves_nothing(
    box: Box, argv: list[str], options: dict[str, str], cause: str
) -> None:
    await box.sh("chmod 700 /root; mkdir /root/x")
    with pytest.raises(BadCommand, match=f"^cannot run .*: {cause}$"):
        await box.run(*argv, **options)
    assert [state.running for state in await box.client.executions()] == [False]
    assert await soon(lambda: not Path(f"/proc/{box.pid}/task/{box.pid}/children").read_text())


@pytest.mark.slow
async def test_a_command_may_take_longer_to_begin_than_its_request(box: Box) -> None:
    """Its start is held up between fork and exec, as a busy disk or a limit of the processor does."""
    far = ":".join(["/usr/share"] * 11_000)
    starting = asyncio.ensure_future(box.run("true", env={"PATH": f"{far}:/usr/bin:/bin"}))
    async with asyncio.timeout(5):
        while not (children := Path(f"/proc/{box.pid}/task/{box.pid}/children").read_text().split()):
            await asyncio.sleep(0.001)
    os.kill(int(children[0]), signal.SIGSTOP)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(starting), 11)  # a request has 10 s, a start has 30
    os.kill(int(children[0]), signal.SIGCONT)
    assert (await starting).code == 0


async def test_a_script_without_an_interpreter_line_is_not_executable(box: Box) -> None:
    await box.sh("echo 'echo hi' > /tmp/script; chmod +x /tmp/script")
    with pytest.raises(BadCommand, match="not a program that the kernel can run"):
        await box.run("/tmp/script")


async def test_the_same_id_starts_once(box: Box) -> None:
    script = ("/bin/sh", "-c", "echo $$ >> /tmp/starts; sleep 0.2")
    spec = ExecSpec(id="once", argv=script)
    spools = [box.spool(f"spool{n}") for n in range(4)]
    followings = await asyncio.gather(
        *(box.client.execute(spec, spool.fds) for spool in spools)  # type: ignore[arg-type] # three of them
    )
    assert sorted(following.known for following in followings) == [False, True, True, True]
    results = await asyncio.gather(*(last_of(following) for following in followings))
    assert {progress.result for progress in results} == {results[0].result}
    again = await box.client.execute(spec, spools[0].fds)  # type: ignore[arg-type] # three of them
    assert again.known
    assert (await last_of(again)).result == results[0].result
    assert len((await box.sh("cat /tmp/starts")).stdout.split()) == 1
    for spool in spools:
        spool.close()


async def test_two_thousand_lines_arrive_as_they_are_written(box: Box) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done"
    seen: list[Progress] = []
    async with box.start_command("/bin/bash", "-c", script) as (_, following, spool):
        async for progress in following.events():
            assert len(spool.stdout) >= progress.stdout
            seen.append(progress)
    assert spool.stdout.decode().splitlines() == [f"line {n}" for n in range(1, 2001)]
    assert [progress.stdout for progress in seen] == sorted(progress.stdout for progress in seen)


async def test_output_is_told_within_the_pace_and_events_are_coalesced(box: Box) -> None:
    script = "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.005; done"
    began = time.monotonic()
    count, first = 0, 0.0
    async with box.start_command("/bin/bash", "-c", script) as (_, following, _):
        async for progress in following.events():
            count += 1
            if progress.stdout and not first:
                first = time.monotonic() - began
    took = time.monotonic() - began
    assert first < took / 2
    assert 3 <= count <= took / 0.020 + 3


async def test_output_over_the_limit_is_cut_and_the_command_goes_on(box: Box) -> None:
    done = await box.sh("head -c 3000000 /dev/zero; echo small >&2; echo more; exit 5", limit=100_000)
    assert (done.code, len(done.stdout), done.stderr) == (5, 100_000, b"small\n")
    assert (done.result.stdout_cut, done.result.stderr_cut) == (True, False)
    assert (done.status["stdout_bytes"], done.status["stdout_cut"]) == (100_000, True)


async def test_a_background_child_neither_delays_the_end_nor_is_stopped_by_it(box: Box) -> None:
    # The child ends only after the command has been seen to end; and it writes more than a pipe holds.
    child = "until test -e /tmp/go; do sleep 0.02; done; head -c 300000 /dev/zero; echo late; echo alive > /tmp/alive"
    done = await box.sh(f"({child}) & echo now")
    assert (done.code, done.stdout) == (0, b"now\n")
    await box.sh("touch /tmp/go; until test -s /tmp/alive; do sleep 0.02; done")
    assert (await box.sh("cat /tmp/alive")).stdout == b"alive\n"
    assert done.spool.stdout == b"now\n"


async def test_what_was_written_before_the_end_is_whole_though_a_child_holds_the_pipe(box: Box) -> None:
    script = "sleep 5 & head -c 65536 /dev/zero | tr '\\0' x; printf done"
    for _ in range(20):
        done = await box.sh(script)
        assert done.stdout == b"x" * 65536 + b"done"


async def test_a_command_outlives_its_connection_and_can_be_waited_for(box: Box) -> None:
    async with box.start_command("/bin/sh", "-c", "sleep 0.2; echo later", name="kept") as (_, following, spool):
        await following.close()
    async with await box.client.wait("kept") as again:
        assert again.known
        last = await last_of(again)
    assert last.result is not None
    assert (last.result.exit_code, spool.stdout) == (0, b"later\n")
    async with await box.client.wait("kept") as ended:
        assert (await last_of(ended)).result == last.result


async def test_an_unknown_execution_is_said_to_be_unknown(box: Box) -> None:
    with pytest.raises(NoSuchExecution):
        await box.client.wait("never")
    with pytest.raises(NoSuchExecution):
        await box.client.signal("never", signal.SIGTERM)


async def test_signals_reach_the_group_or_the_process_and_none_after_the_end(box: Box) -> None:
    script = "trap 'echo got; exit 4' TERM; sleep 30 & echo ready; wait"
    async with box.start_command("/bin/bash", "-c", script) as (name, following, spool):
        await _until(following.events(), lambda progress: progress.stdout > 0)
        await box.client.signal(name, signal.SIGTERM, group=False)
        async with await box.client.wait(name) as again:
            last = await last_of(again)
    assert last.result is not None
    assert (last.result.exit_code, spool.stdout) == (4, b"ready\ngot\n")
    with pytest.raises(ExecutionEnded):
        await box.client.signal(name, signal.SIGTERM)

    async with box.start_command("/bin/bash", "-c", "sleep 31 & wait") as (name, following, _):
        await box.client.signal(name, signal.SIGKILL)
        last = await last_of(following)
    assert last.result is not None
    assert last.result.signal == signal.SIGKILL
    # All of the group were sent the signal; the kernel lets the others die in its own time.
    assert (await box.sh("while pgrep -f '[s]leep 31'; do sleep 0.02; done")).code == 0


async def test_no_such_signal_is_refused(box: Box) -> None:
    async with box.start_command("sleep", "30") as (name, _, _):
        with pytest.raises(ValueError, match="99 is no signal"):
            await box.client.signal(name, 99)
        await box.client.signal(name, signal.SIGKILL)


async def test_orphans_are_reaped(box: Box) -> None:
    await box.sh("for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.05 & ) ; done")
    # One that has ended and was not reaped is found by its name too.
    assert (await box.sh("while pgrep -x sleep; do :; done")).code == 0


async def test_the_thousand_last_executions_are_remembered(box: Box) -> None:
    async def some(part: int) -> None:
        for number in range(part, 1005, 5):
            await box.run("/bin/true", name=f"n{number:04}")

    await box.run("/bin/true", name="first")
    await asyncio.gather(*(some(part) for part in range(5)))
    states = await box.client.executions()
    assert len(states) == 1000
    assert not any(state.running for state in states)
    assert all(state.exit_code == 0 for state in states)
    with pytest.raises(NoSuchExecution):
        await box.client.wait("first")


async def test_descriptors_that_are_no_files_for_writing_are_refused(box: Box) -> None:
    with Path("/dev/null").open("wb") as null, Path("/etc/hostname").open("rb") as readable:
        spool = box.spool("odd")
        for bad in (null.fileno(), readable.fileno()):
            with pytest.raises(BoxUnresponsive, match="bad-request"):
                await box.client.execute(ExecSpec(id="odd", argv=("true",)), (bad, spool.fds[1], spool.fds[2]))
        spool.close()


async def test_a_hundred_commands_at_once_all_end(box: Box) -> None:
    done = await asyncio.gather(*(box.sh(f"echo {n}; exit {n}") for n in range(100)))
    assert [(one.code, one.stdout) for one in done] == [(n, f"{n}\n".encode()) for n in range(100)]
    assert box.descriptors() < 20


async def _until(events, condition) -> None:  # type: ignore[no-untyped-def] # a helper of this module
    async for progress in events:
        if condition(progress):
            return
    pytest.fail("the command ended first")
