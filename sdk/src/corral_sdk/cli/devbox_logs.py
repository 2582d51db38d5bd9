"""`corral devbox logs` and `corral devbox executions`."""

from __future__ import annotations

import itertools
import json as jsonlib
from typing import Annotated

import typer

from corral_sdk._sync.devbox import Devbox
from corral_sdk.cli import common, output
from corral_sdk.models import ExecutionInfo, LogEntry


def logs(
    devbox: common.DevboxName,
    execution: Annotated[str | None, typer.Option(metavar="EXECUTION", help="Only of this command.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the end or Ctrl-C.")] = False,
    json: common.Json = False,
) -> None:
    """Print the log of a devbox, live or ended: its setup, commands and file calls, and what happened to it.

    With --follow it goes on with each new line, also when the server is started again meanwhile, until the devbox, or
    the command of --execution, has ended. With --follow --json each entry is a JSON document on a line of its own.

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
    told = entry.exit_code is None or text.endswith(f"exited with code {entry.exit_code}")
    code = "" if told else f" (exit code {entry.exit_code})"
    return f"{output.moment(entry.at_ms)} {entry.source}{level}: {text}{code}"


def _follow(box: Devbox, execution: str | None, json: bool) -> None:
    for entry in box.follow_logs(execution_id=execution):
        output.line(jsonlib.dumps(dict(entry.raw), ensure_ascii=False) if json else format_entry(entry))
        output.flush()


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
