"""`corral devbox cp`: files and folders between this machine and a devbox."""

from __future__ import annotations

import posixpath
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from corral_sdk import _tar, errors
from corral_sdk._sync.devbox import Devbox
from corral_sdk.cli import common, output


@dataclass(frozen=True, slots=True)
class Place:
    """One side of a copy: a path here (`devbox` None), or one in a devbox. `-` here is standard input or output."""

    devbox: str | None
    path: str

    @property
    def is_stdio(self) -> bool:
        """Whether it is standard input or output."""
        return self.devbox is None and self.path == "-"


def cp(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A path here, ID:path, or - for standard input.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="A path here, ID:path, or - for standard output.")],
    json: common.Json = False,
) -> None:
    """Copy a file or a folder into a devbox or out of it.

    Paths in a devbox are absolute, ~/…, or relative to its user's home. A folder is copied with all that is in it.
    When DST is a folder that exists, or ends with a slash, the copy is put into it.

    \b
    Examples:
      corral devbox cp notes.txt first:notes.txt
      corral devbox cp ./project first:/home/user/
      corral devbox cp first:project/dist ./dist
      tar -c . | corral devbox cp - first:all.tar
      corral devbox cp first:/etc/os-release -
    """
    origin, destination = parse(source), parse(target)
    if (origin.devbox is None) == (destination.devbox is None):
        raise typer.BadParameter("one of SRC and DST must be ID:path, and the other one not", param_hint="SRC DST")
    if json and destination.is_stdio:
        raise typer.BadParameter("the file and the JSON document cannot both go to stdout", param_hint="--json")
    with common.server() as corral:
        box = corral.devboxes.find(str(origin.devbox or destination.devbox))
        if origin.devbox is None:
            moved = _send(box, origin, destination.path)
        else:
            moved = _fetch(box, origin.path, destination)
    if json:
        output.document({"source": source, "target": target, "bytes": moved})


def parse(text: str) -> Place:
    """Return what `text` names. A colon after a slash, as in ./a:b, belongs to a path here."""
    head, colon, path = text.partition(":")
    if not colon or not head or "/" in head or head in {".", ".."}:
        return Place(None, text)
    return Place(head, path or ".")


def _send(box: Devbox, origin: Place, path: str) -> int:
    moved = 0

    def count(sent: int) -> None:
        nonlocal moved
        moved = sent
        show(sent)

    if origin.is_stdio:
        if path.endswith("/"):
            raise typer.BadParameter("a file name is needed for standard input", param_hint="DST")
        with output.transfer("standard input", None) as show:
            box.files.write(path, sys.stdin.buffer, on_progress=count)
        return moved
    local = Path(origin.path)
    if not local.exists():
        raise errors.NotFound(f"cannot copy {local}: no such file or folder")
    into = path.endswith("/") or path in {"~", "."} or box.kind_of(path) == "folder"
    remote = posixpath.join(path, local.resolve().name) if into else path
    total = _tar.size_of(local) if local.is_dir() else local.stat().st_size
    with output.transfer(local.name, total) as show:
        box.upload(local, remote, on_progress=count)
    return moved


def _fetch(box: Devbox, path: str, destination: Place) -> int:
    moved = 0

    def count(received: int) -> None:
        nonlocal moved
        moved = received
        show(received)

    if destination.is_stdio:
        with output.transfer(path, None) as show:
            box.files.copy_to(path, sys.stdout.buffer, on_progress=count)
        return moved
    local = Path(destination.path)
    if destination.path.endswith("/") or local.is_dir():
        name = posixpath.basename(path.rstrip("/"))
        if name in {"", ".", "..", "~"}:
            name = box.name or box.id
        local /= name
    local.parent.mkdir(parents=True, exist_ok=True)
    with output.transfer(posixpath.basename(path) or path, None) as show:
        box.download(path, local, on_progress=count)
    return moved
