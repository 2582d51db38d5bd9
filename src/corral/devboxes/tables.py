"""Tables of devboxes, executions and file calls, and the reading of their rows.

Owns column names, indexes and the form in which a request is stored. Must not hold a rule about states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from corral.core.store import schema
from corral.core.store.metadata import MetadataTable
from corral.devboxes.model import (
    Desired,
    Devbox,
    DevboxRequest,
    Execution,
    ExecutionSource,
    ExecutionStatus,
    KeepMemory,
    Kept,
    Memory,
    ObjectMount,
    Observed,
    Reason,
    Transition,
)
from corral.runtime.contract import Layer, Limits, TerminalSize, User

#: What a query or an insert has of a row.
Row = Mapping[str, Any] | sa.RowMapping

#: `seq` is the order of creation: lists go by it, newest first. `version` is what a compare-and-swap compares.
DEVBOXES: Final = sa.Table(
    "devboxes",
    schema.METADATA,
    sa.Column("seq", schema.ROW_NUMBER, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("desired", sa.Text, nullable=False),
    sa.Column("observed", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("observed_at_ms", sa.BigInteger, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("ended_at_ms", sa.BigInteger),
    sa.Column("output_kept", sa.Boolean, nullable=False),
    sa.Column("transitions", sa.JSON, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("parent_id", sa.Text),
    sa.Column("kept", sa.JSON(none_as_null=True)),
    sa.Column("snapshot_every", sa.Integer),
    sa.Column("blueprint_id", sa.Text),
    sa.Column("memory", sa.JSON(none_as_null=True)),
    sa.Index("ix_devboxes_live_blueprint_id", "blueprint_id", sqlite_where=sa.text("ended_at_ms IS NULL")),
    sa.Index("ix_devboxes_parent_id_seq", "parent_id", "seq"),
    sa.Index("ix_devboxes_account_id_seq", "account_id", "seq"),
    sa.Index("ix_devboxes_account_id_observed_seq", "account_id", "observed", "seq"),
    sa.Index("ix_devboxes_account_id_name_seq", "account_id", "name", "seq"),
    # What the resync and the start of the server look at: live rows, however many have ended.
    sa.Index("ix_devboxes_live", "id", sqlite_where=sa.text("ended_at_ms IS NULL")),
    sa.Index("ix_devboxes_output", "ended_at_ms", sqlite_where=sa.text("output_kept AND ended_at_ms IS NOT NULL")),
    sa.Index(
        "ix_devboxes_snapshot_every", "id", sqlite_where=sa.text("snapshot_every NOT NULL AND ended_at_ms IS NULL")
    ),
    sqlite_autoincrement=True,
)

METADATA: Final = MetadataTable("devbox", DEVBOXES)

EXECUTIONS: Final = sa.Table(
    "executions",
    schema.METADATA,
    sa.Column("seq", schema.ROW_NUMBER, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("devbox_id", sa.Text, nullable=False),
    sa.Column("command_id", sa.Text),
    sa.Column("command", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("shell_name", sa.Text),
    sa.Column("attach_stdin", sa.Boolean, nullable=False),
    sa.Column("terminal", sa.JSON(none_as_null=True)),
    sa.Column("user", sa.Text),
    sa.Column("exit_code", sa.Integer),
    sa.Column("stdout_cut", sa.Boolean, nullable=False),
    sa.Column("stderr_cut", sa.Boolean, nullable=False),
    sa.Column("lost", sa.Boolean, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("ended_at_ms", sa.BigInteger),
    sa.Column("parent_id", sa.Text),
    sa.Index("ix_executions_devbox_id_seq", "devbox_id", "seq"),
    sa.Index("uq_executions_devbox_id_command_id", "devbox_id", "command_id", unique=True),
    sa.Index("ix_executions_open", "devbox_id", "seq", sqlite_where=sa.text("ended_at_ms IS NULL")),
    sqlite_autoincrement=True,
)

#: Who may enter a devbox by SSH. Rows go with the devbox's end; the private half was told once and is nowhere.
SSH_KEYS: Final = sa.Table(
    "ssh_keys",
    schema.METADATA,
    sa.Column("seq", schema.ROW_NUMBER, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("devbox_id", sa.Text, nullable=False),
    sa.Column("public_key", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("api_key_id", sa.Text, nullable=False),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_at_ms", sa.BigInteger),
    sa.Index("ix_ssh_keys_devbox_id_seq", "devbox_id", "seq"),
    sqlite_autoincrement=True,
)

#: `number` counts the calls of one devbox; only the newest are kept. `problem` is empty when the call went well.
FILE_CALLS: Final = sa.Table(
    "file_calls",
    schema.METADATA,
    sa.Column("devbox_id", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("verb", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger),
    sa.Column("problem", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)


def request_to_json(request: DevboxRequest) -> dict[str, Any]:
    """What the column `request` holds: everything but what has a column of its own: name and metadata
    because they change, the blueprint because it is looked for.
    """
    limits, user = request.limits, request.user
    return {
        "env": dict(request.env),
        "limits": {"cpu": limits.cpu, "memory": limits.memory, "disk": limits.disk, "pids": limits.pids},
        "user": {"name": user.name, "uid": user.uid, "gid": user.gid, "home": user.home},
        "image": request.image,
        "snapshot_id": request.snapshot_id,
        "services": list(request.services),
        "launch_commands": list(request.launch_commands),
        "entrypoint": request.entrypoint,
        "files": dict(request.files),
        "object_mounts": [[mount.object_id, mount.path] for mount in request.object_mounts],
        "keep_alive_s": request.keep_alive_s,
        "idle_s": request.idle_s,
        "idle_suspends": request.idle_suspends,
        "suspend_commands": list(request.suspend_commands),
        "suspend_limit_s": request.suspend_limit_s,
        "docker_in_docker": request.docker_in_docker,
        "nested": request.nested,
        "lent": list(request.lent),
        "keep_memory": request.keep_memory.value,
        "launch_parameters": dict(request.launch_parameters),
        "snapshot_every": request.snapshot_every,
    }


def devbox_from_row(row: Row) -> Devbox:
    """A row of `devboxes` as the model has it."""
    return Devbox(
        id=row["id"],
        account_id=row["account_id"],
        request=_request_from_row(row),
        desired=Desired(row["desired"]),
        observed=Observed(row["observed"]),
        reason=Reason(row["reason"]),
        message=row["message"],
        observed_at_ms=row["observed_at_ms"],
        created_at_ms=row["created_at_ms"],
        ended_at_ms=row["ended_at_ms"],
        transitions=tuple(
            Transition(status=Observed(status), at_ms=at_ms, reason=Reason(reason))
            for status, at_ms, reason in row["transitions"]
        ),
        parent_id=row["parent_id"],
        kept=kept_from_json(row["kept"]) if row["kept"] is not None else None,
        memory=Memory(**row["memory"]) if row["memory"] is not None else None,
    )


def kept_to_json(kept: Kept) -> dict[str, Any]:
    """What the column `kept` holds."""
    return {"layers": [layer.pack() for layer in kept.layers], "size": kept.size}


def kept_from_json(stored: Mapping[str, Any]) -> Kept:
    """What `kept_to_json` was given."""
    return Kept(tuple(map(Layer.unpack, stored["layers"])), stored["size"])


def request_to_keep(request: DevboxRequest) -> dict[str, Any]:
    """The whole request, name and metadata too: what `request_of_kept` makes it from again."""
    return {"name": request.name, "metadata": dict(request.metadata), "request": request_to_json(request)}


def request_of_kept(kept: Mapping[str, Any]) -> DevboxRequest:
    """The request. Raises KeyError, TypeError, ValueError for what is none."""
    # A blueprint is known on its node alone; the layers of its image come with the snapshot.
    return _request_from_row({**kept, "blueprint_id": None})


def _request_from_row(row: Row) -> DevboxRequest:
    stored = row["request"]
    return DevboxRequest(
        name=row["name"],
        metadata=row["metadata"],
        env=stored["env"],
        limits=Limits(**stored["limits"]),
        user=User(**stored["user"]),
        image=stored["image"],
        blueprint_id=row["blueprint_id"],
        snapshot_id=stored.get("snapshot_id"),
        services=tuple(stored.get("services", ())),
        launch_commands=tuple(stored["launch_commands"]),
        entrypoint=stored["entrypoint"],
        files=stored["files"],
        object_mounts=tuple(ObjectMount(*pair) for pair in stored.get("object_mounts", ())),
        keep_alive_s=stored["keep_alive_s"],
        idle_s=stored["idle_s"],
        idle_suspends=stored.get("idle_suspends", False),
        suspend_commands=tuple(stored.get("suspend_commands", ())),
        suspend_limit_s=stored.get("suspend_limit_s", 30.0),
        docker_in_docker=stored.get("docker_in_docker", False),
        nested=stored.get("nested", False),
        lent=tuple(stored.get("lent", ())),
        keep_memory=KeepMemory(stored.get("keep_memory", KeepMemory.AUTO)),
        launch_parameters=stored["launch_parameters"],
        snapshot_every=stored.get("snapshot_every"),
    )


def execution_from_row(row: Row) -> Execution:
    """A row of `executions` as the model has it."""
    terminal = row["terminal"]
    return Execution(
        id=row["id"],
        devbox_id=row["devbox_id"],
        command=row["command"],
        status=ExecutionStatus(row["status"]),
        shell_name=row["shell_name"],
        attach_stdin=row["attach_stdin"],
        exit_code=row["exit_code"],
        stdout_cut=row["stdout_cut"],
        stderr_cut=row["stderr_cut"],
        lost=row["lost"],
        created_at_ms=row["created_at_ms"],
        ended_at_ms=row["ended_at_ms"],
        source=ExecutionSource(row["source"]),
        command_id=row["command_id"],
        user=row["user"],
        terminal=TerminalSize(**terminal) if terminal else None,
        message=row["message"],
        parent_id=row["parent_id"],
    )
