"""The default image as a file tree that commands can run in, without Corral: overlay, chroot, no network."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from corral.core.settings import Settings
from corral.images import stock
from corral.images.store import ImageStore, Stored

IMAGES = Path(os.environ.get("CORRAL_IMAGES", Settings().images))

#: Runs in namespaces of its own, so that mounts and processes end with the command.
#: $1 scratch, $2 layers, the highest first, $3 user.
ENTER = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t tmpfs -o mode=0755 tmpfs dev
ln -s /proc/self/fd dev/fd
for name in null zero urandom; do touch dev/$name; mount --bind /dev/$name dev/$name; done
user=$3
shift 3
exec chroot --userspec="$user" . "$@"
"""


@dataclass(frozen=True)
class Tree:
    """The image's tree; every command gets a fresh copy of it and leaves nothing."""

    stored: Stored
    scratch: Path

    def run(self, *argv: str, user: str = "user:user", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as the box would: the manifest's environment, nothing of ours, no network."""
        home = "/root" if user.startswith("root") else "/home/user"
        env = {**self.stored.manifest.env, "HOME": home, "USER": user.partition(":")[0]}
        return subprocess.run(
            [
                *NAMESPACES,
                "sh",
                "-c",
                ENTER,
                "sh",
                str(self.scratch),
                ":".join(str(layer.path) for layer in reversed(self.stored.layers)),
                user,
                *argv,
            ],
            env=env,
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )

    def shell(self, script: str, user: str = "user:user") -> str:
        """What a login shell prints for this script, which must succeed."""
        done = self.run("bash", "-l", "-e", "-c", f"cd\n{script}", user=user, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


NAMESPACES: Sequence[str] = ("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child")


@pytest.fixture(scope="session")
def default_image() -> Stored:
    """The default image of this host; `make setup` builds it."""
    stored = ImageStore(IMAGES).current(stock.DEFAULT)
    assert stored, f"no image {stock.DEFAULT} in {IMAGES}: run make setup"
    return stored


@pytest.fixture
def tree(default_image: Stored, tmp_path: Path) -> Tree:
    """The default image, to run commands in."""
    return Tree(default_image, tmp_path)
