"""`corral snapshot push|pull`, `list --remote` and `corral devbox restore`: copies that outlive a machine."""

from __future__ import annotations

from typing import Annotated

import typer

from corral_sdk import errors
from corral_sdk._sync.client import Corral
from corral_sdk.cli import common, output


def push(
    source: Annotated[str, typer.Argument(metavar="ID", help="A snapshot, or a devbox by id or name.")],
    json: common.Json = False,
) -> None:
    """Copy a snapshot to the server's object store and print the copy's id. Of a devbox, a snapshot is made first.

    Only what is new since the last copy of the devbox is sent, where the host's disks allow that.

    \b
    Examples:
      corral snapshot push snp_...
      corral snapshot push first
    """
    with common.server() as corral, output.spinner("copying"):
        snapshot_id = source if source.startswith("snp_") else corral.devboxes.find(source).snapshot().id
        info = corral.snapshots.push(snapshot_id)
    if json:
        output.document(info.raw)
        return
    output.line(info.id)


def pull(
    copy: Annotated[str, typer.Argument(metavar="ID", help="A remote copy, or a devbox: its newest one.")],
    json: common.Json = False,
) -> None:
    """Make a snapshot of a copy in the object store and print the snapshot's id.

    \b
    Examples:
      corral snapshot list --remote
      corral snapshot pull rcp_...
    """
    with common.server() as corral, output.spinner("receiving"):
        info = corral.snapshots.pull(newest(corral, copy))
    if json:
        output.document(info.raw)
        return
    output.line(info.id)


def restore(
    source: Annotated[str, typer.Argument(metavar="ID", help="The devbox that was lost, or a remote copy.")],
    json: common.Json = False,
) -> None:
    """Begin a devbox as the newest copy of a lost one, as that one was asked for, and print the new one's id.

    The lost one may have been another server's; its account is named by CORRAL_REMOTE_RECOVERS then.

    \b
    Examples:
      corral devbox restore dbx_...
    """
    with common.server() as corral, output.spinner("restoring"):
        snapshot = corral.snapshots.pull(newest(corral, source))
        devbox = corral.devboxes.get(corral.snapshots.restore(snapshot.id))
        devbox.wait()
    if json:
        output.document(devbox.info.raw)
        return
    output.line(devbox.id)


def newest(corral: Corral, reference: str) -> str:
    """The id of a remote copy, or of the newest whole one of a devbox."""
    if reference.startswith("rcp_"):
        return reference
    for info in corral.snapshots.remote(devbox_id=reference if reference.startswith("dbx_") else None):
        if info.status == "complete" and info.devbox_id == reference:
            return info.id
    raise errors.NotFound(f"cannot find a remote copy of devbox {reference!r}: there is none")


def show(devbox: str | None, limit: int, *, json: bool) -> None:
    """List remote copies; `devbox` is an id, since the devbox may be lost."""
    with common.server() as corral, output.spinner("listing remote copies"):
        infos = corral.snapshots.remote(devbox_id=devbox)[:limit]
    if json:
        output.document([info.raw for info in infos])
        return
    if not infos:
        output.say("no remote copies")
        return
    rows = [
        (
            info.id,
            info.status,
            "-" if info.stored is None else f"{info.stored / 1e6:.1f} MB",
            "part" if info.parent_id else "whole",
            output.age(info.created_at_ms),
            info.devbox_id,
        )
        for info in infos
    ]
    output.table(("ID", "STATUS", "SIZE", "KIND", "AGE", "DEVBOX"), rows)
