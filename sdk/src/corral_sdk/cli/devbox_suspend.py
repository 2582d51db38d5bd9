"""`corral devbox suspend` and `corral devbox resume`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from corral_sdk import errors
from corral_sdk._sync.devbox import Devbox
from corral_sdk.cli import common, output

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is done, or at once.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait.")]


def suspend(devbox: common.DevboxName, wait: Wait = True, timeout: Timeout = 300, json: common.Json = False) -> None:
    """Give back its memory, processors and address; its disk is kept. What runs in it ends.

    \b
    Examples:
      corral devbox suspend first
    """
    started = time.monotonic()
    with common.server() as corral, output.spinner("suspending"):
        found = corral.devboxes.find(devbox)
        found.suspend()
        if wait and found.wait("running", "suspended", timeout_s=timeout).status == "running":
            raise errors.WrongState(f"cannot suspend devbox {found.id}: {found.info.message}")
    _tell(found, json, f"suspended after {time.monotonic() - started:.2f} s" if wait else "")


def resume(devbox: common.DevboxName, wait: Wait = True, timeout: Timeout = 300, json: common.Json = False) -> None:
    """Start a suspended devbox again, with the disk that was kept. Its launch commands run again.

    \b
    Examples:
      corral devbox resume first
    """
    started = time.monotonic()
    with common.server() as corral, output.spinner("resuming"):
        found = corral.devboxes.find(devbox)
        found.resume()
        if wait and found.wait("running", "suspended", timeout_s=timeout).status == "suspended":
            raise errors.WrongState(f"cannot resume devbox {found.id}: {found.info.message}; its disk is kept")
    _tell(found, json, f"running after {time.monotonic() - started:.2f} s" if wait else "")


def _tell(devbox: Devbox, json: bool, done: str) -> None:
    if json:
        output.document(devbox.info.raw)
        return
    output.line(devbox.id)
    if done:
        output.say(done)
