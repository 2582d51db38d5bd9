"""`corral devbox create|list|show|logs|executions|shutdown`: a devbox from its begin to its end."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness.cli import Cli


def test_create_prints_the_id_of_a_running_devbox_and_nothing_else(cli: Cli) -> None:
    done = cli.run("devbox", "create", "--name", "named")
    devbox_id = done.stdout.decode().strip()
    assert devbox_id.startswith("dbx_")
    assert done.stdout.count(b"\n") == 1
    assert b"running after" in done.stderr
    shown = cli.json("devbox", "show", "named")
    assert (shown["id"], shown["status"], shown["name"]) == (devbox_id, "running", "named")
    cli.out("devbox", "shutdown", "named")
    assert cli.json("devbox", "show", devbox_id)["status"] == "shutdown"


def test_what_was_asked_for_is_in_the_devbox(cli: Cli) -> None:
    (cli.folder / "setup.sh").write_text("echo from-the-file > made\n")
    document = cli.json(
        "devbox", "create", "--size", "x_small", "--env", "A=it's", "--metadata", "team=search", "--idle", "600",
        "--file", "setup.sh:setup.sh", "--launch-command", "bash setup.sh", "--launch-command", "echo again >> made",
    )  # fmt: skip
    devbox_id = document["id"]
    assert document["status"] == "running"
    assert document["metadata"] == {"team": "search"}
    assert cli.out("devbox", "exec", devbox_id, "--", 'echo "$A"; cat made') == "it's\nfrom-the-file\nagain\n"
    shown = cli.out("devbox", "show", devbox_id)
    assert "X_SMALL" in shown
    assert "team" in shown
    assert "→ running" in shown
    cli.out("devbox", "shutdown", devbox_id)


def test_a_launch_command_that_fails_is_told_with_its_reason(cli: Cli) -> None:
    done = cli.run("devbox", "create", "--name", "broken", "--launch-command", "exit 9")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"it ended in failure (launch failed" in done.stderr
    assert cli.json("devbox", "show", "broken")["reason"] == "launch_failed"


def test_create_does_not_wait_when_it_shall_not(cli: Cli) -> None:
    devbox_id = cli.out("devbox", "create", "--no-wait", "--launch-command", "sleep 30").strip()
    assert cli.json("devbox", "show", devbox_id)["status"] in {"provisioning", "initializing"}
    assert cli.json("devbox", "shutdown", devbox_id)[0]["status"] == "shutdown"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "HUGE"], "HUGE"),
        (["--size", "SMALL", "--cpu", "2"], "give either a size or --cpu"),
        (["--env", "A"], "'A' is not KEY=VALUE"),
        (["--file", "alone"], "'alone' is not HOST:BOX"),
        (["--cpu", "many"], "invalid value for '--cpu'"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_made(cli: Cli, arguments: list[str], told: str) -> None:
    done = cli.run("devbox", "create", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in done.stderr.decode()


def test_a_value_that_the_server_refuses_is_told_with_its_rule(cli: Cli) -> None:
    done = cli.run("devbox", "create", "--cpu", "0.7", "--memory", "2")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"corral: cannot create devbox: " in done.stderr
    assert b"custom_cpu_cores" in done.stderr


def test_list_shows_live_devboxes_and_ended_ones_when_asked(cli: Cli, box: str) -> None:
    ended = cli.out("devbox", "create", "--metadata", f"mark={box}").strip()
    cli.out("devbox", "shutdown", ended)
    live = cli.out("devbox", "list")
    assert live.split()[:6] == ["ID", "NAME", "STATUS", "SIZE", "AGE", "REASON"]
    assert box in live
    assert ended not in live
    assert {box, ended} <= {shown["id"] for shown in cli.json("devbox", "list", "--all")}
    assert [shown["id"] for shown in cli.json("devbox", "list", "--all", "--metadata", f"mark={box}")] == [ended]
    assert ended in {shown["id"] for shown in cli.json("devbox", "list", "--status", "shutdown")}
    assert cli.json("devbox", "list", "--name", "no-such-name") == []


def test_list_says_when_there_are_more(cli: Cli, box: str, shared_box: str) -> None:
    done = cli.run("devbox", "list", "--limit", "1")
    assert done.stdout.decode().splitlines()[1].split()[0] == box
    assert b"--limit shows more" in done.stderr


def test_shutdown_takes_several_and_says_which_could_not_be_ended(cli: Cli) -> None:
    ids = [cli.out("devbox", "create").strip() for _ in range(2)]
    done = cli.run("devbox", "shutdown", *ids)
    assert (done.returncode, done.stdout.decode().split()) == (0, ids)
    assert cli.out("devbox", "shutdown", ids[0]).strip() == ids[0]  # again, without effect
    assert cli.run("devbox", "shutdown", "no-such-devbox").returncode == 1
    assert cli.run("devbox", "shutdown").returncode == 2


def test_logs_hold_the_commands_and_outlive_the_devbox(cli: Cli, box: str) -> None:
    cli.run("devbox", "exec", box, "--", "echo in-the-log; exit 4")
    cli.out("devbox", "shutdown", box)
    entries = cli.json("devbox", "logs", box)
    assert any("in-the-log" in (entry.get("message") or "") + (entry.get("cmd") or "") for entry in entries)
    assert "in-the-log" in cli.out("devbox", "logs", box)
    (execution,) = cli.json("devbox", "executions", box)
    only = cli.json("devbox", "logs", "--execution", execution["execution_id"], box)
    assert only
    assert {entry["cmd_id"] for entry in only} == {execution["execution_id"]}


def test_logs_are_followed_until_the_devbox_ends(cli: Cli, box: str) -> None:
    process = cli.start("devbox", "logs", "--follow", box)
    cli.out("devbox", "exec", box, "--", "echo while-followed")
    time.sleep(1)
    cli.out("devbox", "shutdown", box)
    told, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    said = [line.split(maxsplit=2)[-1] for line in told.decode().splitlines()]
    assert said == ["exec: $ echo while-followed", "exec: while-followed", "exec: exited with code 0"]


def test_a_log_that_is_followed_says_what_happens_to_files(cli: Cli, box: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    process = cli.start("devbox", "logs", "--follow", "--json", box)
    cli.out("devbox", "cp", str(tmp_path / "a.txt"), f"{box}:a.txt")
    time.sleep(1)
    cli.out("devbox", "shutdown", box)
    told, _ = process.communicate(timeout=20)
    entries = [json.loads(line) for line in told.splitlines()]
    assert any(one["source"] == "files" and one["message"] == "upload a.txt as user: 4 bytes" for one in entries)


def test_executions_are_listed_with_their_ends(cli: Cli, box: str) -> None:
    cli.run("devbox", "exec", box, "--", "exit 5")
    cli.out("devbox", "exec", box, "--", "true")
    table = cli.out("devbox", "executions", box).splitlines()
    assert table[0].split() == ["ID", "STATUS", "EXIT", "AGE", "TOOK", "COMMAND"]
    assert [row.split()[1:3] for row in table[1:]] == [["completed", "0"], ["completed", "5"]]


def completion(cli: Cli, *words: str) -> subprocess.CompletedProcess[bytes]:
    line = " ".join(["corral", *words])
    settings = {"_CORRAL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    return cli.run(env=settings)


def test_the_shell_completes_verbs_and_devboxes(cli: Cli, shared_box: str) -> None:
    assert completion(cli, "devbox", "sh").stdout.decode().split() == ["show", "shell", "shutdown"]
    assert "shared" in completion(cli, "devbox", "show", "sha").stdout.decode().split()
    assert shared_box in completion(cli, "devbox", "exec", shared_box[:8]).stdout.decode().split()


def test_completion_is_silent_without_a_server(cli: Cli) -> None:
    cli.env["CORRAL_URL"] = "http://127.0.0.1:9"
    done = completion(cli, "devbox", "show", "sha")
    assert (done.stdout.strip(), done.stderr) == (b"", b"")


def test_a_wrong_key_is_told(cli: Cli) -> None:
    done = cli.run("devbox", "list", env={"CORRAL_API_KEY": "ak_wrong"})
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"corral: cannot ")
    assert b"key" in done.stderr


def test_the_key_is_found_where_the_server_wrote_it(cli: Cli, shared_box: str) -> None:
    data = Path(cli.server.data)
    assert (data / "api-key").stat().st_mode & 0o777 == 0o600
    del cli.env["CORRAL_API_KEY"]
    done = cli.run("devbox", "list", env={"CORRAL_DATA": str(data)})
    assert done.returncode == 0
    assert shared_box in done.stdout.decode()


def test_a_server_that_does_not_run_is_told_without_a_trace(cli: Cli) -> None:
    done = cli.run("devbox", "list", env={"CORRAL_URL": "http://127.0.0.1:9"})
    assert done.returncode == 1
    assert done.stderr == (
        b"corral: cannot reach server http://127.0.0.1:9: connection refused; is `corral serve` running there?\n"
    )


def test_json_errors_leave_stdout_empty(cli: Cli) -> None:
    done = cli.run("devbox", "show", "--json", "no-such-devbox")
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_table_on_a_terminal_has_colour_unless_it_is_unwanted(cli: Cli, shared_box: str) -> None:
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        cli.env |= env
        screen = cli.terminal("devbox", "list", cols=160)
        drawn = screen.read()
        screen.close()
        assert screen.exitstatus == 0
        assert shared_box.encode() in drawn
        assert (b"\x1b[32m" in drawn) is coloured
