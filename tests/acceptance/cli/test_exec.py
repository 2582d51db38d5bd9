"""`corral devbox exec`: a command there is like one here."""

from __future__ import annotations

import hashlib
import random
import signal
import time

import pytest

from tests.harness.cli import Cli


def test_both_streams_and_the_exit_code_are_the_commands_own(cli: Cli, shared_box: str) -> None:
    done = cli.run("devbox", "exec", shared_box, "--", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_a_devbox_answers_to_its_name(cli: Cli, shared_box: str) -> None:
    assert cli.out("devbox", "exec", "shared", "--", "echo", "a  b", "$HOME") == "a  b $HOME\n"


def test_a_command_killed_by_a_signal_ends_with_128_and_its_number(cli: Cli, shared_box: str) -> None:
    assert cli.run("devbox", "exec", shared_box, "--", "kill -9 $$").returncode == 137


def test_two_thousand_lines_arrive_as_they_were_written(cli: Cli, shared_box: str) -> None:
    assert cli.out("devbox", "exec", shared_box, "--", "seq 2000; printf 'ü no line end'") == (
        "".join(f"{number}\n" for number in range(1, 2001)) + "ü no line end"
    )


def test_piped_input_reaches_the_command_whole(cli: Cli, shared_box: str) -> None:
    sent = "".join(f"line {number} ü {random.random()}\n" for number in range(20_000)).encode()
    done = cli.run("devbox", "exec", shared_box, "--", "sha256sum | cut -d' ' -f1", stdin=sent)
    assert done.stdout.decode().strip() == hashlib.sha256(sent).hexdigest()


def test_a_command_may_end_before_it_has_read_its_input(cli: Cli, shared_box: str) -> None:
    done = cli.run("devbox", "exec", shared_box, "--", "head -n 1", stdin=b"first\n" + b"more\n" * 200_000)
    assert (done.stdout, done.returncode) == (b"first\n", 0)


def test_input_that_is_no_text_is_refused_with_the_way_out(cli: Cli, shared_box: str) -> None:
    done = cli.run("devbox", "exec", shared_box, "--", "cat", stdin=b"\xff\xfe\x00")
    assert done.returncode == 255
    assert b"it is not UTF-8 text; send it with `corral devbox cp" in done.stderr


def test_without_piped_input_the_command_sees_its_end(cli: Cli, shared_box: str) -> None:
    assert cli.out("devbox", "exec", shared_box, "--", "cat; echo end") == "end\n"


def test_output_arrives_while_the_command_runs(cli: Cli, shared_box: str) -> None:
    process = cli.start("devbox", "exec", shared_box, "--", "echo first; sleep 3; echo second")
    assert process.stdout is not None
    first = process.stdout.readline()
    seen = time.monotonic()
    rest, _ = process.communicate(timeout=30)
    assert (first, rest) == (b"first\n", b"second\n")
    assert time.monotonic() - seen > 1.5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_kills_the_command_there(cli: Cli, box: str, number: signal.Signals) -> None:
    process = cli.start("devbox", "exec", box, "--", "echo started; sleep 300; echo never")
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    process.send_signal(number)
    rest, _ = process.communicate(timeout=20)
    assert (process.returncode, rest) == (130, b"")
    (execution,) = cli.json("devbox", "executions", box)
    assert (execution["status"], execution["exit_status"]) == ("completed", 137)


def test_a_reader_that_leaves_kills_the_command_there(cli: Cli, box: str) -> None:
    with cli.start("devbox", "exec", box, "--", "while true; do echo line; sleep 0.05; done") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.wait(timeout=20) == 141
    (execution,) = cli.json("devbox", "executions", box)
    assert execution["status"] == "completed"


def test_variables_are_given_to_the_command(cli: Cli, shared_box: str) -> None:
    told = cli.out("devbox", "exec", shared_box, "-e", "A=it's $B", "-e", "C=", "--", 'echo "$A" "[$C]"')
    assert told == "it's $B []\n"


def test_a_named_shell_keeps_its_folder_and_its_variables(cli: Cli, box: str) -> None:
    cli.out("devbox", "exec", box, "--shell", "work", "--", "mkdir -p deep && cd deep && export KEPT=yes")
    assert cli.out("devbox", "exec", box, "--shell", "work", "--", 'echo "$(basename "$PWD") $KEPT"') == "deep yes\n"
    assert cli.out("devbox", "exec", box, "--shell", "other", "--", 'echo "[$KEPT]"') == "[]\n"


def test_json_is_one_document_with_everything(cli: Cli, shared_box: str) -> None:
    done = cli.run("devbox", "exec", shared_box, "--json", "--", "echo out; echo err >&2; exit 3")
    assert done.returncode == 3
    assert done.stderr == b""
    document = done.stdout.decode()
    assert document.count("\n") == 1
    told = cli.json("devbox", "executions", shared_box)[0]
    assert f'"execution_id": "{told["execution_id"]}"' in document
    assert '"exit_code": 3, "stdout": "out\\n", "stderr": "err\\n"' in document


@pytest.mark.parametrize("name", ["no-such-devbox", "dbx_000000000000000000000"])
def test_an_unknown_devbox_is_a_failure_of_the_infrastructure(cli: Cli, name: str) -> None:
    done = cli.run("devbox", "exec", name, "--", "true")
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.startswith(b"corral: cannot ")


def test_an_ended_devbox_runs_nothing(cli: Cli, box: str) -> None:
    cli.out("devbox", "shutdown", box)
    done = cli.run("devbox", "exec", box, "--", "true")
    assert done.returncode == 255
    assert b"shutdown" in done.stderr


def test_a_devbox_that_ends_meanwhile_is_told(cli: Cli, box: str) -> None:
    process = cli.start("devbox", "exec", box, "--", "echo started; sleep 300")
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    cli.out("devbox", "shutdown", box)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 255
    assert f"devbox {box} ended first" in told.decode()


def test_a_missing_dash_is_wrong_usage(cli: Cli, shared_box: str) -> None:
    done = cli.run("devbox", "exec", shared_box, "ls", "-la")
    assert done.returncode == 2
    assert done.stderr.startswith(b"corral: cannot read the command line: no such option: -l")
