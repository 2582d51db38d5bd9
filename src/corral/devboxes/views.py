"""Response schemas of devboxes and files, and the making of them from the model.

Owns the names and shapes of answers: the dialect's fields, and Corral's own beside them. Must not decide anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from corral.devboxes import model, wire
from corral.http.model import View
from corral.runtime import contract


class TransitionView(View):
    """A devbox entered a status."""

    status: wire.DevboxStatus
    transition_time_ms: int
    failure_reason: str | None = None
    reason: str | None = None


class DevboxView(View):
    """A devbox. `reason`, `reason_message`, `observed_at_ms` and `memory_…` are Corral's own.

    `memory_kept` tells whether its memory was kept at its last suspend, or brought back at its last resume, and
    `memory_message` why not; null before the first suspend. Of a fork that was to have its parent's memory they tell
    whether it has, once it has begun.
    """

    id: str
    status: wire.DevboxStatus
    create_time_ms: int
    end_time_ms: int | None = None
    name: str | None = None
    metadata: dict[str, str]
    blueprint_id: str | None = None
    snapshot_id: str | None = None
    parent_id: str | None = None
    capabilities: list[str]
    launch_parameters: dict[str, object]
    state_transitions: list[TransitionView]
    initiator_type: str = "api"
    failure_reason: str | None = None
    shutdown_reason: str | None = None
    reason: str | None = None
    reason_message: str | None = None
    memory_kept: bool | None = None
    memory_message: str | None = None
    observed_at_ms: int


class MetadataKeysView(View):
    """One page of keys, in order."""

    keys: list[str]
    has_more: bool


class MetadataValuesView(View):
    """One page of the values of a key, in order."""

    key: str
    values: list[str]
    has_more: bool


class DevboxListView(View):
    """One page, newest first."""

    devboxes: list[DevboxView]
    has_more: bool
    total_count: int | None = None


class ForkView(View):
    """Devboxes that were forked, on their way to running."""

    devboxes: list[DevboxView]


class RelativeView(View):
    """A devbox in a tree of those that began as copies of one another."""

    id: str
    parent_id: str | None = None
    name: str | None = None
    status: wire.DevboxStatus
    create_time_ms: int


class LineageView(View):
    """The tree that a devbox is in, parents before children, at most 1,000."""

    devboxes: list[RelativeView]


class LimitsView(View):
    """What a box may use at most."""

    cpu: float
    memory_bytes: int
    disk_bytes: int
    pids: int


class ConsumptionView(View):
    """What a box uses now; CPU time and peak since it was made."""

    cpu_us: int
    memory_bytes: int
    memory_peak_bytes: int
    disk_bytes: int
    pids: int
    oom_kills: int
    limits: LimitsView


class UsageView(View):
    """Use over the devbox's life: its size times seconds. GB are GiB."""

    id: str
    status: wire.DevboxStatus
    start_time_ms: int
    end_time_ms: int | None = None
    total_elapsed_seconds: int
    total_active_seconds: int
    vcpu_seconds: int
    memory_gb_seconds: int
    disk_gb_seconds: int
    now: ConsumptionView | None = None


class LogView(View):
    """One line of a devbox's log."""

    level: str
    source: Literal["setup_commands", "entrypoint", "exec", "files", "stats", "kmsg"]
    timestamp_ms: int
    message: str | None = None
    cmd: str | None = None
    cmd_id: str | None = None
    exit_code: int | None = None
    shell_name: str | None = None


class LogTailView(LogView):
    """One line of a log that is followed; `cursor` given back as `starting_after` goes on with the next one."""

    cursor: str


class LogListView(View):
    """A devbox's log, oldest first."""

    logs: list[LogView]


class EvictionView(View):
    """A devbox that will be suspended."""

    devbox_id: str
    eviction_deadline_ms: int


class SshKeyView(View):
    """A key to a devbox. `url` is the devbox's name for clients that route by names; the key decides alone.

    `ssh_port` and `ssh_host_key` are Corral's own: where this server listens, and what it proves to be.
    """

    id: str
    url: str
    ssh_user: str
    ssh_private_key: str
    ssh_port: int
    ssh_host_key: str


class FileView(View):
    """One entry of a directory. Modification time in Unix milliseconds, `mode` in octal."""

    path: str
    kind: Literal["file", "directory", "symlink", "other"]
    size: int
    mode: str
    mtime_ms: int
    uid: int
    gid: int


class FileListView(View):
    """Entries of a directory by name."""

    files: list[FileView]


_FAILURES: Final = {
    model.Reason.OUT_OF_MEMORY: "out_of_memory",
    model.Reason.OUT_OF_DISK: "out_of_disk",
    model.Reason.GUEST_UNRESPONSIVE: "health_check_failed",
}
_SHUTDOWNS: Final = frozenset(
    {
        model.Reason.API_SHUTDOWN,
        model.Reason.KEEP_ALIVE_TIMEOUT,
        model.Reason.ENTRYPOINT_EXIT,
        model.Reason.IDLE,
    }
)


def failure_reason(status: model.Observed, reason: model.Reason) -> str | None:
    """The dialect's word for why a devbox failed; None when it has not."""
    return _FAILURES.get(reason, "execution_failed") if status is model.Observed.FAILURE else None


def devbox_view(devbox: model.Devbox) -> DevboxView:
    """The devbox as clients see it."""
    ended_well = devbox.observed is model.Observed.SHUTDOWN and devbox.reason in _SHUTDOWNS
    return DevboxView(
        id=devbox.id,
        status=devbox.observed.value,
        create_time_ms=devbox.created_at_ms,
        end_time_ms=devbox.ended_at_ms,
        name=devbox.request.name or None,
        metadata=dict(devbox.request.metadata),
        blueprint_id=devbox.request.blueprint_id if devbox.request.snapshot_id is None else None,
        snapshot_id=devbox.request.snapshot_id,
        parent_id=devbox.parent_id,
        capabilities=["docker_in_docker"] if devbox.request.docker_in_docker else [],
        launch_parameters=dict(devbox.request.launch_parameters),
        state_transitions=[
            TransitionView(
                status=step.status.value,
                transition_time_ms=step.at_ms,
                failure_reason=failure_reason(step.status, step.reason),
                reason=step.reason.value or None,
            )
            for step in devbox.transitions
        ],
        failure_reason=failure_reason(devbox.observed, devbox.reason),
        shutdown_reason=devbox.reason.value if ended_well else None,
        reason=devbox.reason.value or None,
        reason_message=devbox.message or None,
        memory_kept=devbox.memory.kept if devbox.memory is not None else None,
        memory_message=(devbox.memory.message or None) if devbox.memory is not None else None,
        observed_at_ms=devbox.observed_at_ms,
    )


def fork_view(made: Iterable[model.Devbox]) -> ForkView:
    """The devboxes of a fork as clients see them."""
    return ForkView(devboxes=[devbox_view(devbox) for devbox in made])


def relative_view(relative: model.Relative) -> RelativeView:
    """A devbox of a tree as clients see it."""
    return RelativeView(
        id=relative.id,
        parent_id=relative.parent_id,
        name=relative.name or None,
        status=relative.status.value,
        create_time_ms=relative.created_at_ms,
    )


def usage_view(usage: model.Usage, now: contract.Usage | None) -> UsageView:
    """The use of a devbox as clients see it; `now` while its box runs."""
    view = UsageView.model_validate(usage, from_attributes=True)
    return view.model_copy(update={"now": None if now is None else _consumption_view(now)})


def _consumption_view(now: contract.Usage) -> ConsumptionView:
    limits = now.limits
    return ConsumptionView(
        cpu_us=now.cpu_us,
        memory_bytes=now.memory,
        memory_peak_bytes=now.memory_peak,
        disk_bytes=now.disk,
        pids=now.pids,
        oom_kills=now.oom_kills,
        limits=LimitsView(cpu=limits.cpu, memory_bytes=limits.memory, disk_bytes=limits.disk, pids=limits.pids),
    )


def log_view(entry: model.LogEntry) -> LogView:
    """A log line as clients see it."""
    return LogView.model_validate(entry, from_attributes=True)


def log_tail_view(entry: model.LogEntry, cursor: str) -> LogTailView:
    """A log line as those who follow the log see it."""
    return LogTailView(**log_view(entry).model_dump(), cursor=cursor)


def file_view(info: contract.FileInfo) -> FileView:
    """A file as clients see it."""
    return FileView(
        path=info.path,
        kind=info.kind.value,
        size=info.size,
        mode=f"{info.mode:04o}",
        mtime_ms=int(info.mtime * 1000),
        uid=info.uid,
        gid=info.gid,
    )
