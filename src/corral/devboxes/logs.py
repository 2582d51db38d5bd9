"""The log of a devbox, put together from what is recorded: its executions, their output, and its failures.

Owns bounds: the last 1,000 lines of a stream, 10,000 entries in all. Nothing is written for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from corral.core.clock import Clock
from corral.devboxes import output
from corral.devboxes.model import Devbox, Execution, LogEntry, LogLevel, LogSource, Observed, Reason
from corral.runtime.contract import Stream

#: Returns the last lines of a stream, and whether there was more.
Tail = Callable[[Execution, Stream, int], tuple[str, bool]]

LINES: Final = 1000
ENTRIES: Final = 10_000

#: Executions whose output a log shows at most.
EXECUTIONS: Final = 1000

#: A source for each reason that is not a caller's wish; the dialect has none for the devbox itself.
_SOURCES: Final = {Reason.OUT_OF_MEMORY: LogSource.KERNEL, Reason.LAUNCH_FAILED: LogSource.SETUP}

_LEVELS: Final = {Stream.STDOUT: LogLevel.INFO, Stream.STDERR: LogLevel.WARN}


def begun(execution: Execution) -> LogEntry:
    """The command, when it was asked for."""
    return _of(execution, LogLevel.INFO, execution.created_at_ms, None)


def said(execution: Execution, stream: Stream, line: str, at_ms: int | None = None) -> LogEntry:
    """A line of its output, with the time at which it was seen; without one, with that of the command."""
    return _of(execution, _LEVELS[stream], execution.created_at_ms if at_ms is None else at_ms, line)


def left_out(execution: Execution, stream: Stream) -> LogEntry:
    """In the place of lines that are not shown."""
    message = f"… earlier or later {stream.value} is not shown"
    return _of(execution, LogLevel.INFO, execution.created_at_ms, message)


def ended(execution: Execution) -> LogEntry:
    """How it ended. For one that has."""
    level = LogLevel.INFO if execution.exit_code == 0 else LogLevel.ERROR
    message = execution.message or f"exited with code {execution.exit_code}"
    at_ms = execution.created_at_ms if execution.ended_at_ms is None else execution.ended_at_ms
    return _of(execution, level, at_ms, message, execution.exit_code)


def of_execution(execution: Execution, tail: Tail) -> list[LogEntry]:
    """The command, the last lines of its output, and its end. Lines carry the time at which the command was asked for:
    when each was written is not recorded.
    """
    entries = [begun(execution)]
    for stream in _LEVELS:
        text, more = tail(execution, stream, LINES)
        if more:
            entries.append(left_out(execution, stream))
        lines = output.lines_of(text.encode(), whole=True)
        entries += [said(execution, stream, output.shown(line)) for line in lines]
    if execution.ended_at_ms is not None:
        entries.append(ended(execution))
    return entries


def _of(
    execution: Execution, level: LogLevel, at_ms: int, message: str | None, exit_code: int | None = None
) -> LogEntry:
    return LogEntry(
        level=level,
        source=LogSource(execution.source.value),
        timestamp_ms=at_ms,
        message=message,
        cmd=execution.command,
        cmd_id=execution.id,
        exit_code=exit_code,
        shell_name=execution.shell_name,
    )


async def newest(newest_first: Sequence[Execution], tail: Tail, clock: Clock) -> list[list[LogEntry]]:
    """The entries of as many executions, newest first, as a log has room for."""
    found: list[list[LogEntry]] = []
    count = 0
    for execution in newest_first:
        found.append(of_execution(execution, tail))
        count += len(found[-1])
        if count >= ENTRIES:
            break
        await clock.sleep(0)  # thousands of spool files are read here: others get their turn in between
    return found


def of_failure(reason: Reason, message: str, at_ms: int) -> LogEntry:
    """Why a devbox failed."""
    return LogEntry(LogLevel.ERROR, _SOURCES.get(reason, LogSource.STATS), at_ms, message or reason.value)


def of_devbox(devbox: Devbox) -> list[LogEntry]:
    """Why the devbox failed, if it did."""
    return [
        of_failure(one.reason, devbox.message, one.at_ms)
        for one in devbox.transitions
        if one.status is Observed.FAILURE
    ]


def merged(newest_first: Iterable[list[LogEntry]], of_the_devbox: list[LogEntry]) -> list[LogEntry]:
    """All entries, oldest first, the oldest commands dropped over the bound. A command's entries stay together."""
    kept: list[list[LogEntry]] = []
    room = ENTRIES - len(of_the_devbox)
    for entries in newest_first:
        if room <= 0:
            break
        kept.append(entries[-room:])
        room -= len(entries)
    groups = [*reversed(kept), *([entry] for entry in of_the_devbox)]
    return [entry for entries in sorted(groups, key=_begun) for entry in entries]


def _begun(entries: list[LogEntry]) -> int:
    return entries[0].timestamp_ms if entries else 0
