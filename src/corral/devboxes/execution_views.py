"""Response schemas of executions and terminals, and the making of them from the model.

Owns the names and shapes of answers: the dialect's fields, and Corral's own beside them. Must not decide anything.
"""

from __future__ import annotations

from corral.devboxes import execution_wire, model
from corral.http.model import View


class OutputView(View):
    """A piece of output; `offset` in bytes is where the next one begins."""

    output: str
    offset: int


class ExecutionView(View):
    """A command. Output is the last lines, once it has completed; all of it can be streamed.

    `parent_id` is Corral's own: the execution that it is a copy of, when its devbox is a fork with memory.
    """

    devbox_id: str
    execution_id: str
    status: execution_wire.ExecutionStatus
    exit_status: int | None = None
    stdout: str | None = None
    stderr: str | None = None
    stdout_truncated: bool | None = None
    stderr_truncated: bool | None = None
    shell_name: str | None = None
    command: str
    lost: bool = False
    message: str | None = None
    create_time_ms: int
    end_time_ms: int | None = None
    parent_id: str | None = None


class ExecutionListView(View):
    """One page, newest first, without output."""

    executions: list[ExecutionView]
    has_more: bool
    total_count: int | None = None


class ExecutionDetailView(View):
    """A command that has ended."""

    devbox_id: str
    exit_status: int
    stdout: str
    stderr: str
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    shell_name: str | None = None


class SendStdInView(View):
    """The input has been written."""

    devbox_id: str
    execution_id: str
    success: bool


class PtyTunnelView(View):
    """A way to a devbox's terminals: at `13-{tunnel_key}.tunnel.<domain>`, with the token as a bearer."""

    tunnel_key: str
    auth_token: str


class PtyConnectView(View):
    """A session, and where its WebSocket is."""

    session_name: str
    connect_url: str
    created: bool
    attached: bool
    cols: int
    rows: int
    idle_ttl_seconds: int
    protocol_version: str
    status: str


class PtyControlResultView(View):
    """What was asked of a session has been done."""

    session_name: str
    status: str


def execution_view(
    execution: model.Execution, stdout: tuple[str, bool] | None = None, stderr: tuple[str, bool] | None = None
) -> ExecutionView:
    """The execution as clients see it; `stdout` and `stderr` are text and whether there is more of it."""
    return ExecutionView(
        devbox_id=execution.devbox_id,
        execution_id=execution.id,
        status=execution.status.value,
        exit_status=execution.exit_code,
        stdout=stdout[0] if stdout else None,
        stderr=stderr[0] if stderr else None,
        stdout_truncated=(stdout[1] or execution.stdout_cut) if stdout else None,
        stderr_truncated=(stderr[1] or execution.stderr_cut) if stderr else None,
        shell_name=execution.shell_name,
        command=execution.command,
        lost=execution.lost,
        message=execution.message or None,
        create_time_ms=execution.created_at_ms,
        end_time_ms=execution.ended_at_ms,
        parent_id=execution.parent_id,
    )
