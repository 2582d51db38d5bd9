"""`corral devbox create`."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from corral_sdk import errors
from corral_sdk._sync.devbox import Devbox
from corral_sdk.cli import common, output


class Size(enum.StrEnum):
    """The sizes that have names."""

    X_SMALL = "X_SMALL"
    SMALL = "SMALL"
    MEDIUM = "MEDIUM"
    LARGE = "LARGE"
    X_LARGE = "X_LARGE"
    XX_LARGE = "XX_LARGE"


Sizes = Annotated[
    Size | None,
    typer.Option(
        case_sensitive=False,
        metavar="SIZE",
        help="X_SMALL, SMALL, MEDIUM, LARGE, X_LARGE or XX_LARGE; SMALL has 1 core, 2 GiB of memory, 4 GiB of disk.",
    ),
]
Pairs = Annotated[list[str] | None, typer.Option("--env", "-e", metavar="KEY=VALUE", help="For its commands.")]
Labels = Annotated[list[str] | None, typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="To find it by.")]
Commands = Annotated[
    list[str] | None, typer.Option(metavar="COMMAND", help="Run before it is ready; may be repeated.")
]
Files = Annotated[
    list[str] | None, typer.Option(metavar="HOST:BOX", help="A text file that is there at launch; may be repeated.")
]

Entrypoint = Annotated[str | None, typer.Option(metavar="COMMAND", help="Its main command; it ends with it.")]
Period = Annotated[
    int | None, typer.Option(metavar="SECONDS", help="Copy its disk to the server's object store that often.")
]
Objects = Annotated[
    list[str] | None,
    typer.Option("--object", metavar="PATH=ID", help="An object to write there; an archive is unpacked. Repeatable."),
]
Docker = Annotated[bool, typer.Option("--docker", help="With Docker in it; without a snapshot from its image.")]

BlueprintName = Annotated[
    str | None, typer.Option("--blueprint", metavar="NAME", help="Id or name of the blueprint that it begins as.")
]
Services = Annotated[
    list[str] | None,
    typer.Option("--service", metavar="NAME", help="A service of the blueprint to start. Repeatable."),
]


class Keeping(enum.StrEnum):
    """Whether processes go on after a suspend."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


KeepMemory = Annotated[
    Keeping | None,
    typer.Option(metavar="WHEN", help="Processes go on after a suspend: auto (where they can), always or never."),
]


def create(
    name: Annotated[str | None, typer.Option(help="A name to call it by.")] = None,
    size: Sizes = None,
    cpu: Annotated[float | None, typer.Option(help="Cores, in place of --size: a multiple of 0.5, up to 16.")] = None,
    memory: Annotated[int | None, typer.Option(help="GiB of memory, up to 64.")] = None,
    disk: Annotated[int | None, typer.Option(help="GiB of disk, up to 64.")] = None,
    env: Pairs = None,
    metadata: Labels = None,
    keep_alive: Annotated[int | None, typer.Option(metavar="SECONDS", help="Its longest life.")] = None,
    idle: Annotated[int | None, typer.Option(metavar="SECONDS", help="Shut down when unused for so long.")] = None,
    launch_command: Commands = None,
    entrypoint: Entrypoint = None,
    file: Files = None,
    snapshot: Annotated[str | None, typer.Option(metavar="ID", help="The snapshot that its disk begins as.")] = None,
    snapshot_every: Period = None,
    blueprint: BlueprintName = None,
    service: Services = None,
    objects: Objects = None,
    docker: Docker = False,
    keep_memory: KeepMemory = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it runs, or at once.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait.")] = 300,
    json: common.Json = False,
) -> None:
    """Make a devbox and print its id.

    \b
    Examples:
      corral devbox create --name first
      corral devbox create --docker --size MEDIUM
      corral devbox create --cpu 4 --memory 8 --disk 16 --env LANG=C.UTF-8
      corral devbox create --blueprint web
      corral devbox create --file ./run.sh:run.sh --launch-command 'sh run.sh'
      box=$(corral devbox create --idle 600) && corral devbox exec $box -- make
    """
    if size is not None and (cpu or memory or disk):
        raise typer.BadParameter("give either a size or --cpu, --memory and --disk", param_hint="--size")
    started = time.monotonic()
    with common.server() as corral:
        devbox = corral.devboxes.create(
            name=name,
            size=size.value if size else None,
            cpu=cpu,
            memory=memory,
            disk=disk,
            env=common.pairs("--env", env or ()),
            metadata=common.pairs("--metadata", metadata or ()),
            files=read_files(file or ()),
            launch_commands=launch_command or (),
            entrypoint=entrypoint,
            keep_alive_s=keep_alive,
            idle_s=idle,
            snapshot=snapshot,
            snapshot_every=snapshot_every,
            blueprint=blueprint,
            services=service or (),
            objects=common.pairs("--object", objects or ()) or None,
            docker=docker,
            keep_memory=keep_memory.value if keep_memory else None,
            wait=False,
        )
        if wait:
            wait_for(devbox, timeout)
    if json:
        output.document(devbox.info.raw)
        return
    output.line(devbox.id)
    if wait:
        output.say(f"running after {time.monotonic() - started:.2f} s")


def wait_for(devbox: Devbox, timeout: float) -> None:
    """Return when it runs; whoever does not want to wait so long is told how to end it."""
    try:
        with output.spinner(f"starting {devbox.id}"):
            devbox.wait(timeout_s=timeout)
    except KeyboardInterrupt:
        output.say(f"corral: {devbox.id} goes on starting; end it with: corral devbox shutdown {devbox.id}")
        raise


def read_files(values: Iterable[str]) -> dict[str, str]:
    """Return path in the devbox -> text, from values HOST:BOX."""
    files: dict[str, str] = {}
    for value in values:
        host, colon, box = value.partition(":")
        if not host or not colon or not box:
            raise typer.BadParameter(f"{value!r} is not HOST:BOX", param_hint="--file")
        try:
            files[box] = Path(host).read_bytes().decode()
        except UnicodeDecodeError:
            raise errors.Invalid(
                f"cannot send file {host}: it is not UTF-8 text; use `corral devbox cp` once the devbox runs"
            ) from None
        except OSError as error:
            raise errors.Invalid(f"cannot read file {host}: {error.strerror}") from error
    return files
