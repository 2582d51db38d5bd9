"""`corral object`: bytes that the server keeps under an id."""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from corral_sdk import _tar
from corral_sdk._sync.objects import kind_of
from corral_sdk.cli import common, groups, output

HELP = """Files that the server keeps under an id, for devboxes to begin with and for anybody to fetch.

\b
Examples:
  corral object upload ./project --name project
  corral devbox create --object /home/user/project=obj_...
  corral object download obj_... project.tar
"""

VERBS = {
    "upload": "corral_sdk.cli.object:upload",
    "list": "corral_sdk.cli.object:list_",
    "show": "corral_sdk.cli.object:show",
    "download": "corral_sdk.cli.object:download",
    "delete": "corral_sdk.cli.object:delete",
}

app = groups.make("object", HELP, VERBS)

ObjectId = Annotated[str, typer.Argument(metavar="ID", help="Id of an object.")]
_CHUNK = 256 * 1024


def upload(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A file, a folder, or - for standard input.")],
    name: Annotated[str | None, typer.Option(help="What to call it; else the name of the file.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="text, binary, gzip, tar, tgz or unspecified; else by its name.")
    ] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Repeatable.")] = None,
    ttl: Annotated[int | None, typer.Option(metavar="SECONDS", min=1, help="How long it is kept.")] = None,
    json: common.Json = False,
) -> None:
    """Store a file and print its id. A folder is stored as a tar archive of what is in it.

    \b
    Examples:
      corral object upload notes.txt
      corral object upload ./project --name project --ttl 86400
      pg_dump shop | corral object upload - --name shop.sql
    """
    path = Path(source)
    called = name or ("stdin" if source == "-" else path.resolve().name)
    with tempfile.TemporaryDirectory(prefix="corral-object-") as folder:
        content = path
        # The size has to be known before anything is sent.
        if source == "-" or path.is_dir():
            content = Path(folder) / "content"
            with content.open("wb") as file:
                pieces = iter(lambda: sys.stdin.buffer.read(_CHUNK), b"") if source == "-" else _tar.pack(path)
                file.writelines(pieces)
        told = kind or ("tar" if path.is_dir() and source != "-" else kind_of(called))
        with common.server() as corral, output.transfer(called, content.stat().st_size) as moved:
            info = corral.objects.upload(
                content,
                called,
                content_type=told,
                metadata=common.pairs("--metadata", metadata or ()),
                ttl_s=ttl,
                on_progress=moved,
            )
    if json:
        output.document(info.raw)
        return
    output.line(info.id)


def list_(
    name: Annotated[str | None, typer.Option(help="Only those with this in their name.")] = None,
    state: Annotated[str | None, typer.Option(help="UPLOADING, READ_ONLY, DELETED or ERROR.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: common.Json = False,
) -> None:
    """List objects, the newest first; deleted ones only when --state asks for them.

    \b
    Examples:
      corral object list
      corral object list --name project
    """
    with common.server() as corral, output.spinner("listing objects"):
        infos = list(itertools.islice(corral.objects.list(name=name, state=state), limit + 1))
    shown = infos[:limit]
    if json:
        output.document([info.raw for info in shown])
        return
    if not shown:
        output.say("no objects")
        return
    rows = [(i.id, i.name, i.content_type, i.state, _size(i.size), output.age(i.created_at_ms)) for i in shown]
    output.table(("ID", "NAME", "TYPE", "STATE", "SIZE", "AGE"), rows)
    if len(infos) > limit:
        output.say(f"the newest {limit}; --limit shows more")


def show(object_id: ObjectId, json: common.Json = False) -> None:
    """Show one object, a deleted one too.

    \b
    Examples:
      corral object show obj_...
    """
    with common.server() as corral:
        info = corral.objects.get(object_id)
    if json:
        output.document(info.raw)
        return
    pairs = [
        ("id", info.id),
        ("name", info.name),
        ("type", info.content_type),
        ("state", info.state + (f": {info.message}" if info.message else "")),
        ("size", "-" if info.size is None else f"{info.size} bytes"),
        ("created", output.moment(info.created_at_ms)),
        ("deleted after", output.moment(info.delete_after_ms)),
    ]
    output.fields(pairs + [(f"metadata {key}", value) for key, value in sorted(info.metadata.items())])


def download(
    object_id: ObjectId,
    target: Annotated[str, typer.Argument(metavar="DST", help="A file here, or - for standard output.")],
) -> None:
    """Write an object's content to a file.

    \b
    Examples:
      corral object download obj_... project.tar
      corral object download obj_... - | tar -t
    """
    with common.server() as corral:
        if target == "-":
            corral.objects.copy_to(object_id, sys.stdout.buffer)
            return
        size = corral.objects.get(object_id).size
        with output.transfer(target, size) as moved:
            corral.objects.fetch(object_id, Path(target), on_progress=moved)


def delete(
    objects: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of objects.")],
) -> None:
    """Delete objects. Devboxes that began with them keep their copies.

    \b
    Examples:
      corral object delete obj_...
    """
    with common.server() as corral:
        for each in objects:
            corral.objects.delete(each)
            output.line(each)


def _size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.1f} MB"
