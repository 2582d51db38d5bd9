"""What the `corral image` commands share: errors as one line, progress on a line that changes, figures for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType

import typer
from rich.console import Console
from rich.status import Status

from corral.core import errors
from corral.core.clock import SystemClock
from corral.images.store import Stored


def facts(stored: Stored) -> dict[str, object]:
    """An image as JSON."""
    manifest = stored.manifest
    return {
        "name": stored.name,
        "digest": manifest.digest,
        "created": created(stored).isoformat(),
        "size": manifest.size,
        "files": manifest.files,
        "origin": manifest.origin,
        "last_build": None if stored.asked_ms is None else _time(stored.asked_ms).isoformat(),
        "packages": dict(manifest.packages),
        "layers": [{"digest": layer.digest, "path": str(layer.path)} for layer in stored.layers],
    }


def created(stored: Stored) -> datetime:
    """When it came to this host."""
    return _time(stored.manifest.created_ms)


def asked(stored: Stored) -> str:
    """The day on which a build last asked for what goes by itself once none does; "" for all others."""
    return "" if stored.asked_ms is None else f"{_time(stored.asked_ms):%Y-%m-%d}"


def megabytes(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e6:,.0f} MB"


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)


@contextmanager
def told() -> Iterator[None]:
    """Turn errors into a line and an exit code."""
    try:
        yield
    except errors.CorralError as error:
        typer.echo(f"corral: {error.message}", err=True)
        raise typer.Exit(1) from None
    except PermissionError as error:
        typer.echo(f"corral: cannot read {error.filename}: permission denied; run it as root", err=True)
        raise typer.Exit(1) from None


class Live:
    """Progress on standard error: one line that changes on a terminal, otherwise a line for each step."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self._status: Status | None = None
        self._texts: dict[str, str] = {}
        self.steps = 0

    def __enter__(self) -> Live:
        # `make` hides nothing of a pipe's end: TERM decides whether a changing line can be shown.
        if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            self._status = self._console.status("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def seconds(self) -> float:
        """Since the command began."""
        return self._clock.monotonic() - self._began

    def report(self, text: str, done: int = 0, total: int = 0, who: str = "") -> None:
        """Show where the work is: `done` of `total`, both 0 when that cannot be counted.

        `who` of several that work at once; each has a part of the line until it is `ended`.
        """
        text = f"{who}: {text}" if who else text
        new = self._texts.get(who, "").partition("  ")[0] != text
        self._texts[who] = f"{text}  {done}/{total}" if total else text
        self.steps += new
        if self._status is not None:
            self._show(self._status)
        elif new:
            self._console.print(f"  {self.seconds():5.1f} s  {text}")

    def ended(self, who: str) -> None:
        """One of several has nothing more to tell."""
        self._texts.pop(who, None)

    def _show(self, status: Status) -> None:
        status.update(f"{' · '.join(self._texts.values())}  [dim]{self.seconds():.0f} s[/dim]")
        status.start()
