"""`corral devbox exec`: a command in a devbox as if it ran here."""

from __future__ import annotations

import codecs
import os
import shlex
import signal
import stat
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Annotated, BinaryIO

import typer

from corral_sdk import errors
from corral_sdk._sync.devbox import Devbox
from corral_sdk._sync.execution import Execution
from corral_sdk.cli import common, output

#: The exit code of a command that could not be run to its end, as ssh has it.
INFRASTRUCTURE = 255
INTERRUPTED = 130
#: Whoever read our output has left: 128 and the number of SIGPIPE.
BROKEN_PIPE = 141
STDIN_CHUNK = 64 * 1024


def exec_(
    devbox: common.DevboxName,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command and its arguments.")],
    shell: Annotated[
        str | None, typer.Option(metavar="NAME", help="Keep working folder and environment between its commands.")
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="KEY=VALUE", help="For this command.")
    ] = None,
    stdin: Annotated[bool, typer.Option("--stdin/--no-stdin", help="Send what is piped into this.")] = True,
    json: common.Json = False,
) -> None:
    """Run a command in a devbox; its output, its input and its exit code are this command's own.

    One argument after `--` is a line for the shell of the devbox, several are a program and its arguments. Ctrl-C
    kills the command there. The exit code is the command's, or 255 when it could not be run to its end.

    \b
    Examples:
      corral devbox exec first -- python3 --version
      corral devbox exec first -- 'cd /tmp && ls | wc -l'
      corral devbox exec first --shell work -- cd project
      echo 'print(6 * 7)' | corral devbox exec first -- python3 -
    """
    try:
        with common.server() as corral:
            line = command_line(command, common.pairs("--env", env or ()))
            code = _run(corral.devboxes.find(devbox), line, shell, stdin and is_piped(0), json)
    except errors.CorralError as error:
        output.fail(error.message)
        raise typer.Exit(INFRASTRUCTURE) from error
    raise typer.Exit(code)


def command_line(command: list[str], env: dict[str, str]) -> str:
    """Return the line for the devbox's shell."""
    line = command[0] if len(command) == 1 else shlex.join(command)
    for name in env:
        if not name.replace("_", "a").isalnum() or name[0].isdigit():
            raise typer.BadParameter(f"{name!r} cannot be the name of a variable", param_hint="--env")
    exports = [f"export {name}={shlex.quote(value)}; " for name, value in env.items()]
    return "".join(exports) + line


def is_piped(descriptor: int) -> bool:
    """Whether something comes in: a pipe, a socket or a file, but neither a terminal nor /dev/null."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # closed by whoever started us
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)


def _run(box: Devbox, line: str, shell: str | None, stdin: bool, json: bool) -> int:
    signal.signal(signal.SIGTERM, _as_interrupt)
    execution: Execution | None = None
    try:
        execution = box.start(line, shell=shell, stdin=stdin)
        feeder = Feeder(execution) if stdin else None
        texts = _output(execution, collect=json)
        if feeder is not None:
            feeder.check()
    except (KeyboardInterrupt, BrokenPipeError) as error:
        if execution is not None:
            execution.kill()
        if isinstance(error, KeyboardInterrupt):
            return INTERRUPTED
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    info = execution.info
    if json:
        output.document(
            {
                "execution_id": info.id,
                "exit_code": info.exit_code,
                "stdout": texts["stdout"],
                "stderr": texts["stderr"],
            }
        )
    if info.lost:
        output.fail(f"cannot tell how the command ended: devbox {box.id} ended first")
        return INFRASTRUCTURE
    if info.message:
        output.fail(info.message)
    return INFRASTRUCTURE if info.exit_code is None else info.exit_code


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _output(execution: Execution, *, collect: bool) -> dict[str, str]:
    """Pass the output on as it comes, or keep it."""
    texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
    targets: dict[str, BinaryIO] = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    for chunk in execution.output():
        if collect:
            texts[chunk.stream].append(chunk.text)
        else:
            targets[chunk.stream].write(chunk.text.encode())
            targets[chunk.stream].flush()
    return {stream: "".join(parts) for stream, parts in texts.items()}


class Feeder:
    """Sends this process's standard input to a command, in a thread that ends with the process.

    A read of standard input cannot be cancelled; nothing waits for it.
    """

    def __init__(self, execution: Execution, read: Callable[[], bytes] = lambda: os.read(0, STDIN_CHUNK)) -> None:
        self._execution = execution
        self._read = read
        self._failure: errors.CorralError | None = None
        threading.Thread(target=self._feed, daemon=True).start()

    def check(self) -> None:
        """Raise what went wrong with the input."""
        if self._failure is not None:
            raise self._failure

    def _feed(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while data := self._read():
                if text := decoder.decode(data):
                    self._execution.send_stdin(text)
            decoder.decode(b"", final=True)
            self._execution.close_stdin()
        except UnicodeDecodeError:
            self._failure = errors.Invalid(
                "cannot send standard input: it is not UTF-8 text; send it with `corral devbox cp - ID:path`"
            )
            self._execution.kill()
        except errors.WrongState:
            return  # the command has ended without reading everything, as it may
        except errors.CorralError as error:
            self._failure = error
            self._execution.kill()
