"""Images on disk: `<root>/<name>/<digest>/{rootfs,manifest.json}` and the link `current` to the one in use.

Owns layout, atomic publication and the lock against concurrent builds. Must not know how an image is made.
An image directory is complete from the moment that it has its name: builds happen under names that begin with `.`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from corral.core import errors
from corral.runtime.contract import User

MANIFEST: Final = "manifest.json"
ROOTFS: Final = "rootfs"
CURRENT: Final = "current"
_BUILD_PREFIX: Final = ".build-"

#: Characters of the digest that name the directory: 64 bits, among the few images of one host.
_SHORT: Final = 16


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of an image. `size` in bytes; `created_ms` in Unix milliseconds; `packages` name -> version.

    `digest` covers names, kinds, modes, owners and contents of all files, not their times. `layers` are directories
    relative to the manifest, from the lowest to the highest.
    """

    name: str
    digest: str
    recipe: str
    created_ms: int
    size: int
    files: int
    packages: Mapping[str, str]
    env: Mapping[str, str]
    user: User
    layers: tuple[str, ...] = (ROOTFS,)

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote."""
        facts: dict[str, Any] = json.loads(text)
        return cls(**facts | {"user": User(**facts["user"]), "layers": tuple(facts["layers"])})


@dataclass(frozen=True, slots=True)
class Stored:
    """An image on this host and its directory."""

    manifest: Manifest
    path: Path

    @property
    def rootfs(self) -> Path:
        """The lowest layer."""
        return self.path / self.manifest.layers[0]


class ImageStore:
    """The images under one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Names that have a current image."""
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if (entry / CURRENT / MANIFEST).is_file())

    def current(self, name: str) -> Stored | None:
        """The image that new boxes of this name get; None when there is none."""
        try:
            path = (self.root / name / CURRENT).resolve(strict=True)
            return Stored(Manifest.from_json((path / MANIFEST).read_text()), path)
        except FileNotFoundError:
            return None

    @contextmanager
    def building(self, name: str, waiting: Callable[[], None]) -> Iterator[Path]:
        """An empty directory to build `name` in, held by this process alone and removed at the end.

        Calls `waiting` once when another process builds the same name. What a killed build left is removed first.
        """
        home = self.root / name
        home.mkdir(parents=True, exist_ok=True)
        # Trees hold setuid programs, as old as the image: the host's users must not reach them.
        home.chmod(0o700)
        with (home / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            for stale in home.glob(f"{_BUILD_PREFIX}*"):
                remove_tree(stale)
            folder = home / f"{_BUILD_PREFIX}{os.getpid()}"
            folder.mkdir(mode=0o755)
            try:
                yield folder
            finally:
                if folder.exists():
                    remove_tree(folder)

    def publish(self, folder: Path, manifest: Manifest) -> Stored:
        """Make the finished directory the current image of its name. A crash leaves the old one or the new one."""
        home = self.root / manifest.name
        (folder / MANIFEST).write_text(manifest.to_json())
        path = home / manifest.digest.removeprefix("sha256:")[:_SHORT]
        _sync(folder)
        if path.exists():  # the same content was built before: keep the tree that boxes may be using
            (folder / MANIFEST).replace(path / MANIFEST)
        else:
            folder.rename(path)
        link = home / f"{_BUILD_PREFIX}{CURRENT}"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        link.replace(home / CURRENT)
        _sync(home)
        return Stored(manifest, path)


def digest_tree(root: Path) -> tuple[str, int, int]:
    """Digest (`sha256:…`), size in bytes and number of files of a tree; times are left out."""
    total, count, digest = 0, 0, hashlib.sha256()
    for path in _walk(root):
        facts = path.lstat()
        head = f"{path.relative_to(root)}\0{facts.st_mode:o}\0{facts.st_uid}\0{facts.st_gid}\0"
        digest.update(head.encode(errors="surrogateescape"))
        if stat.S_ISLNK(facts.st_mode):
            digest.update(os.fsencode(path.readlink()))
        elif stat.S_ISREG(facts.st_mode):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            total += facts.st_size
        count += 1
    return f"sha256:{digest.hexdigest()}", total, count


def remove_tree(path: Path) -> None:
    """Remove a tree, never crossing into another filesystem: a mount that was left in it must not be emptied."""
    if path.is_symlink():
        path.unlink()
        return
    done = subprocess.run(
        ("rm", "-rf", "--one-file-system", "--", str(path)), capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        message = f"cannot remove {path}: {done.stderr.strip()}"
        raise errors.Unavailable(message, remedy="unmount what is mounted below it")


def free_space(root: Path) -> int:
    """Free bytes on the filesystem that holds, or will hold, `root`."""
    there = root
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def _walk(root: Path) -> Iterator[Path]:
    for entry in sorted(os.scandir(root), key=lambda entry: os.fsencode(entry.name)):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))


def _sync(path: Path) -> None:
    """Bring a tree to the disk: after a power cut a name must not stand for an empty file."""
    subprocess.run(("sync", "--file-system", str(path)), check=True, timeout=300)
