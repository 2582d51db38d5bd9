"""Groups of commands that load a command's module when it is called, not before.

Every imported module delays the first request; a verb needs its own one only.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperGroup

from corral_sdk import errors

if TYPE_CHECKING:
    from importlib import metadata
#: Verb -> "module:function".
Verbs = Mapping[str, str]

SETTINGS = {"help_option_names": ["-h", "--help"]}


class Commands(Mapping[str, Any]):
    """Commands by name, each made when it is asked for; those of other distributions come by entry points."""

    def __init__(self, verbs: Verbs, entry_points: str) -> None:
        self._verbs = verbs
        self._group = entry_points

    def __iter__(self) -> Iterator[str]:
        yield from self._verbs
        yield from sorted(self._registered().keys() - self._verbs.keys())

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._verbs or name in self._registered()

    def __getitem__(self, name: str) -> Any:
        if name in self._verbs:
            return as_command(name, _load(self._verbs[name]))
        return as_command(name, _load_entry(self._registered()[name]))

    def _registered(self) -> dict[str, metadata.EntryPoint]:
        # Loading this and reading the metadata of all that is installed takes 25 ms; our own names do not lead here.
        from importlib import metadata  # noqa: PLC0415

        return {entry.name: entry for entry in metadata.entry_points(group=self._group)} if self._group else {}


def make(name: str, help_text: str, verbs: Verbs, *, entry_points: str = "", completion: bool = False) -> typer.Typer:
    """Return a group with these verbs, and those that other distributions register under the entry point group."""

    class Lazy(TyperGroup):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = Commands(verbs, entry_points)  # type: ignore[assignment]

        def list_commands(self, ctx: object) -> list[str]:
            return list(self.commands)

    group = typer.Typer(
        name=name,
        cls=Lazy,
        help=unwrapped(help_text),
        no_args_is_help=True,
        add_completion=completion,
        pretty_exceptions_enable=False,
        context_settings=SETTINGS,
    )
    group.callback()(lambda: None)
    return group


def as_command(name: str, target: Callable[..., Any] | typer.Typer) -> Any:
    """Return a Typer app, or a function with Typer's annotations, as a command of this name."""
    app = target
    if not isinstance(app, typer.Typer):
        app = typer.Typer(add_completion=False, context_settings=SETTINGS)
        app.command(name, help=unwrapped(inspect.getdoc(target) or ""))(target)
    command = typer.main.get_command(app)
    command.name = name
    return command


def unwrapped(text: str) -> str:
    """Return help text with each paragraph on one line, as the help of a terminal of any width needs it.

    A paragraph that begins with a backspace character, click's mark, keeps its lines.
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(part if part.startswith("\b") else " ".join(part.split()) for part in paragraphs)


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _load_entry(entry: metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        cause = f"cannot load command {entry.name!r} from {entry.value}: {error}; is the server installed whole?"

    def broken() -> NoReturn:
        raise errors.NotOffered(cause)

    broken.__doc__ = cause
    return broken
