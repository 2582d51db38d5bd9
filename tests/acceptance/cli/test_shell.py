"""`corral devbox shell`: a real terminal, on both ends."""

from __future__ import annotations

import re
import termios
from collections.abc import Callable, Iterator

import pexpect
import pytest

from tests.harness.cli import Cli

Opener = Callable[..., "pexpect.spawn[bytes]"]


@pytest.fixture
def open_shell(cli: Cli) -> Iterator[Opener]:
    opened: list[pexpect.spawn[bytes]] = []

    def opener(*arguments: str, rows: int = 24, cols: int = 80) -> pexpect.spawn[bytes]:
        opened.append(cli.terminal("devbox", "shell", *arguments, rows=rows, cols=cols))
        return opened[-1]

    yield opener
    for screen in opened:
        screen.close(force=True)


def ready(screen: pexpect.spawn[bytes]) -> None:
    """Wait for the prompt, then make it one that is no part of what is typed."""
    screen.expect(rb"[$#] ")
    screen.sendline(b"PS1='ready''> '")
    screen.expect_exact(b"ready> ")


def ask(screen: pexpect.spawn[bytes], line: str, answer: str) -> None:
    screen.sendline(line.encode())
    screen.expect(answer.encode())
    screen.expect_exact(b"ready> ")


def leave(screen: pexpect.spawn[bytes]) -> int | None:
    screen.expect(pexpect.EOF)
    screen.close()
    return screen.exitstatus


def test_a_shell_has_a_prompt_and_passes_its_exit_code_on(open_shell: Opener, shared_box: str) -> None:
    screen = open_shell("shared")
    ready(screen)
    ask(screen, "tty > /dev/null && echo a-$((6 * 7))-z", "a-42-z")
    screen.sendline(b"exit 5")
    assert leave(screen) == 5


def test_the_screen_has_the_terminals_size_and_follows_it(open_shell: Opener, shared_box: str) -> None:
    screen = open_shell(shared_box, rows=31, cols=97)
    ready(screen)
    ask(screen, "stty size", "31 97")
    screen.setwinsize(40, 120)
    ask(screen, "sleep 0.5; stty size", "40 120")
    screen.sendline(b"exit")
    assert leave(screen) == 0


def test_keys_reach_the_program_and_not_this_terminal(open_shell: Opener, shared_box: str) -> None:
    screen = open_shell(shared_box)
    ready(screen)
    screen.sendline(b"cat -v")
    screen.expect_exact(b"cat -v")
    screen.send(b"\x1b[A\n")
    screen.expect_exact(b"^[[A")
    screen.sendintr()
    screen.expect_exact(b"ready> ")
    screen.sendeof()
    assert leave(screen) == 130


def test_a_full_screen_program_draws_and_ends(cli: Cli, open_shell: Opener, box: str) -> None:
    cli.out("devbox", "exec", box, "--", "seq 500 > numbers")
    screen = open_shell(box, "--", "env LESS= less -X numbers", rows=10)
    screen.expect_exact(b"9\r\n")
    screen.send(b"G")
    screen.expect_exact(b"500\r\n")
    screen.send(b"q")
    assert leave(screen) == 0


def test_a_command_has_the_terminal_and_its_exit_code(open_shell: Opener, shared_box: str) -> None:
    screen = open_shell(shared_box, "--", "test -t 0 && test -t 1 && echo both; exit 9")
    screen.expect_exact(b"both")
    assert leave(screen) == 9


def test_a_detached_shell_goes_on_and_is_come_back_to(open_shell: Opener, box: str) -> None:
    screen = open_shell(box)
    ready(screen)
    screen.sendline(b"mine=kept")
    screen.expect_exact(b"ready> ")
    screen.send(b"\x1d")
    screen.expect(rb"detached; go on with: corral devbox shell \S+ --attach (\S+)")
    assert isinstance(screen.match, re.Match)
    execution = screen.match.group(1).decode()
    assert leave(screen) == 0
    again = open_shell(box, "--attach", execution)
    again.expect_exact(b"ready> ")
    again.sendline(b"echo [$mine]")
    again.expect_exact(b"[kept]")
    again.sendline(b"exit 3")
    assert leave(again) == 3


def test_a_devbox_that_ends_closes_its_shells(cli: Cli, open_shell: Opener, box: str) -> None:
    screen = open_shell(box)
    ready(screen)
    cli.out("devbox", "shutdown", box)
    assert leave(screen) == 255


def test_a_script_is_sent_to_exec(cli: Cli, shared_box: str) -> None:
    done = cli.run("devbox", "shell", shared_box)
    assert done.returncode == 1
    assert done.stderr == b"corral: cannot open shell: this is no terminal; use `corral devbox exec` in scripts\n"


def test_this_terminal_is_given_back_as_it_was(open_shell: Opener, cli: Cli, shared_box: str) -> None:
    screen = open_shell(shared_box)
    before = termios.tcgetattr(screen.child_fd)
    ready(screen)
    raw = termios.tcgetattr(screen.child_fd)
    assert raw[3] & termios.ECHO == 0
    screen.sendline(b"exit")
    screen.expect(pexpect.EOF)
    assert termios.tcgetattr(screen.child_fd)[:4] == before[:4]


def test_a_session_is_taken_up_again_and_watched_by_its_name(open_shell: Opener, box: str) -> None:
    screen = open_shell(box, "--session", "work")
    ready(screen)
    ask(screen, "mine=kept; echo on-$((6 * 7))-screen", "on-42-screen")
    watcher = open_shell(box, "--session", "work", "--watch", rows=50, cols=150)
    watcher.expect_exact(b"on-42-screen")
    watcher.send(b"echo not-typed\r")
    ask(screen, "stty size; echo seen-$((1 + 1))-by-both", "24 80\r\nseen-2-by-both")
    watcher.expect_exact(b"seen-2-by-both")
    screen.send(b"\x1d")
    screen.expect_exact(f"detached; go on with: corral devbox shell {box} --session work".encode())
    assert leave(screen) == 0
    again = open_shell(box, "--session", "work", rows=30, cols=90)
    again.expect_exact(b"seen-2-by-both")
    again.expect_exact(b"ready> ")
    ask(again, "echo [$mine]; stty size", r"\[kept\]\r\n30 90")
    again.sendline(b"exit 3")
    assert leave(again) == 3
    assert leave(watcher) == 3
    assert b"not-typed" not in (again.before or b"") + (watcher.before or b"")


@pytest.mark.parametrize(
    "options", [("--session", "work", "--attach", "exe"), ("--session", "work", "--", "top"), ("--watch",)]
)
def test_options_of_a_shell_that_contradict_each_other_are_refused(
    open_shell: Opener, shared_box: str, options: tuple[str, ...]
) -> None:
    screen = open_shell(shared_box, *options)
    screen.expect_exact(b"corral: cannot open shell: --")
    assert leave(screen) == 1
