"""Whose fault a failure was, decided in one pure function from what was observed.

Owns `classify` and its tables, and when a disk counts as full. Must not do I/O, and must not choose HTTP statuses or
devbox states: the capabilities translate a `Blame`. A sentence here is shown to the person who ran the command.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import re
import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from corral.runtime import contract
from corral.runtime.contract import DeathReason, ExecResult, FileProblemKind, Usage


class Fault(enum.StrEnum):
    """Who has to act so that it does not happen again."""

    NONE = "none"  #: nothing failed
    COMMAND = "command"  #: the command itself: it said so, crashed, or names a program that is not there
    BOX = "box"  #: the box: it reached one of its limits, or its process 1 ended
    HOST = "host"  #: the machine that Corral runs on, or Corral
    CALLER = "caller"  #: the request: it names something that is not there, or that does not allow this
    UNKNOWN = "unknown"  #: nobody has thought of this yet: a defect of this table


class Cause(enum.StrEnum):
    """What went wrong. Closed, so that callers can branch on it."""

    NONE = "none"
    # the command
    EXIT = "exit"
    PROGRAM_NOT_FOUND = "program_not_found"
    NOT_EXECUTABLE = "not_executable"
    CRASHED = "crashed"
    SIGNALLED = "signalled"
    FORBIDDEN_SYSCALL = "forbidden_syscall"
    # the box
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"
    OUT_OF_TASKS = "out_of_tasks"
    BOX_GONE = "box_gone"
    BOX_EXITED = "box_exited"
    BOX_UNRESPONSIVE = "box_unresponsive"
    FILE_TREE = "file_tree"
    MEMORY_NOT_KEPT = "memory_not_kept"
    # the host
    BOX_KILLED = "box_killed"
    HOST_RESTARTED = "host_restarted"
    HOST_UNFIT = "host_unfit"
    HOST_EXHAUSTED = "host_exhausted"
    HOST_STORAGE = "host_storage"
    HOST_DENIED = "host_denied"
    BOX_EXISTS = "box_exists"
    SNAPSHOT_EXISTS = "snapshot_exists"
    # the caller
    BAD_COMMAND = "bad_command"
    NO_SUCH_EXECUTION = "no_such_execution"
    NO_SUCH_SNAPSHOT = "no_such_snapshot"
    EXECUTION_ENDED = "execution_ended"
    BAD_PATH = "bad_path"
    PORT_CLOSED = "port_closed"
    KILLED_BY_CALLER = "killed_by_caller"
    CANCELLED = "cancelled"
    # nobody knows
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class RawOutcome:
    """All that was observed of one call or execution. Leave out what was not looked at.

    `oom_kills` counts the kernel's kills for memory in the box since the command started. `disk_full` and
    `tasks_full` say that the box was at that limit when the failure was seen. `sent_signal` is the last signal that
    the caller sent.
    """

    error: BaseException | None = None
    result: ExecResult | None = None
    death: DeathReason | None = None
    oom_kills: int = 0
    disk_full: bool = False
    tasks_full: bool = False
    sent_signal: int | None = None


@dataclass(frozen=True, slots=True)
class Blame:
    """The verdict. `message` says what happened, `remedy` what to do (may be empty), both for a person.

    `retry` says that the same call may succeed later without anybody mending anything.
    """

    fault: Fault
    cause: Cause
    message: str
    remedy: str = ""
    retry: bool = False


#: Part of a disk's limit from which on it is full: file systems keep some for themselves.
FULL: Final = 0.97
#: A program that has failed for want of space often removes what it wrote; its word counts when so much is in use.
_SAID_FULL: Final = 0.5
#: As C libraries and runtimes word ENOSPC and EDQUOT.
_SAYS_FULL: Final = re.compile(rb"No space left on device|Disk quota exceeded|ENOSPC|EDQUOT")


def is_full(usage: Usage, said: bytes = b"") -> bool:
    """Whether the box's disk is full, or was when a command failed whose last words are `said`."""
    share = usage.disk / usage.limits.disk
    return share >= FULL or (share >= _SAID_FULL and _SAYS_FULL.search(said) is not None)


def classify(outcome: RawOutcome) -> Blame:
    """Say whose fault `outcome` was. Pure and total: it never raises, and knows nothing but its argument.

    The more certain witness wins: the death of the box, then an error that was raised, then the command's own result,
    in which an exhausted limit explains a failure better than the exit code that it led to.
    """
    if outcome.death is not None:
        return _DEATHS[outcome.death]
    if outcome.error is not None:
        return _of_error(outcome.error)
    if outcome.result is not None:
        return _of_result(outcome.result, outcome)
    return Blame(Fault.UNKNOWN, Cause.UNKNOWN, "nothing was observed: no result, no error and no death")


# ---------------------------------------------------------------- deaths

_MORE_MEMORY: Final = "use less memory, or give the box more"

_DEATHS: Final[Mapping[DeathReason, Blame]] = {
    DeathReason.OUT_OF_MEMORY: Blame(
        Fault.BOX,
        Cause.OUT_OF_MEMORY,
        "the box used more memory than its limit and was ended by the kernel",
        _MORE_MEMORY,
    ),
    DeathReason.KILLED: Blame(
        Fault.HOST,
        Cause.BOX_KILLED,
        "the box was killed from outside",
        "ask the operator of the host; start another box",
    ),
    DeathReason.EXITED: Blame(Fault.BOX, Cause.BOX_EXITED, "the box's process 1 ended by itself", "start another box"),
    DeathReason.HOST_RESTARTED: Blame(
        Fault.HOST, Cause.HOST_RESTARTED, "the host was restarted and the box ended with it", "start another box"
    ),
}


# ---------------------------------------------------------------- errors

_CLASSES: Final[tuple[tuple[type[BaseException], Fault, Cause, str, bool], ...]] = (
    (contract.BadCommand, Fault.CALLER, Cause.BAD_COMMAND, "correct the command, its directory or its user", False),
    (contract.NoSuchExecution, Fault.CALLER, Cause.NO_SUCH_EXECUTION, "check the execution's id", False),
    (
        contract.ExecutionEnded,
        Fault.CALLER,
        Cause.EXECUTION_ENDED,
        "start the command again, with input if it needs it",
        False,
    ),
    (contract.PortClosed, Fault.CALLER, Cause.PORT_CLOSED, "start a server on this port in the box first", True),
    (contract.BoxGone, Fault.BOX, Cause.BOX_GONE, "start another box", False),
    (contract.BoxUnresponsive, Fault.BOX, Cause.BOX_UNRESPONSIVE, "try again; if it lasts, shut the box down", True),
    (
        contract.BoxExhausted,
        Fault.BOX,
        Cause.OUT_OF_TASKS,
        "end processes in the box, or give it a higher limit",
        True,
    ),
    (contract.NoSuchSnapshot, Fault.CALLER, Cause.NO_SUCH_SNAPSHOT, "check the snapshot's id", False),
    (contract.MemoryNotKept, Fault.BOX, Cause.MEMORY_NOT_KEPT, "use keep_memory auto or never", False),
    (contract.SnapshotExists, Fault.HOST, Cause.SNAPSHOT_EXISTS, "let only one server use this data folder", False),
    (contract.BoxExists, Fault.HOST, Cause.BOX_EXISTS, "let only one server use this data folder", False),
    (contract.HostExhausted, Fault.HOST, Cause.HOST_EXHAUSTED, "shut down boxes, or wait until others do", True),
    (MemoryError, Fault.HOST, Cause.HOST_EXHAUSTED, "free memory on the host", True),
    (ConnectionError, Fault.BOX, Cause.BOX_UNRESPONSIVE, "try again; if it lasts, shut the box down", True),
)

_FILE_FAULTS: Final[Mapping[FileProblemKind, tuple[Fault, Cause, str]]] = {
    FileProblemKind.NOT_FOUND: (Fault.CALLER, Cause.BAD_PATH, "check the path"),
    FileProblemKind.DENIED: (Fault.CALLER, Cause.BAD_PATH, "use a path that this user may use"),
    FileProblemKind.IS_DIRECTORY: (Fault.CALLER, Cause.BAD_PATH, "name a file"),
    FileProblemKind.NOT_DIRECTORY: (Fault.CALLER, Cause.BAD_PATH, "name a directory"),
    FileProblemKind.BAD_PATH: (Fault.CALLER, Cause.BAD_PATH, "correct the path"),
    FileProblemKind.NO_SPACE: (Fault.BOX, Cause.OUT_OF_DISK, "remove files in the box, or give it more disk"),
    FileProblemKind.OTHER: (Fault.BOX, Cause.FILE_TREE, "look at the path from inside the box"),
}

_ERRNOS: Final[Mapping[int, tuple[Cause, str, str]]] = {
    errno.ENOSPC: (Cause.HOST_STORAGE, "the host's disk is full", "free disk space under the data folder"),
    errno.EDQUOT: (Cause.HOST_STORAGE, "the host's disk quota is used up", "raise the quota of the data folder"),
    errno.EROFS: (Cause.HOST_STORAGE, "the host's disk is read-only", "look for disk errors in the host's log"),
    errno.EIO: (Cause.HOST_STORAGE, "the host's disk failed", "look for disk errors in the host's log"),
    errno.EMFILE: (Cause.HOST_EXHAUSTED, "the server has no more file descriptors", "raise its limit of open files"),
    errno.ENFILE: (Cause.HOST_EXHAUSTED, "the host has no more file descriptors", "raise fs.file-max on the host"),
    errno.ENOMEM: (Cause.HOST_EXHAUSTED, "the host has no more memory", "free memory on the host"),
    errno.EAGAIN: (Cause.HOST_EXHAUSTED, "the host can start no more processes", "raise the server's limit of tasks"),
    errno.EPERM: (Cause.HOST_DENIED, "the host did not permit it", "run `corral doctor` as the server's user"),
    errno.EACCES: (Cause.HOST_DENIED, "the host did not permit it", "run `corral doctor` as the server's user"),
}


def _of_error(error: BaseException) -> Blame:
    if isinstance(error, contract.HostUnfit):
        return Blame(Fault.HOST, Cause.HOST_UNFIT, error.message, error.remedy)
    if isinstance(error, contract.FileProblem):
        fault, cause, remedy = _FILE_FAULTS[error.kind]
        return Blame(fault, cause, error.message, remedy)
    for kind, fault, cause, remedy, retry in _CLASSES:
        if isinstance(error, kind):
            return Blame(fault, cause, _text(error), remedy, retry=retry)
    if isinstance(error, OSError) and (known := _ERRNOS.get(error.errno or 0)):
        cause, message, remedy = known
        return Blame(Fault.HOST, cause, message, remedy, retry=cause is Cause.HOST_EXHAUSTED)
    if isinstance(error, asyncio.CancelledError):
        return Blame(Fault.CALLER, Cause.CANCELLED, "the call was given up before it ended", retry=True)
    return Blame(Fault.UNKNOWN, Cause.UNKNOWN, _text(error), "report this as a defect of Corral")


def _text(error: BaseException) -> str:
    """The error's own words. Only a deliberate error is worded for a person; of another the class is the best clue."""
    if isinstance(error, contract.RuntimeFailure):
        return error.message
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# ---------------------------------------------------------------- results of commands

_SHELL_NOT_EXECUTABLE: Final = 126
_SHELL_NOT_FOUND: Final = 127
_SIGNAL_BASE: Final = 128
_LAST_SIGNAL: Final = 64

_CRASHES: Final[Mapping[int, str]] = {
    signals.SIGSEGV: "read or wrote memory that is not its own",
    signals.SIGBUS: "read or wrote memory that is not there",
    signals.SIGABRT: "gave up (abort)",
    signals.SIGFPE: "divided by zero or overflowed",
    signals.SIGILL: "ran an instruction that this processor does not have",
    signals.SIGTRAP: "hit a breakpoint",
    signals.SIGXCPU: "used more CPU time than its own limit",
    signals.SIGXFSZ: "wrote a larger file than its own limit",
}


def _of_result(result: ExecResult, outcome: RawOutcome) -> Blame:
    if result.lost:
        return Blame(
            Fault.BOX,
            Cause.BOX_GONE,
            "the box ended before the command did; its exit code is not known",
            "start another box",
        )
    if result.exit_code == 0 and result.signal is None:
        return Blame(Fault.NONE, Cause.NONE, "the command succeeded")
    number = result.signal or _shell_signal(result.exit_code)
    if number and number == outcome.sent_signal:
        return Blame(Fault.CALLER, Cause.KILLED_BY_CALLER, f"the command was ended by {_name(number)}, as asked for")
    return _of_limits(result, outcome) or _of_signal(number) or _of_exit_code(result.exit_code)


def _of_limits(result: ExecResult, outcome: RawOutcome) -> Blame | None:
    """A limit that the box was at explains any failure, even exit code 1: programs report it in their own ways."""
    if outcome.oom_kills > 0:
        what = "was" if result.signal == signals.SIGKILL else "or a process that it needed was"
        message = f"the command {what} killed because the box reached its memory limit"
        return Blame(Fault.BOX, Cause.OUT_OF_MEMORY, message, _MORE_MEMORY)
    if outcome.disk_full:
        message = f"the command failed ({_exit_text(result)}) while the box's disk was full"
        return Blame(Fault.BOX, Cause.OUT_OF_DISK, message, "remove files in the box, or give it more disk")
    if outcome.tasks_full:
        message = f"the command failed ({_exit_text(result)}) while the box was at its limit of tasks"
        return Blame(Fault.BOX, Cause.OUT_OF_TASKS, message, "end processes in the box, or give it a higher limit")
    return None


def _of_signal(number: int) -> Blame | None:
    if number == 0:
        return None
    if number in _CRASHES:
        return Blame(Fault.COMMAND, Cause.CRASHED, f"the command crashed with {_name(number)}: it {_CRASHES[number]}")
    if number == signals.SIGSYS:
        message = "the command made a system call that boxes do not offer (SIGSYS)"
        return Blame(Fault.COMMAND, Cause.FORBIDDEN_SYSCALL, message, "do without it; SECURITY.md has the list")
    message = f"the command was ended by {_name(number)}, sent from inside the box"
    return Blame(Fault.COMMAND, Cause.SIGNALLED, message)


def _of_exit_code(code: int) -> Blame:
    if code == _SHELL_NOT_FOUND:
        message = "the shell did not find a program of the command (exit code 127)"
        return Blame(Fault.COMMAND, Cause.PROGRAM_NOT_FOUND, message, "install it in the box, or give its full path")
    if code == _SHELL_NOT_EXECUTABLE:
        message = "the shell could not execute a program of the command (exit code 126)"
        return Blame(Fault.COMMAND, Cause.NOT_EXECUTABLE, message, "make the file executable, or name an interpreter")
    return Blame(Fault.COMMAND, Cause.EXIT, f"the command ended with exit code {code}")


def _shell_signal(code: int) -> int:
    """The signal that a shell reports of its child as 128 + N; 0 when the code is not one."""
    return code - _SIGNAL_BASE if _SIGNAL_BASE < code <= _SIGNAL_BASE + _LAST_SIGNAL else 0


def _name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _exit_text(result: ExecResult) -> str:
    return _name(result.signal) if result.signal else f"exit code {result.exit_code}"
