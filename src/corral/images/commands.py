"""`corral image build` and `corral image list`: stock images of this host, on a terminal.

Owns what these commands print. Must not build: that is the work of `build`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from corral.core import errors
from corral.core.clock import SystemClock
from corral.core.settings import Settings
from corral.images import build as builder
from corral.images import stock
from corral.images.store import ImageStore, Stored

app = typer.Typer(help="Images that boxes are made of, on this host.", no_args_is_help=True)

DEFAULT_ROOT: Final = Settings().images

Root = Annotated[
    Path, typer.Option("--images", envvar="CORRAL_IMAGES", help="Directory that holds the images.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("build")
def build_image(
    name: Annotated[str, typer.Argument(help="Which recipe.")] = stock.DEFAULT,
    images: Root = DEFAULT_ROOT,
    mirror: Annotated[
        str | None,
        typer.Option(envvar="CORRAL_DEBIAN_MIRROR", help="Mirror of Debian, for hosts whose apt has none configured."),
    ] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Build it even if its recipe has not changed.")] = False,
    as_json: Json = False,
) -> None:
    """Build a stock image, or do nothing when the one that is there came from the same recipe.

    Needs root, mmdebstrap and a mirror of Debian; takes about a minute.

    Example: corral image build debian-12 --force
    """
    with _told(), _Live() as live:
        stored = builder.build(ImageStore(images), stock.flavour(name), live.report, force=force, mirror=mirror)
    if as_json:
        typer.echo(json.dumps(_facts(stored)))
    else:
        done = f"built in {live.seconds():.0f} s" if live.steps else "up to date"
        typer.echo(f"image {name} {done}: {_megabytes(stored)}, {stored.manifest.digest[:19]}, {stored.rootfs}")


@app.command("list")
def list_images(images: Root = DEFAULT_ROOT, *, as_json: Json = False) -> None:
    """List the images that boxes can be made of.

    Example: corral image list --json
    """
    with _told():
        images_store = ImageStore(images)
        found = [stored for name in images_store.names() if (stored := images_store.current(name))]
    if as_json:
        typer.echo(json.dumps([_facts(stored) for stored in found]))
        return
    if not found:
        typer.echo(f"no images in {images}; build the default one with: corral image build", err=True)
        return
    table = Table("name", "size", "packages", "created", "digest", box=None, pad_edge=False)
    for stored in found:
        manifest = stored.manifest
        created = f"{_created(stored):%Y-%m-%d %H:%M}"
        table.add_row(stored.name, _megabytes(stored), str(len(manifest.packages)), created, manifest.digest[:19])
    Console().print(table)


def _facts(stored: Stored) -> dict[str, object]:
    manifest = stored.manifest
    return {
        "name": stored.name,
        "digest": manifest.digest,
        "created": _created(stored).isoformat(),
        "size": manifest.size,
        "files": manifest.files,
        "packages": dict(manifest.packages),
        "path": str(stored.rootfs),
    }


def _created(stored: Stored) -> datetime:
    return datetime.fromtimestamp(stored.manifest.created_ms / 1000, tz=UTC)


def _megabytes(stored: Stored) -> str:
    return f"{stored.manifest.size / 1e6:,.0f} MB"


@contextmanager
def _told() -> Iterator[None]:
    """Turn errors into a line and an exit code."""
    try:
        yield
    except errors.CorralError as error:
        typer.echo(f"corral: {error.message}", err=True)
        raise typer.Exit(1) from None
    except PermissionError as error:
        typer.echo(f"corral: cannot read {error.filename}: permission denied; run it as root", err=True)
        raise typer.Exit(1) from None


class _Live:
    """Progress on standard error: one line that changes on a terminal, otherwise a line for each step."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self._status: Status | None = None
        self._text = ""
        self.steps = 0

    def __enter__(self) -> _Live:
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

    def report(self, step: builder.Step) -> None:
        """Show where the build is."""
        new = step.text != self._text
        self._text = step.text
        self.steps += new
        if self._status is not None:
            count = f"  {step.done}/{step.total}" if step.total else ""
            self._status.update(f"{step.text}{count}  [dim]{self.seconds():.0f} s[/dim]")
            self._status.start()
        elif new:
            self._console.print(f"  {self.seconds():5.1f} s  {step.text}")
