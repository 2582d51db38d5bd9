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
from dataclasses import dataclass
from pathlib import Path

INSTALL_LIMIT_S = 300

#: What the clients' own tests import, beside the client; in the versions that they are locked to.
_SUITE_NEEDS = (
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "pytest-xdist",
    "python-frontmatter",
    "respx",
    "uuid-utils",
)


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


def harbor(version: str) -> Path:
    """The command of Harbor of this version, with its provider for the dialect. Raises NotInstallable.

    It needs a later Python than Corral does.
    """
    folder = cache() / f"harbor-{version}"

    def install() -> None:
        _run(str(_later_python()), "-m", "venv", str(folder))
        _run(str(folder / "bin" / "pip"), "install", "--quiet", f"harbor[runloop]=={version}")

    _once(folder, install)
    return folder / "bin" / "harbor"


def _later_python() -> Path:
    """A Python from 3.12 on: of the system, or one that pyenv keeps. Raises NotInstallable."""
    names = [f"python3.{minor}" for minor in (13, 12, 14)]
    found = [Path(known) for name in names if (known := shutil.which(name)) is not None]
    found += [known for name in names for known in (Path.home() / ".pyenv" / "versions").glob(f"*/bin/{name}")]
    for one in found:
        # A shim of pyenv is there also for versions that are not chosen, and fails then.
        if not subprocess.run([str(one), "-c", "import venv"], capture_output=True).returncode:
            return one
    raise NotInstallable("there is no Python from 3.12 on")


@dataclass(frozen=True)
class Suite:
    """The client's own tests as its source distribution has them, and a Python that can run them there."""

    python: Path
    tree: Path


def suite(version: str) -> Suite:
    """The tests that belong to the Python client of this version. Raises NotInstallable.

    The TypeScript client is published without its tests.
    """
    folder = cache() / f"suite-{version}"
    name = f"runloop_api_client-{version}"

    def install() -> None:
        _run(sys.executable, "-m", "venv", str(folder))
        pip = str(folder / "bin" / "pip")
        source = ("--no-deps", "--no-binary", ":all:", f"runloop-api-client=={version}")
        _run(pip, "download", "--quiet", "--dest", str(folder), *source)
        _run("tar", "-x", "-f", str(folder / f"{name}.tar.gz"), "-C", str(folder), "--no-same-owner")
        lock = (folder / name / "requirements-dev.lock").read_text().splitlines()
        pinned = folder / "constraints.txt"
        pinned.write_text("\n".join(line for line in lock if not line.startswith("-e")))
        client = f"runloop-api-client=={version}"
        _run(pip, "install", "--quiet", "--constraint", str(pinned), client, *_SUITE_NEEDS)

    _once(folder, install)
    return Suite(folder / "bin" / "python", folder / name)


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
