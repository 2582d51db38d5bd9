"""How the command line talks: results to stdout, messages to stderr, colour and motion only on a terminal.

Rich is loaded only when something is drawn on a terminal: it costs as long as a request.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

#: Seconds after which a transfer shows a bar, and a wait a spinner.
BAR_AFTER_S = 1.0
SPIN_AFTER_S = 0.3

STATUS_STYLES = {"running": "green", "failure": "red", "shutdown": "dim", "completed": "", "queued": "yellow"}
_OTHER_STATUS = "yellow"


def line(text: str) -> None:
    """Print a line of result."""
    sys.stdout.write(f"{text}\n")


def flush() -> None:
    """Show what was printed."""
    sys.stdout.flush()


def interactive() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def document(value: object) -> None:
    """Print the result as one JSON document."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Tell the person something that is no result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def fail(message: str) -> None:
    """Tell the person what went wrong."""
    say(f"corral: {message}")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headers: drawn on a terminal, plain columns with nothing cut off elsewhere.

    A column called STATUS is coloured by its values.
    """
    if not sys.stdout.isatty():
        _plain(headers, rows)
        return
    from rich import box, console, table, text  # noqa: PLC0415 - see the module's docstring

    drawn = table.Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for number, header in enumerate(headers):
        drawn.add_column(header, no_wrap=header in {"ID", "STATUS", "AGE"}, overflow="fold" if number else "ignore")
    for row in rows:
        drawn.add_row(
            *(
                text.Text(cell, style=STATUS_STYLES.get(cell, _OTHER_STATUS) if header == "STATUS" else "")
                for header, cell in zip(headers, row, strict=True)
            )
        )
    console.Console().print(drawn)


def fields(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        line(f"{name:<{width}}  {value}".rstrip())


def _plain(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
    for row in (headers, *rows):
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def moment(at_ms: int | None) -> str:
    """Return a time of this machine's zone, to the second; "-" for none."""
    if at_ms is None:
        return "-"
    return datetime.fromtimestamp(at_ms / 1000).astimezone().isoformat(sep=" ", timespec="seconds")


def span(seconds: float) -> str:
    """Return a length of time in its largest whole unit: 12s, 5m, 3h, 2d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def age(at_ms: int) -> str:
    """Return how long ago something was."""
    return span(time.time() - at_ms / 1000)


@contextlib.contextmanager
def spinner(message: str) -> Iterator[None]:
    """Show that something is waited for, on a terminal, once it takes longer than a moment."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    from rich import console, live, spinner  # noqa: PLC0415 - see the module's docstring

    started = time.monotonic()
    drawn = spinner.Spinner("dots", message)

    def frame() -> object:
        return drawn if time.monotonic() - started >= SPIN_AFTER_S else ""

    screen = console.Console(stderr=True)
    with live.Live(get_renderable=frame, console=screen, transient=True, refresh_per_second=10):  # type: ignore[arg-type]
        yield


@contextlib.contextmanager
def transfer(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the bytes moved so far; on a terminal a bar shows them after a second."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _moved: None
        return
    bar = _Bar(title, total)
    try:
        yield bar.moved
    finally:
        bar.stop()


class _Bar:
    """A progress bar that appears once the transfer has taken BAR_AFTER_S, even if nothing has moved by then."""

    def __init__(self, title: str, total: int | None) -> None:
        self._title = title
        self._total = total
        self._count = 0
        self._ended = False
        self._lock = threading.Lock()  # the timer draws in a thread of its own
        self._update: Callable[[int], None] = lambda _count: None
        self._erase: Callable[[], None] = lambda: None
        self._timer = threading.Timer(BAR_AFTER_S, self._draw)
        self._timer.daemon = True
        self._timer.start()

    def moved(self, count: int) -> None:
        self._count = count
        self._update(count)

    def stop(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._ended = True
            self._erase()

    def _draw(self) -> None:
        from rich import console, progress  # noqa: PLC0415 - see the module's docstring

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=console.Console(stderr=True),
            transient=True,
        )
        task = bar.add_task(self._title, total=self._total, completed=self._count)
        with self._lock:
            if self._ended:
                return
            bar.start()
            self._erase = bar.stop
        self._update = lambda count: bar.update(task, completed=count)
