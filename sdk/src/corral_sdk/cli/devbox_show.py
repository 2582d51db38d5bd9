"""`corral devbox list` and `corral devbox show`."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator
from typing import Annotated

import typer

from corral_sdk._sync.client import Corral
from corral_sdk.cli import common, output
from corral_sdk.models import DevboxInfo


class Status(enum.StrEnum):
    """What a devbox can be."""

    PROVISIONING = "provisioning"
    INITIALIZING = "initializing"
    RUNNING = "running"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    FAILURE = "failure"
    SHUTDOWN = "shutdown"


def list_(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")] = False,
    status: Annotated[Status | None, typer.Option(help="Only those in this status.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="Only those with it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only those with this name.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: common.Json = False,
) -> None:
    """List devboxes, the newest first: live ones, unless asked otherwise.

    \b
    Examples:
      corral devbox list
      corral devbox list --all --metadata team=search
      corral devbox list --status failure --json
    """
    with common.server() as corral, output.spinner("listing devboxes"):
        found = _matching(corral, all_, status, name, common.pairs("--metadata", metadata or ()))
        infos = list(itertools.islice(found, limit + 1))
    shown = infos[:limit]
    if json:
        output.document([info.raw for info in shown])
        return
    if not shown:
        output.say("no devboxes" if all_ or status else "no live devboxes; --all shows ended ones too")
        return
    rows = [(i.id, i.name or "-", i.status, size_of(i), output.age(i.created_at_ms), i.reason or "-") for i in shown]
    output.table(("ID", "NAME", "STATUS", "SIZE", "AGE", "REASON"), rows)
    if len(infos) > limit:
        output.say(f"the newest {limit}; --limit shows more")


def show(devbox: common.DevboxName, json: common.Json = False) -> None:
    """Show a devbox: its status and why, its size, its way so far.

    \b
    Examples:
      corral devbox show first
      corral devbox show first --json
    """
    with common.server() as corral:
        info = corral.devboxes.find(devbox).refresh()
    if json:
        output.document(info.raw)
        return
    output.fields(_details(info))


def size_of(info: DevboxInfo) -> str:
    """Return the size in words: its name, or cores, memory and disk."""
    launch = info.launch_parameters
    size = launch.get("resource_size_request")
    if size and size != "CUSTOM_SIZE":
        return str(size)
    parts = [
        f"{launch[field]}{unit}"
        for field, unit in (("custom_cpu_cores", " cpu"), ("custom_gb_memory", "G"), ("custom_disk_size", "G disk"))
        if launch.get(field)
    ]
    return " ".join(parts) or "SMALL"


def _matching(
    corral: Corral, all_: bool, status: Status | None, name: str | None, metadata: dict[str, str]
) -> Iterator[DevboxInfo]:
    if status is not None or all_:
        return corral.devboxes.list(status=status.value if status else None, name=name, metadata=metadata)
    return iter(common.live(corral, name=name, metadata=metadata))


def _details(info: DevboxInfo) -> list[tuple[str, str]]:
    launch = info.launch_parameters
    pairs = [("id", info.id), ("name", info.name or "-"), ("status", info.status)]
    if info.reason:
        pairs.append(("reason", f"{info.reason}{f': {info.message}' if info.message else ''}"))
    pairs += [("size", size_of(info)), ("created", output.moment(info.created_at_ms))]
    if info.ended_at_ms is not None:
        pairs.append(("ended", output.moment(info.ended_at_ms)))
    if keep_alive := launch.get("keep_alive_time_seconds"):
        pairs.append(("keep alive", output.span(float(keep_alive))))
    pairs += [(f"metadata {key}", value) for key, value in info.metadata.items()]
    pairs += [(f"→ {step.status}", output.moment(step.at_ms)) for step in info.transitions]
    return pairs
