"""`corral version`."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from corral_sdk import __version__
from corral_sdk.cli import output


def version(json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False) -> None:
    """Print the versions of the client and, where it is installed, of the server."""
    try:
        server = metadata.version("corral")
    except metadata.PackageNotFoundError:
        server = None
    if json:
        output.document({"client": __version__, "server": server})
        return
    output.line(f"client {__version__}")
    output.line(f"server {server or 'not installed here'}")
