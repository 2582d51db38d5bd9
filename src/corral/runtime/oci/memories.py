"""What is kept of boxes' memories on disk: one folder each, whole or not there, under the name of the disk's snapshot.

Owns `<data>/memory`. Must not dump or restore. Calls block for some file system calls.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from corral.core import wholefile
from corral.runtime.linux import mounts
from corral.runtime.oci import config

NAME: Final = "corral.json"
#: Keys of a box's mounts: of the guest's program, and of its control groups where it has them.
GUEST: Final = "guest"
GROUPS: Final = "groups"
PARTIAL: Final = ".new-"
LINKED: Final = ".for-"
#: Descriptors of the restoring process that become those of the box.
FIRST_FD: Final = 200
#: What a box has mounts of, from its bundle. Others are its own, which CRIU could not make again.
_EXPECTED: Final = re.compile(r"/|/run/corral/guest|/(proc|dev|sys)(/.*)?")
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


class Undumpable(Exception):
    """The box has something that a dump cannot hold. The text says what, to follow `because`."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What a restore has to know beside the images.

    `externals` are paths of the host by the keys that the images have for mounts; `files` are the spool's files of
    the box's executions, with their sizes, by the names that the images have for them. `guest` is the name of the
    guest's program. `shared` ones are for boxes of other ids, any number of them.
    """

    box: str
    guest: str
    externals: Mapping[str, str]
    files: Mapping[str, tuple[str, int]]
    shared: bool = False

    @property
    def executions(self) -> tuple[str, ...]:
        """Ids of the executions that ran."""
        return tuple(sorted({file.rpartition(".")[0] for file, _ in self.files.values()}))


@dataclass(frozen=True, slots=True)
class Mounted:
    """Mounts of a box that a dump names and does not hold: targets in the box, and what of the host is there.

    `guest` is the name of the guest's program. `groups` is where control groups of version 2 are, "" where they are
    not: CRIU would mount them in the box's user namespace, which the namespace of its groups does not belong to.
    """

    guest: str
    groups: str
    devices: Mapping[str, str]

    @classmethod
    def of(cls, found: Iterable[mounts.Mount]) -> Mounted:
        """Of all mounts of a box. Raises Undumpable."""
        guest, groups, devices = "", "", {}
        for mount in found:
            if not _EXPECTED.fullmatch(mount.target):
                message = f"it has mounts of its own ({mount.target[:100]})"
                raise Undumpable(message)
            if mount.target == config.GUEST_TARGET:
                guest = Path(mount.root).name
            elif mount.fstype == "cgroup2":
                groups = mount.target
            elif mount.fstype == "devtmpfs":
                devices[mount.target] = f"/dev{mount.root}"
        return cls(guest, groups, devices)

    def externals(self) -> list[str]:
        """As CRIU is told of them."""
        named = {config.GUEST_TARGET: GUEST, **{target: key_of(path) for target, path in self.devices.items()}}
        if self.groups:
            named[self.groups] = GROUPS
        return [f"mnt[{target}]:{key}" for target, key in named.items()]


def key_of(path: str) -> str:
    """The key of a mount of this device."""
    return path.replace("/", "-")


@dataclass(frozen=True, slots=True)
class Ties:
    """How a box hangs together with the host, as seen at process 1. `files` are spool files by CRIU's keys."""

    socket: int
    mounted: Mounted
    files: Mapping[str, tuple[str, int]]

    def externals(self) -> list[str]:
        """As CRIU is told of them."""
        return [*self.mounted.externals(), *self.files]


def ties(pid: int, spool: Path) -> Ties:
    """Look at process 1, which stands still. `spool` is the folder of the box's executions. Raises Undumpable."""
    mounted = Mounted.of(mounts.parse(Path(f"/proc/{pid}/mountinfo").read_text()))
    sockets, files = set(), {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        link = os.readlink(path)
        if match := _SOCKET.fullmatch(link):
            sockets.add(int(match[1]))
        elif (size := _size_in(spool, path, link)) is not None:
            files[_key(pid, fd)] = (Path(link).name, size)
    if len(sockets) != 1:
        message = f"its guest holds {len(sockets)} sockets, not one"
        raise Undumpable(message)
    return Ties(sockets.pop(), mounted, files)


def _size_in(folder: Path, opened: str, link: str) -> int | None:
    """The size of an open file that is in `folder`, in bytes; None for any other.

    Its path does not tell: a process that was restored has it by a mount that is nowhere any more, and then the path
    begins where the file system does.
    """
    try:
        found, known = os.stat(opened), os.lstat(folder / Path(link).name)
    except OSError:
        return None
    return found.st_size if os.path.samestat(found, known) else None


def _key(pid: int, fd: str) -> str:
    """CRIU's name of an open file: of its mount and inode."""
    info = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
    match = re.search(r"^mnt_id:\s*(\d+)$", info, re.MULTILINE)
    inode = os.stat(f"/proc/{pid}/fd/{fd}").st_ino
    return f"file[{int(match[1]) if match else 0:x}:{inode:x}]"


class Memories:
    """Of one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Names by the boxes that they are of, but for shared ones.
        self._of: dict[str, str] = {}

    def open(self) -> None:
        """Look at what is there, and remove what a killed server left half-made."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for path in self.folder.iterdir():
            meta = self.read(path.name)
            if meta is None:
                shutil.rmtree(path)
            elif not meta.shared:
                self._of[meta.box] = path.name

    def of(self, box_id: str) -> str | None:
        """The name under which the box's memory is kept."""
        return self._of.get(box_id)

    def path(self, name: str) -> Path:
        """The folder of its images."""
        return self.folder / name

    def partial(self, name: str) -> Path:
        """The folder of images that are not whole yet."""
        return self.folder / f"{PARTIAL}{name}"

    def begin(self, name: str) -> Path:
        """An empty folder for images. What is not committed goes at the next `begin` or start."""
        partial = self.partial(name)
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(mode=0o700)
        return partial

    def commit(self, partial: Path, name: str, meta: Meta) -> int:
        """Make the images in `partial` those of `name`, in one step that lasts. Returns their size in bytes.

        Shared ones need not outlast the host: what they are of is not there after it.
        """
        (partial / NAME).write_text(json.dumps(asdict(meta)))
        size = 0
        for path in partial.iterdir():
            size += path.stat().st_blocks * 512
        if not meta.shared:
            for path in (*filter(Path.is_file, partial.iterdir()), partial):
                wholefile.sync(path)
        partial.rename(self.path(name))
        if not meta.shared:
            wholefile.sync(self.folder)
            self._of[meta.box] = name
        return size

    def share(self, source: str, name: str) -> tuple[int, tuple[str, ...]]:
        """The images of `source` under another name too, for boxes of other ids; they take no room, as of `link`.

        Returns their size in bytes, and the executions that ran. Raises FileNotFoundError when there are none.
        """
        meta = self.read(source)
        if meta is None:
            raise FileNotFoundError(source)
        partial = self.begin(name)
        for path in self.path(source).iterdir():
            if path.name != NAME:
                os.link(path, partial / path.name)
        meta = replace(meta, shared=True)
        return self.commit(partial, name, meta), meta.executions

    def link(self, name: str, box_id: str) -> Path:
        """The images once more, for one box to be made of: files may be replaced there. Goes with the next start.

        It takes no room. The files are the same ones, so whoever changes one puts another in its place.
        """
        linked = self.folder / f"{LINKED}{box_id}"
        if linked.exists():
            shutil.rmtree(linked)
        linked.mkdir(mode=0o755)
        for path in self.path(name).iterdir():
            os.link(path, linked / path.name)
        return linked

    def drop(self, partial: Path) -> None:
        """Remove what was begun."""
        shutil.rmtree(partial, ignore_errors=True)

    def read(self, name: str) -> Meta | None:
        """What is known of a kept memory; None when there is none."""
        try:
            return Meta(**json.loads((self.path(name) / NAME).read_text())) if not name.startswith(".") else None
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def forget(self, name: str) -> str | None:
        """Remove one; returns the box that goes on as it no more. One that is not there is fine."""
        meta = self.read(name)
        path = self.path(name)
        if meta is None:
            return None
        gone = self.folder / f"{PARTIAL}{name}"
        if gone.exists():
            shutil.rmtree(gone)
        path.rename(gone)
        if not meta.shared:
            self._of.pop(meta.box, None)
        shutil.rmtree(gone)
        return None if meta.shared else meta.box
