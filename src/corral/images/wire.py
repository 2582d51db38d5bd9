"""Request and response schemas of snapshots: the dialect's fields, and Corral's own beside them.

Must not decide anything.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from corral.http.model import NAME_CHARS, Body, Metadata, Text, View
from corral.images import model
from corral.images.remote import Remote

COPY_ID: Final = r"^rcp_[0-9A-Za-z]{21}$"
SNAPSHOT_ID: Final = r"^snp_[0-9A-Za-z]{21}$"
MESSAGE_CHARS: Final = 1000

Status = Literal["in_progress", "complete", "error", "deleted"]


class SnapshotBody(Body):
    """What is said of a snapshot. Everything may be left out."""

    name: Annotated[Text, Field(max_length=NAME_CHARS)] | None = None
    commit_message: Annotated[Text, Field(max_length=MESSAGE_CHARS)] | None = None
    metadata: Metadata | None = None


class SnapshotView(View):
    """A snapshot. `status`, `error_message` and `still_ms` are Corral's own."""

    id: str
    create_time_ms: int
    metadata: dict[str, str]
    source_devbox_id: str
    source_blueprint_id: str | None = None
    name: str | None = None
    commit_message: str | None = None
    size_bytes: int | None = None
    status: Status
    error_message: str | None = None
    still_ms: float | None = None


class SnapshotListView(View):
    """One page, newest first."""

    snapshots: list[SnapshotView]
    has_more: bool
    total_count: int | None = None


class SnapshotStatusView(View):
    """Where the making of a snapshot is."""

    status: Status
    error_message: str | None = None
    snapshot: SnapshotView | None = None


class SnapshotKeysView(View):
    """Keys, in order; at most 1,000."""

    keys: list[str]


class SnapshotValuesView(View):
    """Values of a key, in order; at most 1,000."""

    key: str
    values: list[str]


class RemoteView(View):
    """A remote copy of a snapshot. All of it is Corral's own."""

    id: str
    source_devbox_id: str
    snapshot_id: str
    status: Status
    error_message: str | None = None
    parent_id: str | None = None
    name: str | None = None
    size_bytes: int | None = None
    stored_bytes: int | None = None
    create_time_ms: int


class RemoteListView(View):
    """Copies, newest first; at most 1,000."""

    remote_copies: list[RemoteView]


class RestoredView(View):
    """The devbox that begins as a snapshot which was pulled."""

    devbox_id: str


def remote_view(copy: Remote) -> RemoteView:
    """The copy as clients see it."""
    return RemoteView(
        id=copy.id,
        source_devbox_id=copy.devbox_id,
        snapshot_id=copy.snapshot_id,
        status=copy.state.value,
        error_message=copy.message or None,
        parent_id=copy.parent_id,
        name=copy.name,
        size_bytes=copy.size,
        stored_bytes=copy.stored,
        create_time_ms=copy.created_at_ms,
    )


def snapshot_view(snapshot: model.Snapshot) -> SnapshotView:
    """The snapshot as clients see it."""
    made = snapshot.status is not model.SnapshotStatus.IN_PROGRESS and not snapshot.message
    return SnapshotView(
        id=snapshot.id,
        create_time_ms=snapshot.created_at_ms,
        metadata=dict(snapshot.wish.metadata),
        source_devbox_id=snapshot.devbox_id,
        source_blueprint_id=snapshot.blueprint_id,
        name=snapshot.wish.name,
        commit_message=snapshot.wish.commit_message,
        size_bytes=snapshot.size if made else None,
        status=snapshot.status.value,
        error_message=snapshot.message or None,
        still_ms=round(snapshot.still_ms, 3) if made else None,
    )


def status_view(snapshot: model.Snapshot) -> SnapshotStatusView:
    """Where the making of the snapshot is, as clients see it."""
    done = snapshot.status is model.SnapshotStatus.COMPLETE
    return SnapshotStatusView(
        status=snapshot.status.value,
        error_message=snapshot.message or None,
        snapshot=snapshot_view(snapshot) if done else None,
    )
