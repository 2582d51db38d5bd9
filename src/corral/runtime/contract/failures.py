"""Every error that a runtime may raise: one class for each decision that a caller can take."""

from __future__ import annotations

import enum


class RuntimeFailure(Exception):
    """Base of everything that a runtime raises on purpose. `message` reads `cannot <verb> <object>: <cause>`."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class HostUnfit(RuntimeFailure):
    """The host lacks something. `remedy` is a sentence, or a command, for the person who runs the host."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class HostExhausted(RuntimeFailure):
    """The host has no more of something (addresses, id ranges, memory, disk, processes). Nothing was left behind."""


class BoxExhausted(RuntimeFailure):
    """The box is at one of its own limits (tasks, memory): free something in it, or give it more."""


class BoxExists(RuntimeFailure):
    """A box with this id is on the host already."""


class BoxGone(RuntimeFailure):
    """There is no box with this id, or it is dead, or it died during the call."""


class NoSuchSnapshot(RuntimeFailure):
    """There is no snapshot of this name."""


class SnapshotExists(RuntimeFailure):
    """There is a snapshot of this name already."""


class MemoryNotKept(RuntimeFailure):
    """The box's processes cannot be written down, or not be made again. A box that ran goes on as it was."""


class BoxUnresponsive(RuntimeFailure):
    """The box lives, but its guest did not answer in time or answered nonsense."""


class BadCommand(RuntimeFailure):
    """The command was not started: no such program, directory or user, or not permitted. The caller's fault."""


class NoSuchExecution(RuntimeFailure):
    """The box knows no execution with this id."""


class ExecutionEnded(RuntimeFailure):
    """The execution has ended, or takes no input: nothing to signal, resize or write to."""


class FileProblemKind(enum.StrEnum):
    """Why a file call failed; from the errno that the box's kernel gave."""

    NOT_FOUND = "not-found"
    DENIED = "denied"
    IS_DIRECTORY = "is-directory"
    NOT_DIRECTORY = "not-directory"
    NO_SPACE = "no-space"
    BAD_PATH = "bad-path"
    OTHER = "other"


class FileProblem(RuntimeFailure):
    """A file call failed for a reason that lies in the box's file tree."""

    def __init__(self, message: str, *, kind: FileProblemKind) -> None:
        super().__init__(message)
        self.kind = kind


class PortClosed(RuntimeFailure):
    """Nothing in the box listens on this port."""
