"""Options and steps that several verbs share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import typer

from corral_sdk import errors
from corral_sdk._sync.client import Corral
from corral_sdk.models import DevboxInfo

#: Statuses of devboxes that have not ended.
LIVE = ("running", "initializing", "provisioning", "suspending", "suspended")


def complete_devbox(incomplete: str) -> Iterator[tuple[str, str]]:
    """Offer ids and names of live devboxes to the shell's completion."""
    try:
        with Corral(patience_s=0) as corral:
            for info in live(corral):
                for word, note in ((info.name or "", info.id), (info.id, info.name or info.status)):
                    if word and word.startswith(incomplete):
                        yield word, note
    except errors.CorralError:
        return  # a completion that cannot be made is none: there is nobody to tell


Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
DevboxName = Annotated[str, typer.Argument(metavar="ID", help="Id or name.", autocompletion=complete_devbox)]


@contextmanager
def server() -> Iterator[Corral]:
    """Give a client of the server that the environment names."""
    with Corral() as corral:
        yield corral


def live(corral: Corral, *, name: str | None = None, metadata: Mapping[str, str] | None = None) -> list[DevboxInfo]:
    """Return every devbox that has not ended, newest first. One list for each status: ended ones may be many more."""
    found = [info for status in LIVE for info in corral.devboxes.list(status=status, name=name, metadata=metadata)]
    return sorted(found, key=lambda info: (info.created_at_ms, info.id), reverse=True)


def pairs(option: str, values: Iterable[str]) -> dict[str, str]:
    """Return the values KEY=VALUE of an option as a mapping."""
    result: dict[str, str] = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{value!r} is not KEY=VALUE", param_hint=option)
        result[key] = rest
    return result
