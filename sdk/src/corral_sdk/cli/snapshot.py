"""`corral snapshot`: copies of devboxes' disks."""

from __future__ import annotations

import itertools
from typing import Annotated

import typer

from corral_sdk.cli import common, groups, output, snapshot_remote

HELP = """Keep copies of devboxes' disks, for devboxes to begin as.

\b
Examples:
  corral snapshot create first --name prepared
  corral devbox create --snapshot snp_...
"""

VERBS = {
    "create": "corral_sdk.cli.snapshot:create",
    "list": "corral_sdk.cli.snapshot:list_",
    "push": "corral_sdk.cli.snapshot_remote:push",
    "pull": "corral_sdk.cli.snapshot_remote:pull",
    "delete": "corral_sdk.cli.snapshot:delete",
}

app = groups.make("snapshot", HELP, VERBS)


def create(
    devbox: common.DevboxName,
    name: Annotated[str | None, typer.Option(help="A name to know it by.")] = None,
    message: Annotated[str | None, typer.Option("--message", help="What is in it.")] = None,
    json: common.Json = False,
) -> None:
    """Copy the disk of a running devbox and print the snapshot's id. The devbox goes on.

    \b
    Examples:
      corral snapshot create first
      corral snapshot create first --name prepared --message 'dependencies installed'
    """
    with common.server() as corral, output.spinner("copying"):
        info = corral.devboxes.find(devbox).snapshot(name=name, message=message)
    if json:
        output.document(info.raw)
        return
    output.line(info.id)


def list_(
    devbox: Annotated[str | None, typer.Option(help="Only those of this devbox, by id or name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    remote: Annotated[bool, typer.Option("--remote", help="Copies in the object store instead.")] = False,
    json: common.Json = False,
) -> None:
    """List snapshots, the newest first.

    \b
    Examples:
      corral snapshot list
      corral snapshot list --devbox first
      corral snapshot list --remote
    """
    if remote:
        snapshot_remote.show(devbox, limit, json=json)
        return
    with common.server() as corral, output.spinner("listing snapshots"):
        devbox_id = corral.devboxes.find(devbox).id if devbox else None
        infos = list(itertools.islice(corral.snapshots.list(devbox_id=devbox_id), limit + 1))
    shown = infos[:limit]
    if json:
        output.document([info.raw for info in shown])
        return
    if not shown:
        output.say("no snapshots")
        return
    rows = [(i.id, i.name or "-", i.status, _size(i.size), output.age(i.created_at_ms), i.devbox_id) for i in shown]
    output.table(("ID", "NAME", "STATUS", "SIZE", "AGE", "DEVBOX"), rows)
    if len(infos) > limit:
        output.say(f"the newest {limit}; --limit shows more")


def delete(
    snapshots: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of snapshots, or of remote copies.")],
) -> None:
    """Delete snapshots. Devboxes that began as them keep their disks.

    \b
    Examples:
      corral snapshot delete snp_...
    """
    with common.server() as corral:
        for snapshot in snapshots:
            if snapshot.startswith("rcp_"):
                corral.snapshots.delete_remote(snapshot)
            else:
                corral.snapshots.delete(snapshot)
            output.line(snapshot)


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f} MB"
