"""Devboxes and executions for tests of pure functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from corral.devboxes.model import (
    Desired,
    Devbox,
    DevboxRequest,
    Execution,
    ExecutionStatus,
    Observed,
    Reason,
    Transition,
)


def devbox(*steps: tuple[Observed, int], request: DevboxRequest | None = None, **changes: Any) -> Devbox:
    """A devbox that went through these states at these seconds."""
    transitions = tuple(Transition(status, at * 1000) for status, at in steps)
    last = transitions[-1]
    made = Devbox(
        id="dbx_1",
        account_id="acc_1",
        request=request or DevboxRequest(),
        desired=Desired.RUNNING,
        observed=last.status,
        reason=Reason.NONE,
        message="",
        observed_at_ms=last.at_ms,
        created_at_ms=transitions[0].at_ms,
        ended_at_ms=last.at_ms if last.status in {Observed.SHUTDOWN, Observed.FAILURE} else None,
        transitions=transitions,
    )
    return replace(made, **changes)


def execution(number: int = 1, **changes: Any) -> Execution:
    """An execution that ended well."""
    made = Execution(
        id=f"exe_{number}",
        devbox_id="dbx_1",
        command=f"command {number}",
        status=ExecutionStatus.COMPLETED,
        shell_name=None,
        attach_stdin=False,
        exit_code=0,
        stdout_cut=False,
        stderr_cut=False,
        lost=False,
        created_at_ms=number * 1000,
        ended_at_ms=number * 1000 + 500,
    )
    return replace(made, **changes)
