"""Request schemas of executions and terminals: the dialect's fields, and Corral's own beside them.

Owns the names and shapes on the wire. Must not decide anything.
"""

from __future__ import annotations

import re
import uuid
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from corral.devboxes.wire import Command
from corral.http.model import Body, Text

EXECUTION_ID: Final = r"^[0-9A-Za-z_-]{1,64}$"
SESSION_NAME: Final = r"^[0-9A-Za-z_-]{1,256}$"
MOST_CELLS: Final = 1000

_SHELL_NAME: Final = re.compile(r"[^\x00-\x1f]{1,256}")


def _command_id(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise ValueError("must be a UUID, version 7 by preference") from None


def _shell_name(value: str) -> str:
    if not _SHELL_NAME.fullmatch(value):
        raise ValueError("must be 1 to 256 printable characters")
    return value


CommandId = Annotated[str, AfterValidator(_command_id)]
ShellName = Annotated[Text, AfterValidator(_shell_name)]

ExecutionStatus = Literal["queued", "running", "completed"]


class ExecuteBody(Body):
    """A command to run, and how long to wait for its end in seconds. The command goes on after that."""

    command: Command
    command_id: CommandId | None = None
    optimistic_timeout: Annotated[float, Field(ge=0, le=25)] | None = None
    shell_name: ShellName | None = None
    attach_stdin: Literal[False] | None = None


class ExecuteAsyncBody(Body):
    """A command to run. With `attach_stdin` its standard input stays open for send_std_in."""

    command: Command
    attach_stdin: bool | None = None
    shell_name: ShellName | None = None


class ExecuteSyncBody(Body):
    """A command to run to its end."""

    command: Command
    attach_stdin: Literal[False] | None = None
    shell_name: ShellName | None = None


class WaitForCommandBody(Body):
    """Statuses to wait for, and how long in seconds."""

    statuses: Annotated[list[ExecutionStatus], Field(min_length=1, max_length=20)]
    timeout_seconds: Annotated[float, Field(ge=0, le=25)] | None = None


class KillBody(Body):
    """Whether the whole process group gets the signal."""

    kill_process_group: bool | None = None


class SendStdInBody(Body):
    """Exactly one of both."""

    text: Annotated[Text, Field(min_length=1)] | None = None
    signal: Literal["EOF", "INTERRUPT"] | None = None


class TerminalBody(Body):
    """Size of the terminal in characters, and what runs on it; a login shell when left out."""

    cols: Annotated[int, Field(ge=1, le=MOST_CELLS)] = 80
    rows: Annotated[int, Field(ge=1, le=MOST_CELLS)] = 24
    command: Command | None = None
    session: Annotated[str, Field(pattern=SESSION_NAME)] | None = None


class PtyControlBody(Body):
    """What to do with a session. The other fields count for the action that needs them."""

    action: Literal["resize", "signal", "close"]
    cols: int | None = None
    rows: int | None = None
    signal: Annotated[Text, Field(max_length=64)] | None = None
