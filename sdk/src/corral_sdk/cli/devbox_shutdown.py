"""`corral devbox shutdown`."""

from __future__ import annotations

from typing import Annotated

import typer

from corral_sdk import errors
from corral_sdk._sync.client import Corral
from corral_sdk._sync.devbox import Devbox
from corral_sdk.cli import common, output


def shutdown(
    devboxes: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids or names.", autocompletion=common.complete_devbox)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every live devbox.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --all.")] = False,
    json: common.Json = False,
) -> None:
    """End devboxes, whatever they do. Their disks are gone; their records and logs stay.

    \b
    Examples:
      corral devbox shutdown first
      corral devbox shutdown --all
    """
    names = devboxes or []
    if bool(names) == all_:
        raise typer.BadParameter("name devboxes, or give --all", param_hint="ID")
    with common.server() as corral:
        targets = _all(corral, yes) if all_ else [corral.devboxes.find(name) for name in names]
        ended: list[Devbox] = []
        failures = 0
        for devbox in targets:
            try:
                devbox.shutdown()
            except errors.CorralError as error:
                # The others are ended all the same; the exit code says that not all were.
                output.fail(error.message)
                failures += 1
                continue
            ended.append(devbox)
            if not json:
                output.line(devbox.id)
    if json:
        output.document([devbox.info.raw for devbox in ended])
    if failures:
        raise typer.Exit(1)


def _all(corral: Corral, yes: bool) -> list[Devbox]:
    targets = [corral.devboxes.of(info) for info in common.live(corral)]
    if not targets:
        output.say("no live devboxes")
    elif output.interactive() and not yes:
        typer.confirm(f"End {len(targets)} live devboxes?", abort=True, err=True)
    return targets
