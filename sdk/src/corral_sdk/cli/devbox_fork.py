"""`corral devbox fork` and `corral devbox tree`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from corral_sdk.cli import common, output
from corral_sdk.cli.devbox_create import Keeping
from corral_sdk.models import Relative


def fork(
    devbox: common.DevboxName,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100, help="How many.")] = 1,
    name: Annotated[str | None, typer.Option(help="A name for them; else its own and -fork.")] = None,
    keep_memory: Annotated[
        Keeping,
        typer.Option(
            metavar="WHEN",
            help="They go on with its processes, and the secrets in them: never, auto (where they can) or always.",
        ),
    ] = Keeping.NEVER,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when they run, or at once.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for each.")] = 300,
    json: common.Json = False,
) -> None:
    """Make devboxes that begin as its disk is now, and print their ids. It goes on running.

    They have its size and environment; its processes, and what these hold in memory, only if you say so.

    \b
    Examples:
      corral devbox fork first
      corral devbox fork first --keep-memory auto
      corral devbox fork first --count 20 --name attempt
    """
    started = time.monotonic()
    with common.server() as corral:
        parent = corral.devboxes.find(devbox)
        # With its own name it could not be told from them any more.
        named = name if name is not None or not parent.info.name else f"{parent.info.name}-fork"
        children = parent.fork(count, name=named, keep_memory=keep_memory.value)
        if wait:
            with output.spinner(f"starting {count}"):
                for child in children:
                    child.wait(timeout_s=timeout)
    if json:
        output.document([child.info.raw for child in children])
        return
    for child in children:
        output.line(child.id)
        if (without := child.info.raw.get("memory_message")) is not None:
            output.say(f"{child.id} began as the disk alone: {without}")
    if wait:
        output.say(f"running after {time.monotonic() - started:.2f} s")


def tree(devbox: common.DevboxName, json: common.Json = False) -> None:
    """Show which devboxes began as copies of which, in the tree that it is in.

    \b
    Examples:
      corral devbox tree first
    """
    with common.server() as corral:
        found = corral.devboxes.find(devbox)
        relatives = found.lineage()
    if json:
        output.document([{"id": one.id, "parent_id": one.parent_id, "status": one.status} for one in relatives])
        return
    for line in branches(relatives, here=found.id):
        output.line(line)


def branches(relatives: list[Relative], *, here: str) -> list[str]:
    """The tree as lines, two more spaces for each level; the one that was asked for has a star."""
    levels: dict[str, int] = {}
    below: dict[str | None, list[Relative]] = {}
    for one in relatives:
        levels[one.id] = levels.get(one.parent_id or "", -1) + 1
        below.setdefault(one.parent_id if levels[one.id] else None, []).append(one)
    lines: list[str] = []
    rest = below.get(None, [])[::-1]
    while rest:
        one = rest.pop()
        mark = "*" if one.id == here else "-"
        lines.append(f"{'  ' * levels[one.id]}{mark} {one.id}  {one.status}  {one.name or ''}".rstrip())
        rest += below.get(one.id, [])[::-1]
    return lines
