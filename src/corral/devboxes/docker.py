"""Docker inside a devbox: the script that starts its daemon, and the command that runs it at each start.

Must not know how containers are possible in a box: that is the runtime's (`BoxSpec.nested`).
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from corral.devboxes.execution_rows import Wish
from corral.devboxes.model import Devbox, ExecutionSource

#: The image of a devbox that asks for Docker and begins as nothing else.
IMAGE: Final = "docker"
#: Where the script is in the box; whoever installs Docker later runs it by hand.
SCRIPT: Final = "/usr/local/lib/corral/start-docker"
_COMMAND_ID: Final = "docker:{start}"


def script() -> bytes:
    """The text of the script."""
    return resources.files("corral.devboxes").joinpath("docker.sh").read_bytes()


def start(devbox: Devbox) -> Wish:
    """The command that starts the daemon, for the group of the devbox's user; without a daemon it does nothing."""
    command = f"bash {SCRIPT} {devbox.request.user.gid}"
    command_id = _COMMAND_ID.format(start=devbox.start)
    return Wish(command, source=ExecutionSource.SETUP, command_id=command_id, user="root")
