"""The dialect's terminals with full-screen programs, over a real WebSocket."""

from __future__ import annotations

from tests.harness.cli import Cli
from tests.harness.dialect import Dialect
from tests.harness.server import Server


def test_a_full_screen_program_is_drawn_resized_signalled_and_left(cli: Cli, server: Server, box: str) -> None:
    cli.out("devbox", "exec", box, "--", "seq -f line-%g 500 > numbers")
    through = Dialect(server, box)
    assert through.session("screen", cols=60, rows=10)["rows"] == 10
    with through.attach("screen") as terminal:
        terminal.send(b"env LESS= less numbers\n")
        first = through.until(terminal, b"line-9\r\n")
        assert b"\x1b[?1049h" in first  # the screen of its own
        assert b"line-10" not in first
        body = {"action": "resize", "cols": 60, "rows": 20}
        through.call("POST", "/pty/screen/control", json=body).raise_for_status()
        through.until(terminal, b"line-19\r\n")
        terminal.send(b"G")
        through.until(terminal, b"line-500\r\n")
    with through.attach("screen") as terminal:
        through.until(terminal, b"line-500\r\n")  # is still on the screen of who comes back
        terminal.send(b"g")
        through.until(terminal, b"line-1\r\n")
        signal = {"action": "signal", "signal": "SIGTERM"}
        through.call("POST", "/pty/screen/control", json=signal).raise_for_status()
        through.until(terminal, b"\x1b[?1049l")  # back to the shell, which is not what was signalled
        terminal.send(b"echo shell-$((1 + 1)); exit\n")
        through.until(terminal, b"shell-2")
        assert through.close_code(terminal) == 4000


def test_a_session_that_is_closed_takes_its_jobs_with_it(cli: Cli, server: Server, box: str) -> None:
    through = Dialect(server, box)
    with through.attach("build") as terminal:
        terminal.send(b"echo go-$((1 + 1)); sleep 987654\n")
        through.until(terminal, b"go-2\r\n")
        through.call("POST", "/pty/build/control", json={"action": "close"}).raise_for_status()
        assert through.close_code(terminal) == 4000
    assert through.session("build")["created"] is True
    cli.out("devbox", "exec", box, "--", "while pgrep -f '[s]leep 987654'; do sleep 0.02; done")
