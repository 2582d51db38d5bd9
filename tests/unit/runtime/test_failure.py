"""Whose fault a failure was: one row for everything that has been seen."""

from __future__ import annotations

import asyncio
import errno
import signal

import pytest

from corral.runtime import contract, failure
from corral.runtime.contract import DeathReason, ExecResult, FileProblem, FileProblemKind
from corral.runtime.failure import Cause, Fault, RawOutcome, classify


def killed(number: int) -> ExecResult:
    return ExecResult(exit_code=128 + number, signal=number)


def unfit() -> contract.HostUnfit:
    return contract.HostUnfit("cannot make a box: no crun", remedy="apt-get install crun")


CANNOT = "cannot do it: because"

TABLE: list[tuple[str, RawOutcome, Fault, Cause]] = [
    # deaths
    ("box oom", RawOutcome(death=DeathReason.OUT_OF_MEMORY), Fault.BOX, Cause.OUT_OF_MEMORY),
    ("box killed", RawOutcome(death=DeathReason.KILLED), Fault.HOST, Cause.BOX_KILLED),
    ("box exited", RawOutcome(death=DeathReason.EXITED), Fault.BOX, Cause.BOX_EXITED),
    ("host restarted", RawOutcome(death=DeathReason.HOST_RESTARTED), Fault.HOST, Cause.HOST_RESTARTED),
    (
        "the death explains the lost result and the error",
        RawOutcome(
            death=DeathReason.HOST_RESTARTED, result=ExecResult(137, lost=True), error=contract.BoxGone(CANNOT)
        ),
        Fault.HOST,
        Cause.HOST_RESTARTED,
    ),
    # errors of the contract
    ("bad command", RawOutcome(error=contract.BadCommand(CANNOT)), Fault.CALLER, Cause.BAD_COMMAND),
    ("no execution", RawOutcome(error=contract.NoSuchExecution(CANNOT)), Fault.CALLER, Cause.NO_SUCH_EXECUTION),
    ("ended", RawOutcome(error=contract.ExecutionEnded(CANNOT)), Fault.CALLER, Cause.EXECUTION_ENDED),
    ("port", RawOutcome(error=contract.PortClosed(CANNOT)), Fault.CALLER, Cause.PORT_CLOSED),
    ("gone", RawOutcome(error=contract.BoxGone(CANNOT)), Fault.BOX, Cause.BOX_GONE),
    ("unresponsive", RawOutcome(error=contract.BoxUnresponsive(CANNOT)), Fault.BOX, Cause.BOX_UNRESPONSIVE),
    ("box full", RawOutcome(error=contract.BoxExhausted(CANNOT)), Fault.BOX, Cause.OUT_OF_TASKS),
    ("exists", RawOutcome(error=contract.BoxExists(CANNOT)), Fault.HOST, Cause.BOX_EXISTS),
    ("no snapshot", RawOutcome(error=contract.NoSuchSnapshot(CANNOT)), Fault.CALLER, Cause.NO_SUCH_SNAPSHOT),
    ("memory", RawOutcome(error=contract.MemoryNotKept(CANNOT)), Fault.BOX, Cause.MEMORY_NOT_KEPT),
    ("snapshot", RawOutcome(error=contract.SnapshotExists(CANNOT)), Fault.HOST, Cause.SNAPSHOT_EXISTS),
    ("unfit", RawOutcome(error=unfit()), Fault.HOST, Cause.HOST_UNFIT),
    ("exhausted", RawOutcome(error=contract.HostExhausted(CANNOT)), Fault.HOST, Cause.HOST_EXHAUSTED),
    ("a bare failure", RawOutcome(error=contract.RuntimeFailure(CANNOT)), Fault.UNKNOWN, Cause.UNKNOWN),
    # errors of the host
    ("disk", RawOutcome(error=OSError(errno.ENOSPC, "No space")), Fault.HOST, Cause.HOST_STORAGE),
    ("quota", RawOutcome(error=OSError(errno.EDQUOT, "Quota")), Fault.HOST, Cause.HOST_STORAGE),
    ("read-only", RawOutcome(error=OSError(errno.EROFS, "Read-only")), Fault.HOST, Cause.HOST_STORAGE),
    ("io", RawOutcome(error=OSError(errno.EIO, "I/O")), Fault.HOST, Cause.HOST_STORAGE),
    ("fds", RawOutcome(error=OSError(errno.EMFILE, "files")), Fault.HOST, Cause.HOST_EXHAUSTED),
    ("all fds", RawOutcome(error=OSError(errno.ENFILE, "files")), Fault.HOST, Cause.HOST_EXHAUSTED),
    ("memory", RawOutcome(error=OSError(errno.ENOMEM, "memory")), Fault.HOST, Cause.HOST_EXHAUSTED),
    ("python's memory", RawOutcome(error=MemoryError()), Fault.HOST, Cause.HOST_EXHAUSTED),
    ("fork", RawOutcome(error=OSError(errno.EAGAIN, "try again")), Fault.HOST, Cause.HOST_EXHAUSTED),
    ("permission", RawOutcome(error=PermissionError(errno.EPERM, "no")), Fault.HOST, Cause.HOST_DENIED),
    ("access", RawOutcome(error=PermissionError(errno.EACCES, "no")), Fault.HOST, Cause.HOST_DENIED),
    (
        "guest hung up",
        RawOutcome(error=ConnectionResetError(errno.ECONNRESET, "r")),
        Fault.BOX,
        Cause.BOX_UNRESPONSIVE,
    ),
    ("no guest", RawOutcome(error=ConnectionRefusedError(errno.ECONNREFUSED, "r")), Fault.BOX, Cause.BOX_UNRESPONSIVE),
    ("given up", RawOutcome(error=asyncio.CancelledError()), Fault.CALLER, Cause.CANCELLED),
    # what a runtime must not let through
    ("raw timeout", RawOutcome(error=TimeoutError()), Fault.UNKNOWN, Cause.UNKNOWN),
    ("defect", RawOutcome(error=KeyError("x")), Fault.UNKNOWN, Cause.UNKNOWN),
    ("odd errno", RawOutcome(error=OSError(errno.EXDEV, "cross-device")), Fault.UNKNOWN, Cause.UNKNOWN),
    ("nothing", RawOutcome(), Fault.UNKNOWN, Cause.UNKNOWN),
    # results
    ("success", RawOutcome(result=ExecResult(0)), Fault.NONE, Cause.NONE),
    ("success of a full box", RawOutcome(result=ExecResult(0), disk_full=True, oom_kills=3), Fault.NONE, Cause.NONE),
    ("exit 1", RawOutcome(result=ExecResult(1)), Fault.COMMAND, Cause.EXIT),
    ("exit 255", RawOutcome(result=ExecResult(255)), Fault.COMMAND, Cause.EXIT),
    ("exit 128", RawOutcome(result=ExecResult(128)), Fault.COMMAND, Cause.EXIT),
    ("exit 193", RawOutcome(result=ExecResult(193)), Fault.COMMAND, Cause.EXIT),
    ("not found", RawOutcome(result=ExecResult(127)), Fault.COMMAND, Cause.PROGRAM_NOT_FOUND),
    ("not executable", RawOutcome(result=ExecResult(126)), Fault.COMMAND, Cause.NOT_EXECUTABLE),
    ("segfault", RawOutcome(result=killed(signal.SIGSEGV)), Fault.COMMAND, Cause.CRASHED),
    ("segfault by the shell", RawOutcome(result=ExecResult(139)), Fault.COMMAND, Cause.CRASHED),
    ("abort", RawOutcome(result=killed(signal.SIGABRT)), Fault.COMMAND, Cause.CRASHED),
    ("seccomp", RawOutcome(result=killed(signal.SIGSYS)), Fault.COMMAND, Cause.FORBIDDEN_SYSCALL),
    ("terminated inside", RawOutcome(result=killed(signal.SIGTERM)), Fault.COMMAND, Cause.SIGNALLED),
    ("a real-time signal", RawOutcome(result=killed(40)), Fault.COMMAND, Cause.SIGNALLED),
    ("killed inside", RawOutcome(result=killed(9)), Fault.COMMAND, Cause.SIGNALLED),
    ("killed by the caller", RawOutcome(result=killed(9), sent_signal=9), Fault.CALLER, Cause.KILLED_BY_CALLER),
    (
        "the shell tells of it",
        RawOutcome(result=ExecResult(143), sent_signal=15),
        Fault.CALLER,
        Cause.KILLED_BY_CALLER,
    ),
    ("another signal than sent", RawOutcome(result=killed(11), sent_signal=15), Fault.COMMAND, Cause.CRASHED),
    ("oom kill", RawOutcome(result=killed(9), oom_kills=1), Fault.BOX, Cause.OUT_OF_MEMORY),
    ("oom kill of a child", RawOutcome(result=ExecResult(137), oom_kills=1), Fault.BOX, Cause.OUT_OF_MEMORY),
    ("oom kill of a helper", RawOutcome(result=ExecResult(1), oom_kills=1), Fault.BOX, Cause.OUT_OF_MEMORY),
    (
        "caller before oom",
        RawOutcome(result=killed(9), oom_kills=1, sent_signal=9),
        Fault.CALLER,
        Cause.KILLED_BY_CALLER,
    ),
    ("disk full", RawOutcome(result=ExecResult(1), disk_full=True), Fault.BOX, Cause.OUT_OF_DISK),
    ("cannot fork", RawOutcome(result=ExecResult(254), tasks_full=True), Fault.BOX, Cause.OUT_OF_TASKS),
    ("lost", RawOutcome(result=ExecResult(137, lost=True)), Fault.BOX, Cause.BOX_GONE),
]


@pytest.mark.parametrize(("outcome", "fault", "cause"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_the_fault_is_found(outcome: RawOutcome, fault: Fault, cause: Cause) -> None:
    blame = classify(outcome)
    assert (blame.fault, blame.cause) == (fault, cause)
    assert blame.message


FILE_TABLE: list[tuple[FileProblemKind, Fault, Cause]] = [
    (FileProblemKind.NOT_FOUND, Fault.CALLER, Cause.BAD_PATH),
    (FileProblemKind.DENIED, Fault.CALLER, Cause.BAD_PATH),
    (FileProblemKind.IS_DIRECTORY, Fault.CALLER, Cause.BAD_PATH),
    (FileProblemKind.NOT_DIRECTORY, Fault.CALLER, Cause.BAD_PATH),
    (FileProblemKind.BAD_PATH, Fault.CALLER, Cause.BAD_PATH),
    (FileProblemKind.NO_SPACE, Fault.BOX, Cause.OUT_OF_DISK),
    (FileProblemKind.OTHER, Fault.BOX, Cause.FILE_TREE),
]


@pytest.mark.parametrize(("kind", "fault", "cause"), FILE_TABLE)
def test_the_fault_of_a_file_call_is_found(kind: FileProblemKind, fault: Fault, cause: Cause) -> None:
    blame = classify(RawOutcome(error=FileProblem("cannot read /a: no", kind=kind)))
    assert (blame.fault, blame.cause, blame.message) == (fault, cause, "cannot read /a: no")
    assert blame.remedy


def test_every_file_problem_and_death_has_a_verdict() -> None:
    assert {row[0] for row in FILE_TABLE} == set(FileProblemKind)
    assert all(classify(RawOutcome(death=reason)).fault is not Fault.UNKNOWN for reason in DeathReason)


def test_every_failure_of_the_contract_has_a_verdict() -> None:
    """A class that is added to the contract and forgotten here would be blamed on nobody."""
    for kind in contract.RuntimeFailure.__subclasses__():
        error: contract.RuntimeFailure
        if issubclass(kind, contract.HostUnfit):
            error = unfit()
        elif issubclass(kind, FileProblem):
            error = FileProblem(CANNOT, kind=FileProblemKind.OTHER)
        else:
            error = kind(CANNOT)
        assert classify(RawOutcome(error=error)).fault is not Fault.UNKNOWN, kind


def test_every_cause_is_reached_by_a_row() -> None:
    reached = {row[3] for row in TABLE} | {row[2] for row in FILE_TABLE}
    assert reached == set(Cause)


def test_every_crash_signal_is_named() -> None:
    for number in failure._CRASHES:
        blame = classify(RawOutcome(result=killed(number)))
        assert signal.Signals(number).name in blame.message


@pytest.mark.parametrize(
    ("used", "said", "full"),
    [
        (1000, b"", True),
        (970, b"", True),
        (969, b"", False),
        (500, b"cp: error writing 'b': No space left on device\n", True),
        (500, b"OSError: [Errno 122] Disk quota exceeded", True),
        (499, b"No space left on device", False),  # of another file system, such as /dev/shm
        (969, b"no such file", False),
    ],
)
def test_a_disk_is_full_at_its_limit_or_when_a_command_says_so(used: int, said: bytes, *, full: bool) -> None:
    limits = contract.Limits(disk=1000)
    usage = contract.Usage(0, 0, 0, 0, disk=used, pids=0, oom_kills=0, limits=limits)
    assert failure.is_full(usage, said) is full


def test_the_remedy_of_an_unfit_host_is_kept() -> None:
    assert classify(RawOutcome(error=unfit())).remedy == "apt-get install crun"


def test_only_what_passes_by_itself_may_be_retried() -> None:
    assert classify(RawOutcome(error=contract.HostExhausted(CANNOT))).retry
    assert classify(RawOutcome(error=OSError(errno.EMFILE, "files"))).retry
    assert not classify(RawOutcome(error=OSError(errno.ENOSPC, "full"))).retry
    assert not classify(RawOutcome(error=contract.BadCommand(CANNOT))).retry
