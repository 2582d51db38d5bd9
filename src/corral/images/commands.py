"""`corral image`: images of this host, built, taken in, given out, named, removed and checked, on a terminal.

Owns what these commands print. Must not do the work: that is the service's, and of `build` and `fsck`.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from corral.core import errors
from corral.core.settings import Settings
from corral.images import fsck, holds, names, packages, parallel, stock
from corral.images.catalogue import ImageInfo
from corral.images.collect import Collected
from corral.images.service import Images, Registries
from corral.images.store import ImageStore
from corral.images.terminal import Live, asked, created, facts, megabytes, told

app = typer.Typer(help="Images that boxes are made of, on this host.", no_args_is_help=True)

DEFAULT_ROOT: Final = Settings().images
_REGISTRY: Final = "docker://"
#: Endings of archives' names, which are no part of an image's.
_ENDINGS: Final = (".gz", ".xz", ".bz2", ".zst", ".tgz", ".tar", ".oci")

Root = Annotated[
    Path, typer.Option("--images", envvar="CORRAL_IMAGES", help="Directory that holds the images.", show_default=True)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("build")
def build_image(
    name: Annotated[list[str] | None, typer.Argument(help="Which recipes.", show_default=stock.DEFAULT)] = None,
    images: Root = DEFAULT_ROOT,
    mirror: Annotated[
        str | None,
        typer.Option(envvar="CORRAL_DEBIAN_MIRROR", help="Mirror of Debian, for hosts whose apt has none configured."),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Build all that there are recipes of.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build it even if its recipe has not changed.")] = False,
    as_json: Json = False,
) -> None:
    """Build stock images, or do nothing about those that are there and came from the same recipe.

    Needs root, mmdebstrap and a mirror of Debian; takes about a minute; a layer on an image that is there takes less.

    Example: corral image build debian-12 --force
    """
    with told(), Live() as live:
        if every and name:
            raise errors.Invalid("cannot build images: say names, or --all")
        flavours = [stock.flavour(each) for each in (stock.FLAVOURS if every else name or [stock.DEFAULT])]
        busy: set[str] = set()

        def report(flavour: stock.Flavour, step: packages.Step) -> None:
            busy.add(flavour.name)
            live.report(step.text, step.done, step.total, flavour.name if len(flavours) > 1 else "")

        built = {}
        for flavour, stored in parallel.build_all(ImageStore(images), flavours, report, force=force, mirror=mirror):
            live.ended(flavour.name)
            built[flavour.name] = stored
            if not as_json:
                done = f"built in {live.seconds():.0f} s" if flavour.name in busy else "up to date"
                size = megabytes(stored.manifest.size)
                typer.echo(
                    f"image {stored.name} {done}: {size}, {stored.manifest.digest[:19]}, {stored.layers[-1].path}"
                )
    if as_json:
        listed = [facts(built[flavour.name]) for flavour in flavours]
        typer.echo(json.dumps(listed if len(flavours) > 1 else listed[0]))


@app.command("import")
def import_image(
    source: Annotated[str, typer.Argument(help="A path, or a name in a registry as docker://NAME.")],
    name: Annotated[str | None, typer.Option(help="What to call it; else the registry's name, or the file's.")] = None,
    images: Root = DEFAULT_ROOT,
    registries: Annotated[
        Path | None, typer.Option(envvar="CORRAL_REGISTRIES", help="Configuration of registries.")
    ] = None,
    auth: Annotated[
        Path | None, typer.Option("--auth", envvar="CORRAL_REGISTRY_AUTH", help="Credentials for registries.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Take in an image: from a registry, an OCI layout, an archive of Docker or of OCI, or a tar of a root filesystem.

    The archive may be hostile; whatever is wrong with it is said, and nothing of it is left.

    Example: corral image import docker://python:3.12-slim
    """
    with told(), Live() as live:
        host = Images(images, registries=Registries(registries, auth))
        live.report(f"importing {source}")
        info = asyncio.run(_import(host, source, name))
    _say_image(host, info, live, "imported", as_json=as_json)


@app.command("export")
def export_image(
    name: Annotated[str, typer.Argument(help="Which image.")],
    target: Annotated[Path, typer.Argument(help="A folder for an OCI layout, or a file that ends in .tar.")],
    images: Root = DEFAULT_ROOT,
) -> None:
    """Give an image out as an OCI layout, which may have other images already, or as a tar of one.

    Example: corral image export debian-12 debian-12.tar
    """
    with told(), Live() as live:
        host = Images(images)
        live.report(f"exporting {name}")
        try:
            asyncio.run(
                host.export_archive(name, target) if target.suffix == ".tar" else host.export_layout(name, target)
            )
        except OSError as problem:
            raise errors.Unavailable(
                f"cannot export {name}: {target}: {problem.strerror}", remedy="name a folder that you may write to"
            ) from None
    typer.echo(f"image {name} exported in {live.seconds():.1f} s: {target}")


@app.command("list")
def list_images(
    images: Root = DEFAULT_ROOT,
    *,
    every: Annotated[bool, typer.Option("--all", help="Also those that a server has built for blueprints.")] = False,
    as_json: Json = False,
) -> None:
    """List the images that boxes can be made of, and the stock images that could be built.

    One with a last build was pulled for it, and goes by itself once no build has asked for it for a while.

    Example: corral image list --json
    """
    with told():
        store = ImageStore(images)
        there = store.names()
        aliases = {name: target for name in there if (target := store.target(name)) is not None}
        owned = set() if every else holds.owned(store).intersection(there)
        found = [stored for name in there if name not in owned | aliases.keys() and (stored := store.current(name))]
    if as_json:
        described = [{"name": name, "alias_of": target} for name, target in aliases.items()]
        typer.echo(json.dumps([*map(facts, found), *described]))
        return
    lacking = [name for name in stock.FLAVOURS if name not in {stored.name for stored in found}]
    if not found and not aliases:
        typer.echo(f"no images in {images}; build the default one with: corral image build", err=True)
        return
    table = Table("name", "size", "layers", "created", "digest", box=None, pad_edge=False)
    builds = any(map(asked, found))
    if builds:
        table.add_column("last build", no_wrap=True)
    for stored in found:
        manifest = stored.manifest
        row = [stored.name, megabytes(manifest.size), str(len(stored.layers)), f"{created(stored):%Y-%m-%d %H:%M}"]
        table.add_row(*row, manifest.digest[:19], *([asked(stored)] if builds else []))
    for name, target in aliases.items():
        table.add_row(name, "", "", "", f"-> {target}")
    for name in lacking:
        table.add_row(name, "", "", "", "not built")
    Console().print(table)
    if lacking:
        typer.echo("build one with: corral image build NAME", err=True)
    if owned:
        typer.echo(f"{len(owned)} more are of servers' blueprints: corral image list --all", err=True)


@app.command("alias")
def alias_image(
    name: Annotated[str, typer.Argument(help="The other word.")],
    target: Annotated[str, typer.Argument(help="What it stands for.")],
    images: Root = DEFAULT_ROOT,
) -> None:
    """Have a name stand for an image of this host, whatever that is at the time; `remove` takes it away again.

    Example: corral image alias ubuntu:24.04 debian-12
    """
    with told():
        Images(images).alias(name, target)
    typer.echo(f"image {name} is {target} from now on")


@app.command("remove")
def remove_image(
    name: Annotated[str, typer.Argument(help="Which image, or alias.")], images: Root = DEFAULT_ROOT
) -> None:
    """Forget an image, and remove its layers unless another image, a devbox or a snapshot needs them.

    Example: corral image remove python:3.12-slim
    """
    with told():
        host = Images(images)
        host.remove(name)
        collected = asyncio.run(host.collect())
    typer.echo(f"image {name} removed; {_collected(collected)}")


@app.command("gc")
def collect_layers(images: Root = DEFAULT_ROOT) -> None:
    """Remove layers that no image, devbox or snapshot needs, and what killed imports left. Servers do so themselves.

    Example: corral image gc
    """
    with told():
        collected = asyncio.run(Images(images).collect())
    typer.echo(_collected(collected))


@app.command("fsck")
def check_images(
    images: Root = DEFAULT_ROOT,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Remove leftovers, and what is broken and unused.")] = False,
    as_json: Json = False,
) -> None:
    """Read every layer again and compare it with its digest; check names, and what servers need. 1: not sound.

    Example: corral image fsck --repair
    """
    with told(), Live() as live:
        checked = fsck.check(ImageStore(images), repair=repair, report=live.report)
    if as_json:
        listed = [
            {"kind": each.kind, "path": str(each.path), "cause": each.cause, "mended": each.mended}
            for each in checked.findings
        ]
        typer.echo(json.dumps({"layers": checked.layers, "names": checked.names, "findings": listed}))
    else:
        for each in checked.findings:
            typer.echo(f"{each.kind}: {each.path}: {each.cause}{' (removed)' if each.mended else ''}")
        verdict = "sound" if checked.sound else "not sound"
        typer.echo(f"{checked.layers} layers and {checked.names} names in {live.seconds():.1f} s: {verdict}")
    if not checked.sound:
        raise typer.Exit(1)


async def _import(host: Images, source: str, name: str | None) -> ImageInfo:
    if source.startswith(_REGISTRY):
        return await host.pull(source.removeprefix(_REGISTRY), name)
    path = Path(source)
    return await host.import_path(path, name or _name_of(path))


def _name_of(path: Path) -> str:
    """What a file is called without what its name says of its format. Raises errors.Invalid."""
    name = path.absolute().name.lower()
    while ending := next((ending for ending in _ENDINGS if name.endswith(ending)), ""):
        name = name.removesuffix(ending)
    try:
        return names.normal(name)
    except errors.Invalid:
        raise errors.Invalid(
            f"cannot import {path}: its name is no image's; say what to call it with --name"
        ) from None


def _say_image(host: Images, info: ImageInfo, live: Live, done: str, *, as_json: bool) -> None:
    stored = host.store.current(info.name)
    if as_json and stored is not None:
        typer.echo(json.dumps(facts(stored)))
    elif stored is not None:
        layers = f"{len(stored.layers)} layers" if len(stored.layers) > 1 else "1 layer"
        size = megabytes(stored.manifest.size)
        typer.echo(f"image {info.name} {done} in {live.seconds():.1f} s: {size}, {layers}, {info.digest[:19]}")


def _collected(collected: Collected | None) -> str:
    if collected is None:
        return "somebody is adding images; layers go with the next: corral image gc"
    return f"{len(collected.layers)} layers removed, {megabytes(collected.size)}"
