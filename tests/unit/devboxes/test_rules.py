"""Deadlines, usage, logs and the translation of failures: pure functions."""

from __future__ import annotations

import pytest

from corral.core import errors
from corral.devboxes import deadlines, faults, launch, logs, usage
from corral.devboxes.model import DevboxRequest, Execution, ExecutionSource, LogLevel, LogSource, Observed, Reason
from corral.runtime import contract
from corral.runtime.contract import GIB, DeathReason, FileProblem, FileProblemKind, Limits, Stream
from tests.unit.devboxes import made

LIMITS = deadlines.Limits(provisioning_s=120, initializing_s=600)


def due(request: DevboxRequest, at_s: int, idle_s: float, *steps: tuple[Observed, int]) -> deadlines.Deadline | None:
    return deadlines.deadline(made.devbox(*steps, request=request), LIMITS, now_ms=at_s * 1000, idle_s=idle_s)


@pytest.mark.parametrize(
    ("state", "left", "reason"),
    [
        (Observed.PROVISIONING, 110, Reason.START_FAILED),
        (Observed.INITIALIZING, 590, Reason.LAUNCH_FAILED),
        (Observed.RUNNING, 50, Reason.KEEP_ALIVE_TIMEOUT),
    ],
)
def test_every_live_state_has_a_deadline(state: Observed, left: float, reason: Reason) -> None:
    found = due(DevboxRequest(keep_alive_s=60), 10, 0, (state, 0))
    assert found is not None
    assert (found.left_s, found.reason) == (left, reason)


def test_keep_alive_counts_from_running_not_from_creation() -> None:
    found = due(DevboxRequest(keep_alive_s=60), 110, 0, (Observed.PROVISIONING, 0), (Observed.RUNNING, 100))
    assert found is not None
    assert found.left_s == 50


def test_an_idle_limit_takes_the_place_of_keep_alive() -> None:
    found = due(DevboxRequest(keep_alive_s=60, idle_s=30), 1000, 12, (Observed.RUNNING, 0))
    assert found is not None
    assert (found.left_s, found.reason) == (18, Reason.IDLE)


def test_a_devbox_is_not_idle_for_longer_than_it_runs() -> None:
    found = due(DevboxRequest(idle_s=30), 1010, 5000, (Observed.RUNNING, 1000))
    assert found is not None
    assert found.left_s == 20


def test_an_ended_devbox_has_no_deadline() -> None:
    assert due(DevboxRequest(), 10, 0, (Observed.RUNNING, 0), (Observed.SHUTDOWN, 5)) is None


def test_usage_multiplies_the_limits_by_the_time_of_running() -> None:
    request = DevboxRequest(limits=Limits(cpu=2, memory=4 * GIB, disk=8 * GIB))
    box = made.devbox((Observed.PROVISIONING, 0), (Observed.RUNNING, 10), (Observed.SHUTDOWN, 40), request=request)
    found = usage.usage(box, now_ms=1_000_000)
    assert (found.total_elapsed_seconds, found.total_active_seconds) == (40, 30)
    assert (found.vcpu_seconds, found.memory_gb_seconds, found.disk_gb_seconds) == (60, 120, 320)
    assert found.end_time_ms == 40_000


def test_usage_of_a_live_devbox_grows() -> None:
    box = made.devbox((Observed.PROVISIONING, 0), (Observed.RUNNING, 10))
    assert usage.usage(box, now_ms=15_000).total_active_seconds == 5
    assert usage.usage(box, now_ms=25_000).total_active_seconds == 15


def lines(*texts: str) -> logs.Tail:
    def tail(_execution: Execution, stream: Stream, _lines: int) -> tuple[str, bool]:
        return ("".join(f"{text}\n" for text in texts), False) if stream is Stream.STDOUT else ("", False)

    return tail


def test_a_log_has_the_command_its_lines_and_its_end() -> None:
    entries = logs.of_execution(made.execution(exit_code=3, source=ExecutionSource.SETUP), lines("one", "two"))
    assert [entry.message for entry in entries] == [None, "one", "two", "exited with code 3"]
    assert {entry.source for entry in entries} == {LogSource.SETUP}
    assert (entries[0].cmd, entries[-1].exit_code, entries[-1].level) == ("command 1", 3, LogLevel.ERROR)


def test_a_log_is_bounded_and_keeps_the_newest() -> None:
    many = [[*logs.of_execution(made.execution(number), lines(*["x"] * 998))] for number in range(20, 0, -1)]
    merged = logs.merged(many, [])
    assert len(merged) == logs.ENTRIES
    assert (merged[0].cmd, merged[-1].cmd) == ("command 11", "command 20")


def test_a_failure_is_in_the_log_with_its_source() -> None:
    box = made.devbox((Observed.RUNNING, 1), (Observed.FAILURE, 2), message="out of memory")
    assert [(entry.message, entry.timestamp_ms) for entry in logs.of_devbox(box)] == [("out of memory", 2000)]


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (contract.HostUnfit("cannot x: y", remedy="mend it"), errors.Unavailable),
        (contract.HostExhausted("cannot x: y"), errors.Exhausted),
        (contract.BoxExists("cannot x: y"), errors.Internal),
        (contract.BoxGone("cannot x: y"), errors.WrongState),
        (contract.BoxUnresponsive("cannot x: y"), errors.Unavailable),
        (contract.BoxExhausted("cannot x: y"), errors.Exhausted),
        (contract.BadCommand("cannot x: y"), errors.Invalid),
        (contract.NoSuchExecution("cannot x: y"), errors.NotFound),
        (contract.ExecutionEnded("cannot x: y"), errors.WrongState),
        (contract.PortClosed("cannot x: y"), errors.WrongState),
        (FileProblem("cannot x: y", kind=FileProblemKind.NOT_FOUND), errors.NotFound),
        (FileProblem("cannot x: y", kind=FileProblemKind.DENIED), errors.Invalid),
        (FileProblem("cannot x: y", kind=FileProblemKind.IS_DIRECTORY), errors.Invalid),
        (FileProblem("cannot x: y", kind=FileProblemKind.NO_SPACE), errors.OutOfDisk),
    ],
)
def test_every_failure_of_the_runtime_has_its_error(
    problem: contract.RuntimeFailure, expected: type[errors.CorralError]
) -> None:
    with pytest.raises(expected, match="cannot x: y"), faults.translated():
        raise problem


def test_no_failure_of_the_runtime_is_left_out() -> None:
    def all_of(kind: type[contract.RuntimeFailure]) -> set[type[contract.RuntimeFailure]]:
        return {kind}.union(*map(all_of, kind.__subclasses__()))

    named = {
        contract.HostUnfit, contract.HostExhausted, contract.BoxExists, contract.BoxGone, contract.BoxUnresponsive,
        contract.BoxExhausted, contract.BadCommand, contract.NoSuchExecution, contract.ExecutionEnded,
        contract.PortClosed, FileProblem, contract.RuntimeFailure, contract.NoSuchSnapshot, contract.SnapshotExists,
        contract.MemoryNotKept,
    }  # fmt: skip
    assert {
        one for one in all_of(contract.RuntimeFailure) if one.__module__.startswith("corral.runtime.contract")
    } == named


@pytest.mark.parametrize("reason", list(DeathReason))
def test_every_death_has_a_reason_and_a_sentence(reason: DeathReason) -> None:
    found, message = faults.death(reason)
    assert found.value == reason.value
    assert message


def test_a_box_that_nobody_saw_end_is_lost() -> None:
    assert faults.death(None)[0] is Reason.LOST


def test_services_start_before_the_launch_commands() -> None:
    request = DevboxRequest(services=("start a", "start b"), launch_commands=("one", "two"))
    steps = [
        (wish.command, wish.user, called)
        for wish, called in launch.setup(made.devbox((Observed.INITIALIZING, 0), request=request))
    ]
    assert steps == [
        ("start a", "root", "start of service 1"),
        ("start b", "root", "start of service 2"),
        ("one", None, "launch command 1"),
        ("two", None, "launch command 2"),
    ]
