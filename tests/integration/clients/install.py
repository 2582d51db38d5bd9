"""Where the official clients are: each release in a folder of its own, installed once and kept between runs.

CORRAL_TEST_CACHE names the folder that holds them; without it, `.cache/corral/clients` in the home.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

INSTALL_LIMIT_S = 300


class NotInstallable(Exception):
    """The client could not be had: no network, or no Node."""


def cache() -> Path:
    """The folder of all clients."""
    return Path(os.environ.get("CORRAL_TEST_CACHE") or Path.home() / ".cache" / "corral" / "clients")


def python(version: str) -> Path:
    """A Python interpreter that has the Python client of this version. Raises NotInstallable."""
    folder = cache() / f"py-{version}"

    def install() -> None:
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(folder / "bin" / "pip"), "install", "--quiet", f"runloop-api-client=={version}")

    _once(folder, install)
    return folder / "bin" / "python"


def typescript(version: str) -> Path:
    """A folder from which Node finds the TypeScript client of this version. Raises NotInstallable."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotInstallable("node and npm are not installed")
    folder = cache() / f"ts-{version}"

    def install() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n')
        _run("npm", "install", "--silent", "--no-fund", "--no-audit", f"@runloop/api-client@{version}", cwd=folder)

    _once(folder, install)
    return folder


def _once(folder: Path, install: Callable[[], None]) -> None:
    """Install unless a whole installation is there; one process at a time."""
    whole = folder / ".whole"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if whole.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        install()
        whole.touch()


def _run(*command: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise NotInstallable(f"{command[0]} took over {INSTALL_LIMIT_S} s") from error
    if done.returncode:
        raise NotInstallable(f"{' '.join(command)}: {(done.stderr or done.stdout)[-2000:]}")
