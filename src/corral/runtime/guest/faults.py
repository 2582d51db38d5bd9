"""The guest's closed list of error kinds as the contract's exceptions.

Owns the wording: what a guest writes as a message is shown only for faults of the guest itself, in printable ASCII.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from corral.runtime.contract import (
    BadCommand,
    BoxExhausted,
    BoxUnresponsive,
    ExecutionEnded,
    FileProblem,
    FileProblemKind,
    NoSuchExecution,
    PortClosed,
    RuntimeFailure,
)
from corral.runtime.guest.fields import Fields

COMMAND: Final = {
    "no-such-program": "no such program",
    "no-such-directory": "the working directory does not exist",
    "no-such-user": "no such user",
    "not-permitted": "permission denied",
    "not-executable": "not a program that the kernel can run",
    "too-long": "arguments and environment are longer than the kernel takes",
    "bad-command": "an argument, variable or directory that no kernel takes",
}

EXECUTION: Final = {
    "ended": "it has ended",
    "takes-no-input": "it takes no standard input",
    "no-terminal": "it has no terminal",
}

FILE: Final = {
    "not-found": "no such file or directory",
    "denied": "permission denied",
    "is-directory": "it is a directory",
    "not-directory": "a part of the path is not a directory",
    "no-space": "no space left",
    "bad-path": "not a path to a regular file or directory",
    "other": "the file system refused",
}


#: What an operation can fail with beside BoxExhausted and BoxUnresponsive.
_OF_EXECUTIONS: Final = (NoSuchExecution, ExecutionEnded)
#: Whoever takes part in a command that then cannot begin is told why.
_OF_STARTING: Final = (*_OF_EXECUTIONS, BadCommand)
#: A file call for a user whom the box does not have is a BadCommand.
_OF_FILES: Final = (FileProblem, BadCommand)
_OWN: Final[Mapping[str, tuple[type[RuntimeFailure], ...]]] = {
    "claim": (BadCommand,),
    "exec": (BadCommand,),
    "wait": (NoSuchExecution, BadCommand),
    "signal": _OF_EXECUTIONS,
    "stdin": _OF_STARTING,
    "resize": _OF_EXECUTIONS,
    "attach": _OF_STARTING,
    "read": _OF_FILES,
    "write": _OF_FILES,
    "list": _OF_FILES,
    "stat": _OF_FILES,
    "connect": (PortClosed,),
}


def of_operation(op: str, payload: bytes, doing: str) -> RuntimeFailure:
    """Return the exception for an error frame that answers `op`: BoxUnresponsive for one that `op` never has.

    So that a guest's lie about a file in answer to a command is not taken for the caller's own mistake.
    """
    error = from_error(payload, doing)
    if isinstance(error, (BoxExhausted, BoxUnresponsive, *_OWN.get(op, ()))):
        return error
    return BoxUnresponsive(f"cannot {doing}: the guest answered with an error of another operation")


def from_error(payload: bytes, doing: str) -> RuntimeFailure:
    """Return the exception for an error frame, its message beginning `cannot <doing>`."""
    fields = Fields(payload, doing)
    kind = fields.text("kind", 64)
    if kind in COMMAND:
        return BadCommand(f"cannot {doing}: {COMMAND[kind]}")
    if kind in FILE:
        return FileProblem(f"cannot {doing}: {_file_cause(fields, kind)}", kind=FileProblemKind(kind))
    if kind in EXECUTION:
        return ExecutionEnded(f"cannot {doing}: {EXECUTION[kind]}")
    if kind == "no-such-execution":
        return NoSuchExecution(f"cannot {doing}: the box knows no such execution")
    if kind == "port-closed":
        return PortClosed(f"cannot {doing}: nothing listens there")
    if kind == "busy":
        return BoxExhausted(f"cannot {doing}: the box has no process, memory or connection left")
    return BoxUnresponsive(f"cannot {doing}: the guest failed: {_printable(fields)}")


def _file_cause(fields: Fields, kind: str) -> str:
    if kind != "other" or not fields.has("errno"):
        return FILE[kind]
    # strerror knows 1..133; the words come from the host's libc, never from the guest.
    return os.strerror(fields.integer("errno", 1, 133)).lower()


def _printable(fields: Fields) -> str:
    kind = fields.text("kind", 64)
    message = fields.text("message", 4096) if fields.has("message") else ""
    return "".join(letter for letter in f"{kind} {message}"[:200] if " " <= letter <= "~").strip() or "no kind"
