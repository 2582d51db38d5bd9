"""`corral devbox logs` and `corral devbox executions`."""

from __future__ import annotations

import itertools
import json as jsonlib
import time
from typing import Annotated

import typer

from corral_sdk._sync.devbox import Devbox
from corral_sdk.cli import common, output
from corral_sdk.models import ExecutionInfo, LogEntry

#: Seconds between two looks at a log that is followed.
FOLLOW_S = 0.5


def logs(
    devbox: common.DevboxName,
    execution: Annotated[str | None, typer.Option(metavar="EXECUTION", help="Only of this command.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the devbox ends or Ctrl-C.")] = False,
    json: common.Json = False,
) -> None:
    """Print the log of a devbox, live or ended: its setup, its commands, what happened to it.

    With --follow --json each entry is a JSON document on a line of its own.

    \b
    Examples:
      corral devbox logs first
      corral devbox logs first --follow
      corral devbox logs first --execution $id --json
    """
    with common.server() as corral:
        box = corral.devboxes.find(devbox)
        if follow:
            _follow(box, execution, json)
            return
        entries = box.logs(execution_id=execution)
    if json:
        output.document([entry.raw for entry in entries])
        return
    for entry in entries:
        output.line(format_entry(entry))


def executions(
    devbox: common.DevboxName,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json: common.Json = False,
) -> None:
    """List the commands that were started in a devbox, the newest first.

    \b
    Example:
      corral devbox executions first
    """
    with common.server() as corral:
        found = list(itertools.islice(corral.devboxes.find(devbox).executions(), limit))
    if json:
        output.document([info.raw for info in found])
        return
    if not found:
        output.say("no executions")
        return
    output.table(("ID", "STATUS", "EXIT", "AGE", "TOOK", "COMMAND"), [_row(info) for info in found])


def format_entry(entry: LogEntry) -> str:
    """Return an entry as a line: when, source, level if it is no mere information, what."""
    level = "" if entry.level.lower() == "info" else f" {entry.level.upper()}"
    text = entry.message or (f"$ {entry.command}" if entry.command else "")
    code = "" if entry.exit_code is None else f" (exit code {entry.exit_code})"
    return f"{output.moment(entry.at_ms)} {entry.source}{level}: {text}{code}"


def _follow(box: Devbox, execution: str | None, json: bool) -> None:
    printed = 0
    while True:
        ended = box.refresh().has_ended  # asked first: what was logged before the end is then in the last look
        entries = box.logs(execution_id=execution)
        for entry in entries[printed:]:
            output.line(jsonlib.dumps(dict(entry.raw), ensure_ascii=False) if json else format_entry(entry))
        output.flush()
        printed = len(entries)
        if ended:
            return
        time.sleep(FOLLOW_S)


def _row(info: ExecutionInfo) -> tuple[str, ...]:
    took = "-"
    if info.created_at_ms is not None and info.ended_at_ms is not None:
        took = f"{(info.ended_at_ms - info.created_at_ms) / 1000:.2f}s"
    return (
        info.id,
        info.status,
        "lost" if info.lost else "-" if info.exit_code is None else str(info.exit_code),
        "-" if info.created_at_ms is None else output.age(info.created_at_ms),
        took,
        " ".join((info.command or "").split())[:100],
    )
