"""What has to be done to make a box's root filesystem, one step at a time, as data that can be sent and shown.

Runs in the launcher's child, inside the box's private mount namespace: nothing that a step mounts is seen elsewhere.
Standard library only. Must not decide anything: the plan is made by the server (`corral.runtime.rootfs.plan`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Protocol

from corral.runtime.linux import btrfs, loop, syscalls

#: A userns descriptor whose map is `<id base of the layer> <id base of the box> 65536`.
UsernsOf = Callable[[int], int]


class Step(Protocol):
    """One thing to do. `kind` names it on the wire."""

    kind: ClassVar[str]

    def describe(self) -> str:
        """The step as one line, close to the shell command that would do the same."""

    def execute(self, userns_of: UsernsOf) -> None:
        """Do it. Raises OSError."""


@dataclass(frozen=True, slots=True)
class MakeSubvolume:
    """A btrfs subvolume with a limit in bytes: the box's disk, empty or a copy of the subvolume `origin`.

    `together` has what bounds all disks of the pool bound it too.
    """

    kind: ClassVar[str] = "subvolume"
    folder: str
    name: str
    limit: int
    origin: str | None = None
    together: bool = False

    def describe(self) -> str:
        """As shell."""
        path = shlex.quote(f"{self.folder}/{self.name}")
        made = "create" if self.origin is None else f"snapshot {shlex.quote(self.origin)}"
        return f"btrfs subvolume {made} {path} && btrfs qgroup limit {self.limit} {path}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Make it, then bound it."""
        parent = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._make(parent)
            made = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
        finally:
            os.close(parent)
        try:
            btrfs.limit_subvolume(made, self.limit)
            if self.together:
                btrfs.join_all(made)
        finally:
            os.close(made)

    def _make(self, parent: int) -> None:
        if self.origin is None:
            btrfs.create_subvolume(parent, self.name)
            return
        origin = os.open(self.origin, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            btrfs.snapshot_subvolume(parent, self.name, origin, read_only=False)
        finally:
            os.close(origin)


@dataclass(frozen=True, slots=True)
class MountImage:
    """A file with a filesystem of its own, mounted over a loop device: the box's disk where there is no btrfs."""

    kind: ClassVar[str] = "image"
    image: str
    target: str
    fstype: str

    def describe(self) -> str:
        """As shell."""
        return f"mount -t {self.fstype} -o loop,noatime,nodev {shlex.quote(self.image)} {shlex.quote(self.target)}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Attach and mount; the device goes away with the mount."""
        backing = os.open(self.image, os.O_RDWR | os.O_CLOEXEC)
        try:
            path, device = loop.attach(backing)
        finally:
            os.close(backing)
        try:
            flags = syscalls.MS_NOATIME | syscalls.MS_NODEV
            syscalls.mount(path, self.target, self.fstype, flags, "discard")
        finally:
            os.close(device)


@dataclass(frozen=True, slots=True)
class MakeUpper:
    """The writable directories of the overlay on a disk, with a few first files in the upper one.

    `files` maps a path below the root to its content; parents are made 0755. All of it is root's, as all of a box's
    disk is owned by the ids that the box has inside: the mount of the disk shifts them.
    """

    kind: ClassVar[str] = "upper"
    upper: str
    work: str
    files: Mapping[str, str]

    def describe(self) -> str:
        """As shell, without the content of the files."""
        made = f"mkdir {shlex.quote(self.upper)} {shlex.quote(self.work)}"
        return f"{made} # with {', '.join(sorted(self.files))}" if self.files else made

    def execute(self, userns_of: UsernsOf) -> None:
        """Make them. The tree is not in any box yet, so its paths can be trusted."""
        os.mkdir(self.upper, 0o755)
        os.mkdir(self.work, 0o700)
        made = {""}
        for name, content in self.files.items():
            parts = name.split("/")[:-1]
            for depth in range(len(parts)):
                folder = "/".join(parts[: depth + 1])
                if folder not in made:
                    made.add(folder)
                    os.mkdir(f"{self.upper}/{folder}", 0o755)
            fd = os.open(f"{self.upper}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, content.encode())
            finally:
                os.close(fd)


@dataclass(frozen=True, slots=True)
class BindLayer:
    """A layer's directory, read-only, with its owners shifted into the box's id range."""

    kind: ClassVar[str] = "layer"
    source: str
    target: str
    id_base: int

    def describe(self) -> str:
        """As shell (util-linux 2.39 has the option)."""
        option = f"bind,ro,nodev,X-mount.idmap=b:{self.id_base}:BOX:65536"
        return f"mount -o {option} {shlex.quote(self.source)} {shlex.quote(self.target)}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Copy the mount, map it, attach it."""
        wanted = syscalls.MOUNT_ATTR_IDMAP | syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NODEV
        _attach(self.source, self.target, wanted, userns_of(self.id_base))


@dataclass(frozen=True, slots=True)
class RenewWork:
    """The overlay's own folder on a disk that was another box's. What that left in it forbids a second mount."""

    kind: ClassVar[str] = "work"
    work: str

    def describe(self) -> str:
        """As shell."""
        return f"rm -r {shlex.quote(self.work)} && mkdir {shlex.quote(self.work)}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Remove and make it. No box has ever seen what is below it."""
        shutil.rmtree(self.work)
        os.mkdir(self.work, 0o700)


@dataclass(frozen=True, slots=True)
class BindDisk:
    """The box's disk, with its owners shifted into the box's id range: on the disk itself they are the same in every
    box, so that a copy of it is the disk of another.
    """

    kind: ClassVar[str] = "disk"
    source: str
    target: str

    def describe(self) -> str:
        """As shell (util-linux 2.39 has the option)."""
        return f"mount -o bind,nodev,X-mount.idmap=b:0:BOX:65536 {shlex.quote(self.source)} {shlex.quote(self.target)}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Copy the mount, map it, attach it."""
        _attach(self.source, self.target, syscalls.MOUNT_ATTR_IDMAP | syscalls.MOUNT_ATTR_NODEV, userns_of(0))


@dataclass(frozen=True, slots=True)
class MountOverlay:
    """The box's root: `lowers` from the highest to the lowest, as names in `folder`, below a writable `upper`.

    `owner` is the host id of the box's root.
    """

    kind: ClassVar[str] = "overlay"
    target: str
    folder: str
    lowers: tuple[str, ...]
    upper: str
    work: str
    owner: int

    #: metacopy and redirect_dir leave marks in the upper directory that its next life as a layer could not be trusted
    #: with; index and xino are of use to NFS alone; volatile saves a sync of the disk at each unmount.
    OPTIONS: ClassVar[str] = "metacopy=off,redirect_dir=off,index=off,xino=off,volatile"

    def _data(self) -> str:
        return f"lowerdir={':'.join(self.lowers)},upperdir={self.upper},workdir={self.work},{self.OPTIONS}"

    def describe(self) -> str:
        """As shell."""
        mount = f"mount -t overlay -o nodev,{shlex.quote(self._data())} overlay {shlex.quote(self.target)}"
        return f"cd {shlex.quote(self.folder)} && {mount}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Mount it. Relative names, since mount(2) takes one page of options.

        The overlay works with the file-system ids of who mounts it, and those must be ids that the mount of the disk
        knows: the box's root. The host's root is none of them, and would get a read-only overlay.
        """
        os.chdir(self.folder)
        with syscalls.file_ids(self.owner):
            syscalls.mount("overlay", self.target, "overlay", syscalls.MS_NODEV, self._data())


@dataclass(frozen=True, slots=True)
class BindFile:
    """A file of the host, read-only, with the owner that it has on the host: nobody, as the box sees it."""

    kind: ClassVar[str] = "file"
    source: str
    target: str

    def describe(self) -> str:
        """As shell."""
        return f"mount -o bind,ro,nosuid,nodev {shlex.quote(self.source)} {shlex.quote(self.target)}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Copy the mount, attach it. The box cannot undo it: mounts from outside its user namespace are locked."""
        wanted = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        _attach(self.source, self.target, wanted)


@dataclass(frozen=True, slots=True)
class MakeStore:
    """A folder on a disk beside the upper one. Idempotent: on a used disk it is there, with what boxes put into it."""

    kind: ClassVar[str] = "store"
    folder: str

    def describe(self) -> str:
        """As shell."""
        return f"mkdir -p -m 711 {shlex.quote(self.folder)}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Make it. Boxes see what is in it, and can put nothing in its place."""
        os.makedirs(self.folder, 0o711, exist_ok=True)


@dataclass(frozen=True, slots=True)
class BindStore:
    """A folder of the box's disk, without the overlay, at `path` in the box. `owner` is the host id of its root.

    `source` is below the mount of BindDisk, which has shifted its owners already. The pool forbids programs and
    set-user-id on the host; in the box they are the box's own.
    """

    kind: ClassVar[str] = "bind-store"
    source: str
    root: str
    path: str
    owner: int

    def describe(self) -> str:
        """As shell."""
        return f"mount -o bind,suid,exec,nodev {shlex.quote(self.source)} {shlex.quote(self.root + self.path)}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Copy the mount, attach it where the path leads inside the box's tree."""
        suid_and_programs = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
        with _below(self.root, self.path, self.owner) as target:
            _attach(self.source, target, syscalls.MOUNT_ATTR_NODEV, cleared=suid_and_programs)


@dataclass(frozen=True, slots=True)
class LendLayer:
    """A layer's directory at `path` in the box, read-only, with its owners shifted into the box's id range.

    `owner` is the host id of the box's root. The box can neither undo it nor make it writable: mounts from outside its
    user namespace are locked.
    """

    kind: ClassVar[str] = "lend"
    source: str
    root: str
    path: str
    id_base: int
    owner: int

    def describe(self) -> str:
        """As shell (util-linux 2.39 has the option)."""
        option = f"bind,ro,nodev,X-mount.idmap=b:{self.id_base}:BOX:65536"
        return f"mount -o {option} {shlex.quote(self.source)} {shlex.quote(self.root + self.path)}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Copy the mount, map it, attach it where the path leads inside the box's tree."""
        wanted = syscalls.MOUNT_ATTR_IDMAP | syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NODEV
        with _below(self.root, self.path, self.owner) as target:
            _attach(self.source, target, wanted, userns_of(self.id_base))


@dataclass(frozen=True, slots=True)
class Cover:
    """An empty folder of memory over a folder of the host, for this box's start alone."""

    kind: ClassVar[str] = "cover"
    target: str

    def describe(self) -> str:
        """As shell."""
        return f"mount -t tmpfs -o size=64k tmpfs {shlex.quote(self.target)}"

    def execute(self, userns_of: UsernsOf) -> None:
        """Mount it; it goes away with the mount namespace."""
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("tmpfs", self.target, "tmpfs", flags, "size=64k,mode=755")


_KINDS: Final[Mapping[str, type[Any]]] = {
    step.kind: step
    for step in (
        MakeSubvolume,
        MountImage,
        MakeUpper,
        RenewWork,
        BindDisk,
        BindLayer,
        MountOverlay,
        BindFile,
        MakeStore,
        BindStore,
        LendLayer,
        Cover,
    )
}


@contextlib.contextmanager
def _below(tree: str, path: str, owner: int) -> Iterator[int]:
    """As `_folder_below`, of the box's tree at `tree`; what is made belongs to `owner`."""
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with syscalls.file_ids(owner):
            target = _folder_below(root, path)
    finally:
        os.close(root)
    try:
        yield target
    finally:
        os.close(target)


def _folder_below(root: int, path: str) -> int:
    """A descriptor of the folder `path` of a box's tree, made where it, or what a link to it names, is missing."""
    there = "/"
    for name in path.strip("/").split("/"):
        parent, there = there, f"{there.rstrip('/')}/{name}"
        try:
            os.close(syscalls.open_below(root, there, os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            above = syscalls.open_below(root, parent, os.O_PATH | os.O_DIRECTORY)
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=above)
                os.mkdir(name, 0o755, dir_fd=above)
            finally:
                os.close(above)
    return syscalls.open_below(root, there, os.O_PATH | os.O_DIRECTORY)


def _attach(source: str, target: str | int, attributes: int, userns: int = 0, cleared: int = 0) -> None:
    """A copy of the mount at `source`, with these attributes and without those cleared, at `target`."""
    tree = syscalls.open_tree(source, syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC)
    try:
        syscalls.mount_setattr(tree, attr_set=attributes, attr_clr=cleared, userns_fd=userns)
        syscalls.move_mount(tree, target)
    finally:
        os.close(tree)


def pack(step: Step) -> dict[str, Any]:
    """The step as JSON types."""
    return {"kind": step.kind, **asdict(step)}  # type: ignore[call-overload]


def unpack(fields: Mapping[str, Any]) -> Step:
    """The step that `pack` made these fields from. Raises KeyError, TypeError on others."""
    rest = {name: value for name, value in fields.items() if name != "kind"}
    step: Step = _KINDS[fields["kind"]](**rest)
    return step
