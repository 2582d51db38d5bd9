"""`corral devbox shell`: this terminal becomes one of the devbox."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from corral_sdk import _retry, errors
from corral_sdk._async.client import AsyncCorral
from corral_sdk._async.terminal import AsyncTerminal
from corral_sdk.cli import common, devbox_exec, output
from corral_sdk.models import TerminalSize

#: Ctrl-], as in telnet: a key that programs hardly use.
DETACH = b"\x1d"
#: Seconds between two tries to send a key while the connection is down.
RESEND_S = 0.1


def shell(
    devbox: common.DevboxName,
    command: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="In place of a shell.")] = None,
    attach: Annotated[
        str | None, typer.Option(metavar="EXECUTION", help="Go on with a terminal that was detached.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="NAME", help="The shell of this name, which is started if there is none.")
    ] = None,
    watch: Annotated[bool, typer.Option(help="Look on without typing.")] = False,
) -> None:
    """Open a terminal in a devbox: a login shell, or a command that needs a screen.

    Ctrl-] detaches: the shell goes on, and --attach or --session comes back to it. The exit code is the shell's own.
    A session may be open in several terminals at once. It ends when nobody has been there for as long as the server's
    setting CORRAL_SESSION_IDLE_S says: an hour, unless its operator has changed it.

    \b
    Examples:
      corral devbox shell first
      corral devbox shell first -- top
      corral devbox shell first --attach $execution
      corral devbox shell first --session work
      corral devbox shell first --session work --watch
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise errors.Invalid("cannot open shell: this is no terminal; use `corral devbox exec` in scripts")
    if session is not None and (command or attach):
        raise errors.Invalid("cannot open shell: --session goes neither with a command nor with --attach")
    if watch and session is None and attach is None:
        raise errors.Invalid("cannot open shell: --watch needs --session or --attach")
    raise typer.Exit(asyncio.run(_shell(devbox, command or [], _Wish(attach, session, watch=watch))))


@dataclass(frozen=True)
class _Wish:
    """Which terminal is meant when it is not a new one."""

    attach: str | None
    session: str | None
    watch: bool

    def again(self, execution_id: str) -> str:
        """The options that come back to it."""
        return f"--attach {execution_id}" if self.session is None else f"--session {self.session}"


async def _shell(devbox: str, command: list[str], wish: _Wish) -> int:
    async with AsyncCorral() as corral:
        box = await corral.devboxes.find(devbox)
        line = devbox_exec.command_line(command, {}) if command else None
        terminal = box.terminal(line, size=_size(), attach_to=wish.attach, session=wish.session, read_only=wish.watch)
        with output.spinner(f"opening a terminal in {box.id}"):
            await terminal.open()
        try:
            with raw_mode():
                ended = await Session(terminal, watch=wish.watch).run()
            if ended:
                code = await terminal.exit_code()
                if not terminal.execution.info.lost:
                    return code
                output.fail(f"cannot tell how the shell ended: devbox {box.id} ended first")
                return devbox_exec.INFRASTRUCTURE
        finally:
            await terminal.detach()
    output.say(f"\r\ndetached; go on with: corral devbox shell {devbox} {wish.again(terminal.execution.id)}")
    return 0


class Session:
    """One person at one terminal, until the command ends or the person detaches."""

    def __init__(self, terminal: AsyncTerminal, *, watch: bool = False) -> None:
        self._terminal = terminal
        self._watch = watch
        self._typed: asyncio.Queue[bytes | TerminalSize] = asyncio.Queue()
        self._detached = asyncio.Event()

    async def run(self) -> bool:
        """Return True when the command has ended, False when the person has detached."""
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self._on_key)
        loop.add_signal_handler(signal.SIGWINCH, lambda: self._put(_size()))
        down = asyncio.create_task(self._show())
        up = asyncio.create_task(self._send())
        leave = asyncio.create_task(self._detached.wait())
        try:
            await asyncio.wait((down, leave), return_when=asyncio.FIRST_COMPLETED)
            if down.done():
                down.result()
                return True
            return False
        finally:
            loop.remove_reader(0)
            loop.remove_signal_handler(signal.SIGWINCH)
            for task in (down, up, leave):
                task.cancel()
            await asyncio.gather(down, up, leave, return_exceptions=True)

    def _on_key(self) -> None:
        data = os.read(0, 65536)
        if not data or DETACH in data:
            self._detached.set()
        else:
            self._put(data)

    def _put(self, item: bytes | TerminalSize) -> None:
        if not self._watch:
            self._typed.put_nowait(item)

    async def _show(self) -> None:
        while True:
            try:
                data = await self._terminal.read()
            except errors.Unreachable:
                await self._reopen()
                continue
            if not data:
                return
            _write(data)

    async def _send(self) -> None:
        while True:
            item = await self._typed.get()
            while not await self._sent(item):  # noqa: ASYNC110 - `_show` opens the connection again or ends this
                await asyncio.sleep(RESEND_S)

    async def _sent(self, item: bytes | TerminalSize) -> bool:
        try:
            if isinstance(item, TerminalSize):
                await self._terminal.resize(item)
            else:
                await self._terminal.write(item)
        except (errors.Unreachable, errors.WrongState):
            return False
        return True

    async def _reopen(self) -> None:
        """Attach again to the same command, for as long as a lost connection is worth it."""
        attempts = _retry.Attempts(reached=True)
        while True:
            try:
                await self._terminal.open()
            except errors.Unreachable as failure:
                pause = attempts.pause(failure)
                if pause is None:
                    raise
                await asyncio.sleep(pause)
            else:
                # The devbox sends its recent output again; on a clean screen it reads as it did.
                _write(b"\x1b[2J\x1b[H")
                return


@contextlib.contextmanager
def raw_mode() -> Iterator[None]:
    """Pass every key on; give the terminal back as it was."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _size() -> TerminalSize:
    size = os.get_terminal_size(1)
    return TerminalSize(rows=max(1, min(1000, size.lines)), cols=max(1, min(1000, size.columns)))
