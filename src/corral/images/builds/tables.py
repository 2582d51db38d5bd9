"""Tables of builds, and the reading of their rows.

Owns column names, indexes and the form in which a plan is stored. Must not hold a rule about states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from corral.core.store import schema
from corral.images.builds.model import (
    ENDED,
    Build,
    BuildContext,
    BuildFailure,
    BuildPlan,
    BuildStatus,
    FailureReason,
    ImageConfig,
)
from corral.runtime.contract import Limits

#: What a query or an insert has of a row.
Row = Mapping[str, Any] | sa.RowMapping

#: `key` is of all that decides what comes out. `open` is true for the one row of a key that a new request is.
#: `cleared` is true once nothing on the host belongs to the build but its image. `image` is empty without one.
BUILDS: Final = sa.Table(
    "builds",
    schema.METADATA,
    sa.Column("seq", schema.ROW_NUMBER, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("bases", sa.JSON, nullable=False),
    sa.Column("known", sa.JSON, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("devbox_id", sa.Text),
    sa.Column("begins_as", sa.Text),
    sa.Column("kept_as", sa.Text),
    sa.Column("disk_bytes", sa.BigInteger),
    sa.Column("image", sa.Text),
    sa.Column("config", sa.JSON(none_as_null=True)),
    sa.Column("failure", sa.JSON(none_as_null=True)),
    sa.Column("created_at_ms", sa.BigInteger, nullable=False),
    sa.Column("started_at_ms", sa.BigInteger),
    sa.Column("ended_at_ms", sa.BigInteger),
    sa.Column("cleared", sa.Boolean, nullable=False),
    sa.Index("uq_builds_open", "account_id", "key", unique=True, sqlite_where=sa.text("open")),
    # What the controller looks at, however many there were.
    sa.Index("ix_builds_to_do", "seq", sqlite_where=sa.text("NOT cleared")),
    sqlite_autoincrement=True,
)

#: What needs the image of a build.
BUILD_USES: Final = sa.Table(
    "build_uses",
    schema.METADATA,
    sa.Column("build_id", sa.Text, primary_key=True),
    sa.Column("wanted_by", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)

#: The log of a build that has ended, compressed; until then it is the output of its command.
BUILD_LOGS: Final = sa.Table(
    "build_logs",
    schema.METADATA,
    sa.Column("build_id", sa.Text, primary_key=True),
    sa.Column("packed", sa.LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Job:
    """A build with what its controller needs to know.

    `bases` are the images that its Dockerfile names, as it has them -> (their name on this host, their digest).
    `known` are digests of layers that its devbox was told of, which need not come out of it.
    `begins_as` is the snapshot of an earlier build's disk, `kept_as` the one that is made of this build's.
    `outcome` is how it will end, once its disk is kept.
    """

    build: Build
    plan: BuildPlan
    bases: Mapping[str, tuple[str, str]]
    known: frozenset[str]
    attempt: int
    devbox_id: str | None
    begins_as: str | None
    kept_as: str | None
    cleared: bool
    outcome: ImageConfig | BuildFailure | None


def plan_to_json(plan: BuildPlan) -> dict[str, Any]:
    """What the column `plan` holds: what has no column of its own."""
    limits, context = plan.limits, plan.context
    return {
        "dockerfile": plan.dockerfile,
        "build_args": dict(plan.build_args),
        "files": dict(plan.files),
        "carried": list(plan.carried),
        "target": plan.target,
        "context": [context.object_id, context.digest, context.size] if context is not None else None,
        "limits": [limits.cpu, limits.memory, limits.disk, limits.pids] if limits is not None else None,
        "timeout_s": plan.timeout_s,
    }


def job_from_row(row: Row) -> Job:
    """A row as the controller has it."""
    stored = row["plan"]
    plan = BuildPlan(
        account_id=row["account_id"],
        wanted_by="",
        dockerfile=stored["dockerfile"],
        context=BuildContext(*stored["context"]) if stored["context"] else None,
        build_args=stored["build_args"],
        files=stored["files"],
        carried=tuple(stored.get("carried", ())),
        target=stored["target"],
        limits=Limits(*stored["limits"]) if stored["limits"] else None,
        timeout_s=stored["timeout_s"],
    )
    return Job(
        build=build_from_row(row),
        plan=plan,
        bases={name: (image, digest) for name, image, digest in row["bases"]},
        known=frozenset(row["known"]),
        attempt=row["attempt"],
        devbox_id=row["devbox_id"],
        begins_as=row["begins_as"],
        kept_as=row["kept_as"],
        cleared=row["cleared"],
        outcome=_outcome(row),
    )


def build_from_row(row: Row) -> Build:
    """A row as others see it."""
    status = BuildStatus(row["status"])
    outcome = _outcome(row) if status in ENDED else None
    return Build(
        id=row["id"],
        account_id=row["account_id"],
        status=status,
        created_at_ms=row["created_at_ms"],
        started_at_ms=row["started_at_ms"],
        ended_at_ms=row["ended_at_ms"],
        image=row["image"],
        config=outcome if isinstance(outcome, ImageConfig) else None,
        failure=outcome if isinstance(outcome, BuildFailure) else None,
    )


def _outcome(row: Row) -> ImageConfig | BuildFailure | None:
    config, failure = row["config"], row["failure"]
    if failure is not None:
        return BuildFailure(**{**failure, "reason": FailureReason(failure["reason"])})
    return config_from_json(config) if config is not None else None


def config_to_json(config: ImageConfig) -> dict[str, Any]:
    """What the column `config` holds."""
    return {
        "env": dict(config.env),
        "user": config.user,
        "workdir": config.workdir,
        "entrypoint": list(config.entrypoint),
        "cmd": list(config.cmd),
        "exposed_ports": list(config.exposed_ports),
    }


def config_from_json(stored: Mapping[str, Any]) -> ImageConfig:
    """What `config_to_json` made."""
    sequences = {name: tuple(stored[name]) for name in ("entrypoint", "cmd", "exposed_ports")}
    return ImageConfig(env=stored["env"], user=stored["user"], workdir=stored["workdir"], **sequences)


def failure_to_json(failure: BuildFailure) -> dict[str, Any]:
    """What the column `failure` holds."""
    return {
        "reason": failure.reason.value,
        "message": failure.message,
        "step": failure.step,
        "command": failure.command,
        "exit_code": failure.exit_code,
        "output": failure.output,
    }
