"""What a person at the command line notices of a server that goes away and comes back: nothing but the time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cli import Cli
from tests.harness.dialect import Dialect
from tests.harness.server import Server

pytestmark = [pytest.mark.root, pytest.mark.image]


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data", runtime="oci") as running:
        yield running


@pytest.fixture
def own_cli(own_server: Server, tmp_path: Path) -> Cli:
    return Cli(own_server, tmp_path)


@pytest.mark.parametrize("ends", ["stop", "kill9"])
def test_a_command_goes_on_and_none_of_its_output_is_lost(own_server: Server, own_cli: Cli, ends: str) -> None:
    box = own_cli.out("devbox", "create").strip()
    line = "for n in $(seq 200); do echo out $n; echo err $n >&2; sleep 0.03; done; exit 17"
    with own_cli.start("devbox", "exec", box, "--", line) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        getattr(own_server, ends)()
        own_server.start()
        rest, told = process.communicate(timeout=60)
    assert process.returncode == 17
    assert (first + rest).decode() == "".join(f"out {n}\n" for n in range(1, 201))
    assert told.decode() == "".join(f"err {n}\n" for n in range(1, 201))


@pytest.mark.parametrize("ends", ["stop", "kill9"])
def test_a_log_is_followed_on_and_no_line_is_lost_or_told_twice(own_server: Server, own_cli: Cli, ends: str) -> None:
    box = own_cli.out("devbox", "create").strip()
    line = "for n in $(seq 200); do echo out $n; echo err $n >&2; sleep 0.03; done"
    with own_cli.start("devbox", "logs", "--follow", "--json", box) as process:
        own_cli.run("devbox", "exec", box, "--", "true")
        with own_cli.start("devbox", "exec", box, "--", line) as command:
            assert command.stdout is not None
            command.stdout.readline()
            getattr(own_server, ends)()
            own_server.start()
            _, said = command.communicate(timeout=60)
            assert command.returncode == 0, said
        own_cli.out("devbox", "shutdown", box)
        told, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    messages = [json.loads(one).get("message", "") for one in told.splitlines()]
    for stream in ("out", "err"):
        wanted = [f"{stream} {n}" for n in range(1, 201)]
        assert [one for one in messages if one.startswith(stream)] == wanted
    assert messages.count("exited with code 0") == 2


def test_a_shell_is_attached_again(own_server: Server, own_cli: Cli) -> None:
    box = own_cli.out("devbox", "create").strip()
    screen = own_cli.terminal("devbox", "shell", box)
    screen.expect(rb"[$#] ")
    screen.sendline(b"PS1='ready''> '; mine=kept")
    screen.expect_exact(b"ready> ")
    own_server.restart()
    screen.expect_exact(b"\x1b[2J\x1b[H")
    screen.sendline(b"echo [$mine]; exit 6")
    screen.expect_exact(b"[kept]")
    screen.read()
    screen.close()
    assert screen.exitstatus == 6


def test_a_session_outlives_the_server_and_its_tunnel_is_made_anew(own_server: Server, own_cli: Cli) -> None:
    box = own_cli.out("devbox", "create").strip()
    opened = Dialect(own_server, box)
    assert opened.session("main")["created"] is True
    with opened.attach("main") as terminal:
        opened.until(terminal, b"$ ")
        terminal.send(b"mine=kept; echo at-$((40 + 2))\n")
        opened.until(terminal, b"at-42")
    own_server.kill9()
    own_server.start()
    assert opened.call("GET", "/pty/main").status_code == 401
    again = Dialect(own_server, box)
    assert again.session("main")["created"] is False
    with again.attach("main") as terminal:
        again.until(terminal, b"at-42")
        terminal.send(b"echo [$mine]; exit\n")
        again.until(terminal, b"[kept]")
        assert again.close_code(terminal) == 4000
