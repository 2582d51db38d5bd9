"""`corral blueprint`: images that devboxes begin as."""

from __future__ import annotations

import itertools
import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from corral_sdk import errors
from corral_sdk._sync.client import Corral
from corral_sdk.cli import common, groups, output
from corral_sdk.cli.devbox_create import read_files
from corral_sdk.models import BlueprintInfo, BuildLine

HELP = """Build images for devboxes to begin as, from a Dockerfile, commands and files.

\b
Examples:
  corral blueprint create web --context . --watch
  corral blueprint create tools --setup 'sudo apt-get install -y ripgrep'
  corral devbox create --blueprint web
"""

VERBS = {
    "create": "corral_sdk.cli.blueprint:create",
    "list": "corral_sdk.cli.blueprint:list_",
    "show": "corral_sdk.cli.blueprint:show",
    "logs": "corral_sdk.cli.blueprint:logs",
    "preview": "corral_sdk.cli.blueprint:preview",
    "delete": "corral_sdk.cli.blueprint:delete",
}

app = groups.make("blueprint", HELP, VERBS)

Reference = Annotated[str, typer.Argument(metavar="ID", help="Id or name; by name the newest.")]
Dockerfile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A Dockerfile; with --context, Dockerfile in it is the default.")
]
Base = Annotated[str | None, typer.Option(metavar="NAME", help="Id or name of a blueprint to build on.")]
Setup = Annotated[
    list[str] | None, typer.Option(metavar="COMMAND", help="Run after everything else, as the user. Repeatable.")
]
Files = Annotated[list[str] | None, typer.Option(metavar="HOST:BOX", help="A text file that is in it. Repeatable.")]


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What devboxes call it.")],
    dockerfile: Dockerfile = None,
    context: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder that the Dockerfile copies from, less .dockerignore."),
    ] = None,
    arg: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="For ARG. Repeatable.")] = None,
    base: Base = None,
    setup: Setup = None,
    file: Files = None,
    metadata: Annotated[list[str] | None, typer.Option("--metadata", "-m", metavar="KEY=VALUE")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the build's log as it is written.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is built, or at once.")] = True,
    json: common.Json = False,
) -> None:
    """Build a blueprint and print its id. An unchanged one is there at once.

    \b
    Examples:
      corral blueprint create web --context . --arg VERSION=3 --watch
      corral blueprint create web --dockerfile Dockerfile.test
      corral blueprint create tools --base web --setup 'pip install --user ruff'
    """
    text = _dockerfile(dockerfile, context)
    with common.server() as corral:
        made = corral.blueprints.create(
            name,
            dockerfile=text,
            context=context,
            base=base,
            build_args=common.pairs("--arg", arg or ()),
            setup=setup or (),
            files=read_files(file or ()),
            metadata=common.pairs("--metadata", metadata or ()),
            wait=False,
        )
        if watch:
            for line in corral.blueprints.follow(made.id):
                output.say(line.message)
        if wait or watch:
            made = _built(corral, made.id)
    if json:
        output.document(made.raw)
        return
    output.line(made.id)


def list_(
    name: Annotated[str | None, typer.Option(help="Only those of this name.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only those with this status, build_complete for example.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: common.Json = False,
) -> None:
    """List blueprints, the newest first.

    \b
    Example:
      corral blueprint list --status failed
    """
    with common.server() as corral, output.spinner("listing blueprints"):
        infos = list(itertools.islice(corral.blueprints.list(name=name, status=status), limit + 1))
    shown = infos[:limit]
    if json:
        output.document([info.raw for info in shown])
        return
    if not shown:
        output.say("no blueprints")
        return
    rows = [(info.id, info.name, info.status, output.age(info.created_at_ms), _took(info)) for info in shown]
    output.table(("ID", "NAME", "STATUS", "AGE", "TOOK"), rows)
    if len(infos) > limit:
        output.say(f"the newest {limit}; --limit shows more")


def show(blueprint: Reference, json: common.Json = False) -> None:
    """Show a blueprint; of one that was not built, the step that failed with its output.

    \b
    Example:
      corral blueprint show web
    """
    with common.server() as corral:
        info = corral.blueprints.find(blueprint)
    if json:
        output.document(info.raw)
        return
    pairs = [
        ("id", info.id),
        ("name", info.name),
        ("status", info.status if info.state == "created" else f"{info.status}, {info.state}"),
        ("created", output.moment(info.created_at_ms)),
        ("built", output.moment(info.finished_at_ms)),
        ("base", info.base_id or "-"),
        ("metadata", ", ".join(f"{key}={value}" for key, value in info.metadata.items()) or "-"),
    ]
    if info.message:
        pairs.append(("failure", info.message))
    output.fields(pairs)
    if info.failed_step is not None:
        output.line("")
        output.line(_step(info))


def logs(
    blueprint: Reference,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the build is over or Ctrl-C.")] = False,
    json: common.Json = False,
) -> None:
    """Print the log of a blueprint's build. With --follow --json each line is a JSON document on a line of its own.

    \b
    Examples:
      corral blueprint logs web
      corral blueprint logs web --follow
    """
    with common.server() as corral:
        info = corral.blueprints.find(blueprint)
        if follow:
            for line in corral.blueprints.follow(info.id):
                output.line(jsonlib.dumps(dict(line.raw), ensure_ascii=False) if json else _format(line))
                output.flush()
            return
        lines = corral.blueprints.logs(info.id)
    if json:
        output.document([line.raw for line in lines])
        return
    for line in lines:
        output.line(_format(line))


def preview(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As for create.")],
    dockerfile: Dockerfile = None,
    base: Base = None,
    setup: Setup = None,
    file: Files = None,
) -> None:
    """Print the Dockerfile that `create` would build.

    \b
    Example:
      corral blueprint preview tools --setup 'sudo apt-get install -y ripgrep'
    """
    with common.server() as corral:
        text = corral.blueprints.preview(
            name,
            dockerfile=_dockerfile(dockerfile, None),
            base=base,
            setup=setup or (),
            files=read_files(file or ()),
        )
    output.line(text.rstrip("\n"))


def delete(blueprints: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of blueprints.")]) -> None:
    """Delete blueprints. Devboxes that began as them go on.

    \b
    Example:
      corral blueprint delete bpt_...
    """
    with common.server() as corral:
        for blueprint in blueprints:
            corral.blueprints.delete(blueprint)
            output.line(blueprint)


def _dockerfile(path: Path | None, context: Path | None) -> str | None:
    if path is None:
        if context is None:
            return None
        path = context / "Dockerfile"
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise errors.Invalid(f"cannot read {path}: it is not UTF-8 text") from None
    except OSError as error:
        raise errors.Invalid(f"cannot read {path}: {error.strerror}") from error


def _built(corral: Corral, blueprint_id: str) -> BlueprintInfo:
    """The blueprint once it is built; of one that is not, the step that failed is shown before the error is."""
    try:
        with output.spinner(f"building {blueprint_id}"):
            return corral.blueprints.wait(blueprint_id)
    except errors.BuildFailed:
        info = corral.blueprints.get(blueprint_id)
        if info.failed_step is not None:
            output.say(_step(info))
        raise
    except KeyboardInterrupt:
        output.say(f"corral: {blueprint_id} goes on; end it with: corral blueprint delete {blueprint_id}")
        raise


def _step(info: BlueprintInfo) -> str:
    step = info.failed_step
    if step is None:
        return ""
    code = "" if step.exit_code is None else f" exited with code {step.exit_code}"
    return f"step {step.number}{code}: {step.command}\n{step.output.rstrip()}"


def _format(line: BuildLine) -> str:
    level = "" if line.level == "info" else f"{line.level.upper()}: "
    return f"{output.moment(line.at_ms)} {level}{line.message}"


def _took(info: BlueprintInfo) -> str:
    return "-" if info.finished_at_ms is None else f"{(info.finished_at_ms - info.created_at_ms) / 1000:.1f}s"
