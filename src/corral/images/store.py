"""Images on disk: layers by what is in them, names that stand for lists of layers, and who else needs which layer.

`layers/<short>/{tree,layer.json,tar-split.gz}` is a layer, `names/<name>` an image or an alias, `holds/<id>` what a
server needs, `scratch/<id>/` is being made; `lock` is shared by all who add, and had alone by who takes away.
Owns this layout and the order of writes: each becomes visible by one rename, and what the killed leave is in scratch.
Must not know how an image is made, or what a server is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from corral.core import errors, wholefile
from corral.images import names
from corral.images.archives.model import LayerFacts
from corral.images.archives.unpack import TREE
from corral.images.record import Manifest
from corral.runtime.contract import Layer

LAYERS: Final = "layers"
NAMES: Final = "names"
HOLDS: Final = "holds"
SCRATCH: Final = "scratch"
LOCK: Final = "lock"
FACTS: Final = "layer.json"
ROOTFS: Final = TREE
FOLDERS: Final = (LAYERS, NAMES, HOLDS, SCRATCH)
_BUILD_LOCK: Final = ".lock"
_MAKING: Final = "making-"
_GONE: Final = "gone-"

#: Characters of the digest that name a layer's folder, so that the names of a hundred fit into mount(2)'s one page;
#: the whole digest is in layer.json, and another layer of the same short name is refused.
SHORT: Final = 16
#: Aliases of aliases that are followed.
MOST_ALIASES: Final = 8


@dataclass(frozen=True, slots=True)
class Stored:
    """An image on this host: its name, what is known of it, and the trees of its layers, the lowest first.

    `asked_ms`, in Unix milliseconds, is when a build last asked for what was pulled for one; None of all others.
    """

    name: str
    manifest: Manifest
    layers: tuple[Layer, ...]
    asked_ms: int | None = None

    @property
    def rootfs(self) -> Path:
        """The tree of the lowest layer."""
        return self.layers[0].path


class ImageStore:
    """The images under one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # -- names

    def names(self) -> list[str]:
        """All names, aliases too."""
        return sorted(names.of_file(file) for file in _listed(self.root / NAMES))

    def current(self, name: str) -> Stored | None:
        """The image that new boxes of this name get, aliases followed; None when there is none."""
        for _ in range(MOST_ALIASES):
            try:
                with self.name_file(name).open() as file:
                    text, written_ms = file.read(), os.fstat(file.fileno()).st_mtime_ns // 1_000_000
            except OSError as problem:
                if problem.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
                    return None
                raise
            target = alias_in(text)
            if target is None:
                manifest = Manifest.from_json(text)
                asked_ms = written_ms if manifest.pulled else None
                return Stored(name, manifest, tuple(map(self.layer, manifest.distinct)), asked_ms)
            name = target
        return None

    def target(self, name: str) -> str | None:
        """What the alias of this name stands for; None when it is no alias, or not there."""
        try:
            return alias_in(self.name_file(name).read_text())
        except FileNotFoundError:
            return None

    def name_file(self, name: str) -> Path:
        """The file of a name in normal form."""
        return self.root / NAMES / names.file_name(name)

    def put(self, name: str, manifest: Manifest) -> Stored:
        """Have the name mean this image from now on. Its layers must be there, under a lock since before they were."""
        self._write(self.name_file(name), manifest.to_json())
        return Stored(name, manifest, tuple(map(self.layer, manifest.distinct)))

    def put_pulled(self, name: str, manifest: Manifest) -> None:
        """As `put` of what a build asked for, unless the name has come to mean something since: that is right then."""
        made_ns = manifest.created_ms * 1_000_000

        def publish(made: Path, path: Path) -> None:
            os.utime(made, ns=(made_ns, made_ns))
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(made)
            made.unlink()

        self._write(self.name_file(name), replace(manifest, pulled=True).to_json(), publish)

    def renew(self, name: str, at_ms: int) -> None:
        """Note that somebody asks for what the name means, if that was pulled for a build."""
        # In the file's time and not in its text: to write that anew could undo what an operator gives the name.
        with self.sharing():
            stored = self.current(name)
            if stored is not None and stored.asked_ms is not None:
                with contextlib.suppress(FileNotFoundError):  # an operator has just removed it
                    os.utime(self.name_file(stored.name), ns=(at_ms * 1_000_000, at_ms * 1_000_000))

    def put_alias(self, name: str, target: str) -> None:
        """Have the name mean whatever `target` means at the time. Raises errors.Conflict for a circle."""
        with self.sharing():
            row: list[str] = [name]
            there: str | None = target
            while there is not None:
                if there in row:
                    raise errors.Conflict(f"cannot make alias {name}: {' -> '.join([*row, there])} is a circle")
                row.append(there)
                there = self.target(there)
            if len(row) > MOST_ALIASES:
                raise errors.Conflict(f"cannot make alias {name}: more than {MOST_ALIASES - 1} aliases in a row")
            self._write(self.name_file(name), json.dumps({"alias": target}) + "\n")

    def drop(self, name: str) -> bool:
        """Forget the name; its layers stay until they are collected. False when there was none."""
        try:
            self.name_file(name).unlink()
        except FileNotFoundError:
            return False
        wholefile.sync(self.root / NAMES)
        return True

    # -- layers

    def layer(self, diff_id: str) -> Layer:
        """The layer with this digest, which need not be there."""
        return Layer(diff_id, self.layer_folder(diff_id) / TREE)

    def layer_folder(self, diff_id: str) -> Path:
        """Where the layer is, if it is there."""
        return self.root / LAYERS / diff_id.removeprefix("sha256:")[:SHORT]

    def facts(self, diff_id: str) -> LayerFacts | None:
        """What is known of a layer; None when it is not there. Raises errors.Conflict for a namesake."""
        try:
            facts = LayerFacts.from_json((self.layer_folder(diff_id) / FACTS).read_text())
        except FileNotFoundError:
            return None
        if facts.diff_id != diff_id:
            raise errors.Conflict(f"cannot use layer {diff_id}: {facts.diff_id} has the same short name")
        return facts

    def archives(self) -> set[str]:
        """Digests of all archives whose layers are here: as they are, and as registries have them."""
        found: set[str] = set()
        for name in _listed(self.root / LAYERS):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # one that is broken, or goes
                facts = LayerFacts.from_json((self.root / LAYERS / name / FACTS).read_text())
                found |= {facts.diff_id, facts.blob} - {""}
        return found

    def add_layer(self, folder: Path, facts: LayerFacts) -> Layer:
        """Make a finished folder of `scratch` a layer; the one that is there stays, if it is."""
        (folder / FACTS).write_text(facts.to_json())
        _sync(folder)
        target = self.layer_folder(facts.diff_id)
        target.parent.mkdir(exist_ok=True)
        try:
            folder.rename(target)
        except OSError as problem:
            if problem.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            self.facts(facts.diff_id)
            remove_tree(folder)
        wholefile.sync(target.parent)
        return self.layer(facts.diff_id)

    # -- work and locks

    @contextmanager
    def working(self) -> Iterator[Path]:
        """An empty folder, removed at the end. Layers that are added meanwhile stay. Removes what the killed left."""
        self.sweep_work()
        with self.sharing():
            folder = Path(tempfile.mkdtemp(prefix=_MAKING, dir=self.root / SCRATCH))
            try:
                yield folder
            finally:
                remove_tree(folder)

    @contextmanager
    def building(self, name: str, waiting: Callable[[], None]) -> Iterator[Path]:
        """As `working`, for one process at a time for each name; calls `waiting` once when another one builds it."""
        home = self.home(name)
        self._make()
        home.mkdir(exist_ok=True)
        with (home / _BUILD_LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            with self.working() as folder:
                yield folder

    def home(self, name: str) -> Path:
        """Where builds of a name keep their log and their lock."""
        return self.root / SCRATCH / f"build-{names.file_name(name)}"

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Nothing is taken away meanwhile."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing is added meanwhile, or taken away by anybody else."""
        with self._locked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def alone_if_free(self) -> Iterator[bool]:
        """As `alone`, at once: yields False when somebody is adding."""
        self._make()
        with (self.root / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def sweep_work(self) -> list[Path]:
        """Remove what killed processes left, and return it; nothing while anybody works there."""
        with self.alone_if_free() as alone:
            found = self.work_folders() if alone else []
        for path in found:
            remove_tree(path)
        return found

    def work_folders(self) -> list[Path]:
        """Folders that somebody works in, or that nobody does any more: all of them are that to who is alone."""
        scratch = self.root / SCRATCH
        return [scratch / name for name in _listed(scratch) if name.startswith((_MAKING, _GONE))]

    def take_layer(self, folder: Path) -> Path:
        """Have a layer's folder be no layer any more, at once; it is left in `scratch`. For who is alone."""
        target = self.root / SCRATCH / f"{_GONE}{folder.name}-{os.getpid()}"
        folder.rename(target)
        wholefile.sync(folder.parent)
        return target

    def write(self, path: Path, text: str) -> None:
        """A small file, whole or not at all, on the disk when this returns."""
        self._write(path, text)

    # -- inside

    def _make(self) -> None:
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        # Trees hold setuid programs, as old as the image: the host's users must not reach them.
        for name in (LAYERS, SCRATCH):
            (self.root / name).chmod(0o700)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        self._make()
        with (self.root / LOCK).open("w") as lock:
            fcntl.flock(lock, how)
            yield

    def _write(self, path: Path, text: str, publish: Callable[[Path, Path], object] = Path.replace) -> None:
        self._make()
        wholefile.write(path, text.encode(), publish=publish)


def alias_in(text: str) -> str | None:
    """What a name's file says that it stands for; None when it is an image itself."""
    if len(text) > 1000:
        return None
    target: str | None = json.loads(text).get("alias")
    return target


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


def _listed(folder: Path) -> list[str]:
    """Names in a folder, but for those that are being written."""
    with contextlib.suppress(FileNotFoundError):
        return [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    return []


def _sync(path: Path) -> None:
    """Bring a tree to the disk: after a power cut a name must not stand for an empty file."""
    subprocess.run(("sync", "--file-system", str(path)), check=True, timeout=300)


def layers_of(manifests: Iterable[Manifest]) -> set[str]:
    """Digests of all layers of these images."""
    return {diff_id for manifest in manifests for diff_id in manifest.layers}
