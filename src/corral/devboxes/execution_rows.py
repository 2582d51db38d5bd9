"""Statements on the rows of executions. Each runs in the transaction of its caller.

Owns the compare-and-swap of an execution's status together with its event, idempotency by command id, and the order
in which commands of one named shell run. Must not wait, and must not talk to a runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from corral.core import errors, events
from corral.devboxes.model import Execution, ExecutionSource, ExecutionStatus, Page
from corral.devboxes.tables import DEVBOXES, EXECUTIONS, Row, execution_from_row
from corral.runtime.contract import ExecResult, TerminalSize

MAX_PAGE: Final = 5000

#: Begins the command id of a session's shell. Ids of callers are UUIDs, those of repeats begin with `req-`.
_SESSION: Final = "session:"

#: In the event of an execution that runs after it was queued: another event told of it before.
PROMOTED: Final = "promoted"

_C = EXECUTIONS.c
_BY_ID: Final = sa.select(EXECUTIONS).where(_C.id == sa.bindparam("id"))
_BY_COMMAND_ID: Final = sa.select(EXECUTIONS).where(
    _C.devbox_id == sa.bindparam("devbox_id"), _C.command_id == sa.bindparam("command_id")
)
_COMPLETE: Final = (
    sa.update(EXECUTIONS).where(_C.id == sa.bindparam("key"), _C.ended_at_ms.is_(None)).returning(EXECUTIONS)
)


@dataclass(frozen=True, slots=True)
class Wish:
    """A command that somebody wants to run. See `Executions.start` for the fields."""

    command: str
    source: ExecutionSource = ExecutionSource.EXEC
    command_id: str | None = None
    shell_name: str | None = None
    attach_stdin: bool = False
    terminal: TerminalSize | None = None
    user: str | None = None


def admit(
    connection: sa.Connection, execution_id: str, devbox_id: str, wish: Wish, at_ms: int
) -> tuple[Execution, bool]:
    """Write the wish and its event, or find the execution that has its command id; say which (True: it is new).

    It is queued while another command of the same shell is open, else running. Raises errors.Conflict when the command
    id belongs to another command.
    """
    if wish.command_id is not None:
        known = _known(connection, devbox_id, wish)
        if known is not None:
            return known, False
    busy = wish.shell_name is not None and _shell_is_busy(connection, devbox_id, wish.shell_name)
    values = {
        "id": execution_id,
        "devbox_id": devbox_id,
        "command_id": wish.command_id,
        "command": wish.command,
        "source": wish.source.value,
        "status": (ExecutionStatus.QUEUED if busy else ExecutionStatus.RUNNING).value,
        "shell_name": wish.shell_name,
        "attach_stdin": wish.attach_stdin,
        "terminal": asdict(wish.terminal) if wish.terminal else None,
        "user": wish.user,
        "exit_code": None,
        "stdout_cut": False,
        "stderr_cut": False,
        "lost": False,
        "message": "",
        "created_at_ms": at_ms,
        "ended_at_ms": None,
        "parent_id": None,
    }
    connection.execute(EXECUTIONS.insert(), values)
    _tell(connection, values, at_ms)
    return execution_from_row(values), True


def copy(connection: sa.Connection, devbox_id: str, new_ids: Mapping[str, str], at_ms: int) -> list[Execution]:
    """Write that these executions, ids by those of another devbox's, run in the devbox too, each with its event.

    Whatever has become of the others: what is copied here ran when that devbox's memory was.
    """
    query = sa.select(EXECUTIONS).where(_C.id.in_(list(new_ids))).order_by(_C.seq)
    began = {
        "devbox_id": devbox_id,
        "status": ExecutionStatus.RUNNING.value,
        "exit_code": None,
        "stdout_cut": False,
        "stderr_cut": False,
        "lost": False,
        "message": "",
        "created_at_ms": at_ms,
        "ended_at_ms": None,
    }
    copies = []
    for row in connection.execute(query).mappings().all():
        kept = {key: row[key] for key in row if key != "seq"}
        copies.append({**kept, **began, "id": new_ids[row["id"]], "parent_id": row["id"]})
    for values in copies:
        connection.execute(EXECUTIONS.insert(), values)
        _tell(connection, values, at_ms)
    return [execution_from_row(values) for values in copies]


def complete(
    connection: sa.Connection,
    execution_id: str,
    result: ExecResult,
    at_ms: int,
    *,
    message: str = "",
    expected: ExecutionStatus | None = None,
) -> Execution | None:
    """Record how an execution ended, with its event.

    None when that was recorded before, or when its status is not `expected` (if given).
    """
    changes = {
        "status": ExecutionStatus.COMPLETED.value,
        "exit_code": result.exit_code,
        "stdout_cut": result.stdout_cut,
        "stderr_cut": result.stderr_cut,
        "lost": result.lost,
        "message": message,
        "ended_at_ms": at_ms,
    }
    swap = _COMPLETE if expected is None else _COMPLETE.where(_C.status == expected.value)
    row = connection.execute(swap, {"key": execution_id, **changes}).mappings().first()
    if row is None:
        return None
    _tell(connection, row, at_ms, {"exit_code": result.exit_code, "lost": result.lost})
    return execution_from_row(row)


def promote(connection: sa.Connection, devbox_id: str, shell_name: str, at_ms: int) -> Execution | None:
    """Let the oldest queued command of a shell run, with its event; None when the shell is busy or has none."""
    query = (
        sa.select(EXECUTIONS)
        .where(_C.devbox_id == devbox_id, _C.shell_name == shell_name, _C.ended_at_ms.is_(None))
        .order_by(_C.seq)
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    if row is None or row["status"] != ExecutionStatus.QUEUED:
        return None
    changes = {"status": ExecutionStatus.RUNNING.value}
    connection.execute(EXECUTIONS.update().where(_C.seq == row["seq"]), changes)
    promoted = {**row, **changes}
    _tell(connection, promoted, at_ms, {PROMOTED: True})
    return execution_from_row(promoted)


def find(connection: sa.Connection, execution_id: str) -> Execution | None:
    """The execution, whoever owns its devbox."""
    row = connection.execute(_BY_ID, {"id": execution_id}).mappings().first()
    return execution_from_row(row) if row is not None else None


def by_id(connection: sa.Connection, execution_ids: Sequence[str]) -> dict[str, Execution]:
    """These executions, whoever owns their devboxes."""
    query = sa.select(EXECUTIONS).where(_C.id.in_(execution_ids))
    return {row["id"]: execution_from_row(row) for row in connection.execute(query).mappings()}


def open_in(connection: sa.Connection, devbox_id: str) -> list[Execution]:
    """The devbox's executions that have not ended, oldest first."""
    query = sa.select(EXECUTIONS).where(_C.devbox_id == devbox_id, _C.ended_at_ms.is_(None)).order_by(_C.seq)
    return [execution_from_row(row) for row in connection.execute(query).mappings()]


def open_executions(connection: sa.Connection) -> list[tuple[Execution, str]]:
    """Every execution that has not ended, oldest first, with the account of its devbox."""
    query = (
        sa.select(EXECUTIONS, DEVBOXES.c.account_id)
        .join(DEVBOXES, DEVBOXES.c.id == _C.devbox_id)
        .where(_C.ended_at_ms.is_(None))
        .order_by(_C.seq)
    )
    return [(execution_from_row(row), row["account_id"]) for row in connection.execute(query).mappings()]


def session_command_id(name: str, execution_id: str) -> str:
    """The command id of a session's shell. A name is used again by another shell once the first has ended."""
    return f"{_SESSION}{name}:{execution_id}"


def session_name(execution: Execution) -> str | None:
    """The name of the session that this execution is; None when it is none."""
    command_id = execution.command_id or ""
    if not command_id.startswith(_SESSION):
        return None
    return command_id.removeprefix(_SESSION).partition(":")[0]


def open_sessions(connection: sa.Connection, devbox_id: str) -> dict[str, Execution]:
    """The devbox's sessions whose shell has not ended, by name."""
    query = sa.select(EXECUTIONS).where(
        _C.devbox_id == devbox_id, _C.ended_at_ms.is_(None), _C.command_id.startswith(_SESSION, autoescape=True)
    )
    found = [execution_from_row(row) for row in connection.execute(query).mappings()]
    return {name: execution for execution in found if (name := session_name(execution)) is not None}


def of_source(connection: sa.Connection, devbox_id: str, sources: Sequence[ExecutionSource]) -> list[Execution]:
    """The devbox's executions of these sources, oldest first."""
    query = (
        sa.select(EXECUTIONS)
        .where(_C.devbox_id == devbox_id, _C.source.in_([source.value for source in sources]))
        .order_by(_C.seq)
    )
    return [execution_from_row(row) for row in connection.execute(query).mappings()]


def newest(connection: sa.Connection, devbox_id: str, limit: int) -> list[Execution]:
    """The devbox's last `limit` executions, newest first."""
    query = sa.select(EXECUTIONS).where(_C.devbox_id == devbox_id).order_by(_C.seq.desc()).limit(limit)
    return [execution_from_row(row) for row in connection.execute(query).mappings()]


def page(
    connection: sa.Connection,
    devbox_id: str,
    *,
    status: ExecutionStatus | None,
    limit: int,
    starting_after: str | None,
    count: bool,
) -> Page[Execution]:
    """One page, newest first. Raises errors.Invalid for a limit out of range and an unknown cursor."""
    if not 0 < limit <= MAX_PAGE:
        raise errors.Invalid(f"cannot list executions: limit {limit} is not between 1 and {MAX_PAGE}")
    conditions: list[sa.ColumnElement[bool]] = [_C.devbox_id == devbox_id]
    if status is not None:
        conditions.append(_C.status == status.value)
    after: list[sa.ColumnElement[bool]] = []
    if starting_after is not None:
        seq = connection.execute(sa.select(_C.seq).where(_C.id == starting_after, _C.devbox_id == devbox_id)).scalar()
        if seq is None:
            raise errors.Invalid(f"cannot list executions: there is no execution {starting_after} to start after")
        after.append(_C.seq < seq)
    query = sa.select(EXECUTIONS).where(*conditions, *after).order_by(_C.seq.desc()).limit(limit + 1)
    found = [execution_from_row(row) for row in connection.execute(query).mappings()]
    total = None
    if count:
        total = connection.execute(sa.select(sa.func.count()).select_from(EXECUTIONS).where(*conditions)).scalar_one()
    return Page(items=tuple(found[:limit]), has_more=len(found) > limit, total=total)


def _known(connection: sa.Connection, devbox_id: str, wish: Wish) -> Execution | None:
    row = (
        connection.execute(_BY_COMMAND_ID, {"devbox_id": devbox_id, "command_id": wish.command_id}).mappings().first()
    )
    if row is None:
        return None
    known = execution_from_row(row)
    if (known.command, known.shell_name, known.source) != (wish.command, wish.shell_name, wish.source):
        raise errors.Conflict(
            f"cannot run command in devbox {devbox_id}: command id {wish.command_id} belongs to another command"
        )
    return known


def _shell_is_busy(connection: sa.Connection, devbox_id: str, shell_name: str) -> bool:
    query = (
        sa.select(sa.literal(1))
        .where(_C.devbox_id == devbox_id, _C.ended_at_ms.is_(None), _C.shell_name == shell_name)
        .limit(1)
    )
    return connection.execute(query).scalar() is not None


def _tell(connection: sa.Connection, row: Row, at_ms: int, more: dict[str, Any] | None = None) -> None:
    data = {"execution_id": row["id"], "source": row["source"], **(more or {})}
    events.append(connection, at_ms=at_ms, subject=row["devbox_id"], kind=f"execution.{row['status']}", data=data)
