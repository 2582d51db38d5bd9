"""The guest's closed list of error kinds as the contract's exceptions.

Owns the wording: what a guest writes as a message is shown only for faults of the guest itself, in printable ASCII.
"""

from __future__ import annotations

import os
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
