"""`corral devbox ssh` and `ssh-config`: this machine's own ssh, scp, rsync and editors in a devbox."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from corral_sdk import errors
from corral_sdk._sync.devbox import Devbox
from corral_sdk.cli import common
from corral_sdk.models import SshKey

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")

Address = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", envvar="CORRAL_SSH_ADDRESS", help="Where SSH is reached, if not at the server."),
]
Tls = Annotated[bool, typer.Option(help="Go through TLS, by `openssl s_client`, where a network lets only that out.")]


def ssh(
    devbox: common.DevboxName,
    command: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", help="In place of a shell.")] = None,
    forward: Annotated[
        list[str] | None, typer.Option("--forward", "-L", metavar="PORT:localhost:PORT", help="As ssh's own -L.")
    ] = None,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give the command a terminal.")] = False,
    tls: Tls = False,
    address: Address = None,
) -> None:
    """Enter a devbox with this machine's ssh, by a key that is made for it and forgotten afterwards.

    The exit code is the command's, or 255 when it could not be run to its end.

    \b
    Examples:
      corral devbox ssh first
      corral devbox ssh first -- make test
      corral devbox ssh first -L 8080:localhost:80
      tar -c src | corral devbox ssh first -- tar -x
    """
    program = shutil.which("ssh")
    if program is None:
        raise errors.NotOffered("cannot find the program ssh on this machine; install OpenSSH's client")
    with tempfile.TemporaryDirectory(prefix="corral-ssh-") as folder:
        with common.server() as corral:
            way = _way(corral.devboxes.find(devbox), Path(folder), address, tls=tls)
        arguments = [program, *(f"-o{name}={value}" for name, value in way.items())]
        arguments += [f"-L{one}" for one in forward or ()]
        arguments += ["-t"] if tty else []
        # ssh joins what follows with blanks for the devbox's shell, as it does everywhere.
        arguments += ["--", way["HostKeyAlias"], *(command or ())]
        code = _run(arguments)
    raise typer.Exit(code)


def ssh_config(
    devbox: common.DevboxName,
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the key is kept.")] = Path("~/.ssh/corral"),
    tls: Tls = False,
    address: Address = None,
) -> None:
    """Print what ssh, scp, rsync and editors need in ~/.ssh/config to know a devbox by its id or name.

    A key is made for it and kept; it opens the devbox until that ends.

    \b
    Examples:
      corral devbox ssh-config first >> ~/.ssh/config
      rsync -a src/ first:src/
    """
    with common.server() as corral:
        box = corral.devboxes.find(devbox)
        # Not every name can be a host's, or a folder's.
        alias = devbox if _HOST.fullmatch(devbox) else box.id
        place = folder.expanduser() / alias
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        way = _way(box, place.absolute(), address, tls=tls)
    typer.echo("\n".join([f"Host {alias}", *(f"  {name} {value}" for name, value in way.items())]))


def _way(box: Devbox, folder: Path, address: str | None, *, tls: bool) -> Mapping[str, str]:
    """Make a key, and the options by which ssh finds the devbox with it. Key and host key are put into `folder`."""
    key = box.create_ssh_key()
    host, port = _parts(address) if address is not None else (key.host, key.port)
    private, known = folder / "key", folder / "known_hosts"
    _write(private, key.private_key)
    _write(known, f"{key.name} {key.host_key}\n")
    way = {
        "HostName": key.name if tls else host,
        "Port": str(port),
        "User": key.user,
        "IdentityFile": _quoted(private),
        "IdentitiesOnly": "yes",
        "HostKeyAlias": key.name,
        "UserKnownHostsFile": _quoted(known),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
    }
    return way | _proxy(key, host, port) if tls else way


def _proxy(key: SshKey, host: str, port: int) -> dict[str, str]:
    """TLS carries the connection only: the host key inside it says who the server is."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return {"ProxyCommand": f"openssl s_client -quiet -verify_quiet -servername {key.name} -connect {where}"}


def _parts(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise typer.BadParameter(f"{address!r} is not HOST:PORT", param_hint="--address")
    return host.strip("[]"), int(port)


def _quoted(path: Path) -> str:
    """A path as ssh reads it in options: `%` begins its own variables there."""
    return '"' + str(path).replace("%", "%%") + '"'


def _write(path: Path, text: str) -> None:
    """For the owner only, whole: another call may read it now."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    part.replace(path)


def _run(arguments: list[str]) -> int:
    """Run ssh on this terminal; its exit code. Signals are its own: what ends it ends this."""
    with _passing_on() as started:
        process = subprocess.Popen(arguments)
        started.append(process)
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _passing_on() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Ctrl-C reaches ssh by the terminal; SIGTERM and SIGHUP are passed on, so that its key is removed behind it."""
    started: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
