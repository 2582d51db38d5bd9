"""Failures of the runtime as errors of the API: the one place where the two trees meet.

Owns the table from causes to error classes. Whose fault it was is decided by `runtime.failure`, not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from corral.core import errors
from corral.devboxes.model import Reason
from corral.runtime import failure
from corral.runtime.contract import DeathReason, FileProblem, FileProblemKind, RuntimeFailure
from corral.runtime.failure import Cause

_CLASSES: Final[Mapping[Cause, type[errors.CorralError]]] = {
    Cause.BAD_COMMAND: errors.Invalid,
    Cause.BAD_PATH: errors.Invalid,
    Cause.FILE_TREE: errors.Invalid,
    Cause.NO_SUCH_EXECUTION: errors.NotFound,
    Cause.NO_SUCH_SNAPSHOT: errors.NotFound,
    Cause.EXECUTION_ENDED: errors.WrongState,
    Cause.PORT_CLOSED: errors.WrongState,
    Cause.MEMORY_NOT_KEPT: errors.WrongState,
    Cause.BOX_GONE: errors.WrongState,
    Cause.OUT_OF_DISK: errors.OutOfDisk,
    Cause.OUT_OF_TASKS: errors.Exhausted,
    Cause.HOST_EXHAUSTED: errors.Exhausted,
    Cause.HOST_STORAGE: errors.Unavailable,
    Cause.HOST_UNFIT: errors.Unavailable,
    Cause.HOST_DENIED: errors.Unavailable,
    Cause.BOX_UNRESPONSIVE: errors.Unavailable,
}

DEATHS: Final[Mapping[DeathReason | None, Reason]] = {
    DeathReason.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
    DeathReason.KILLED: Reason.KILLED,
    DeathReason.EXITED: Reason.EXITED,
    DeathReason.HOST_RESTARTED: Reason.HOST_RESTARTED,
    None: Reason.LOST,
}


def to_error(problem: BaseException) -> errors.CorralError:
    """What the API says about a failure of the runtime: its own words, then what to do about it."""
    blame = failure.classify(failure.RawOutcome(error=problem))
    if isinstance(problem, FileProblem) and problem.kind is FileProblemKind.NOT_FOUND:
        return errors.NotFound(problem.message)
    kind = _CLASSES.get(blame.cause, errors.Internal)
    if kind is errors.Unavailable:
        return errors.Unavailable(blame.message, remedy=blame.remedy)
    return kind(f"{blame.message}; {blame.remedy}" if blame.remedy else blame.message)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a devbox cannot begin."""

    message: str
    reason: Reason = Reason.LAUNCH_FAILED


def refusal(problem: FileProblem) -> Refusal:
    """Why a devbox cannot begin that lacks this file."""
    full = problem.kind is FileProblemKind.NO_SPACE
    return Refusal(problem.message, Reason.OUT_OF_DISK if full else Reason.LAUNCH_FAILED)


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors.CorralError instead of RuntimeFailure."""
    try:
        yield
    except RuntimeFailure as problem:
        raise to_error(problem) from problem


def death(reason: DeathReason | None) -> tuple[Reason, str]:
    """The reason and the message of a devbox whose box has died."""
    if reason is None:
        return Reason.LOST, "the box is not on the host any more, and nobody saw it end"
    blame = failure.classify(failure.RawOutcome(death=reason))
    return DEATHS[reason], f"{blame.message}; {blame.remedy}" if blame.remedy else blame.message
