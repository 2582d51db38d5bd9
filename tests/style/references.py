"""Writes the pages of docs/reference that follow from code: `python -m tests.style.references`.

Owns the form of cli.md and settings.md. A test compares the pages with what this module makes.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from corral.core import settings
from corral_sdk.cli import main
from tests.style import tree

FOLDER = tree.ROOT / "docs" / "reference"

COMMANDS = """# The command line

This page is generated from the commands themselves: `python -m tests.style.references`.
`corral <command> --help` says the same in the terminal.
"""

SETTINGS = """# Settings

This page is generated from the settings themselves: `python -m tests.style.references`.

## The server

Each setting is an environment variable; an empty one counts as not set.
[`corral serve`](cli.md#corral-serve) has options for some, which win over the variables.

| variable | default | meaning |
| --- | --- | --- |
{server}

## The client

| variable | default | meaning |
| --- | --- | --- |
| `CORRAL_URL` | `http://127.0.0.1:8700` | Where the server is. |
| `CORRAL_API_KEY` | the file `api-key` in `CORRAL_DATA` | The key to send. |
| `CORRAL_SSH_ADDRESS` | the server's host and SSH port | Where `corral devbox ssh` connects, as HOST:PORT. |

## Building images

| variable | default | meaning |
| --- | --- | --- |
| `CORRAL_DEBIAN_MIRROR` | what apt on the host uses | Where `corral image build` gets Debian's packages. |

## The demo

| variable | default | meaning |
| --- | --- | --- |
| `OPENAI_API_KEY` | | With it, the agent of `make demo` asks a real model; without it, a script. |
| `CORRAL_DEMO_MODEL` | `gpt-5` | Which real model. |

## Variables that Corral sets itself

These are no settings; a value from outside is replaced.

| variable | where |
| --- | --- |
| `CORRAL_FAKE_BOX` | In processes of the fake runtime, to find them again after a restart. |
| `CORRAL_CONFORMANCE_CANARY` | In the conformance suite, to see that a box gets nothing of its server's environment. |
"""


def _usage(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = [str(p.metavar or p.name.upper()) + ("…" if p.nargs != 1 else "") for p in arguments]
    return " ".join([name, "[OPTIONS]", *words])


def _options(command: Any) -> Iterator[str]:
    for option in command.params:
        if option.param_type_name == "option" and not getattr(option, "hidden", False) and option.name != "help":
            flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
            yield f"| {flags} | {(option.help or '').replace('|', '/').strip()} |"


def _prose(text: str) -> str:
    """The help text; a paragraph whose lines are kept, click's backspace mark, becomes a code block."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(_listing(part) if part.startswith("\b") else part.strip() for part in paragraphs)


def _listing(paragraph: str) -> str:
    head, _, body = paragraph.lstrip("\b").strip("\n").partition("\n")
    return f"{head}\n\n```\n{textwrap.dedent(body)}\n```"


def sections(name: str, command: Any) -> Iterator[str]:
    """Markdown of the command and of those below it, in the order of their names."""
    text = _prose((command.help or "").split("\f")[0])
    if not getattr(command, "commands", None):
        yield f"## {name}\n\n{text}\n\n```\n{_usage(name, command)}\n```\n"
        if options := list(_options(command)):
            yield "\n".join(["| option | what it does |", "| --- | --- |", *options]) + "\n"
        return
    for child, below in sorted(command.commands.items()):
        if not below.hidden:
            yield from sections(f"{name} {child}", below)


def _shown(default: object) -> str:
    if default is None or default == ():
        return ""
    return f"`{default}`"


def pages() -> dict[str, str]:
    """File names of the pages, each with what should be in it."""
    rows = [f"| `{each.variable}` | {_shown(each.default)} | {each.sentence} |" for each in settings.catalogue()]
    return {
        "cli.md": "\n".join([COMMANDS, *sections("corral", typer.main.get_command(main.app))]),
        "settings.md": SETTINGS.format(server="\n".join(rows)),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
