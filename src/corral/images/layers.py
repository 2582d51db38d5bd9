"""Layers of images in the object store, so that a snapshot is of use on a node that has not its image.

Owns the folder of layers that were fetched, and the keys of those that are kept. A layer is stored once, under its
digest, as a compressed tar archive whose own digest is signed.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from corral.core import errors
from corral.images.remote_store import Manifest, RemoteStore
from corral.runtime.contract import Layer, SnapshotForm
from corral.runtime.rootfs import transfer

_PARTIAL: Final = ".new-"

#: The account that layers are stored under: they are nobody's.
NOBODY: Final = "layers"


class LayerShelf:
    """`known` gives the layers of all images that this host has now."""

    def __init__(self, folder: Path, remote: RemoteStore, known: Callable[[], Iterable[Layer]]) -> None:
        self._folder = folder
        self._remote = remote
        self._known = known
        self._kept: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    async def keep(self, layer: Layer) -> None:
        """See to it that the layer is in the object store."""
        name = _name(layer.digest, layer.path.name)
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name in self._kept:
                return
            if await self._remote.read(NOBODY, name) is None:
                # Owners are those of the inside: `id_base` is what root is on this host.
                command = [
                    *("tar", "--create", "--format=posix", "--sparse", "--xattrs", "--xattrs-include=*"),
                    *("--numeric-owner", "--one-file-system", "--directory", str(layer.path), "."),
                ]
                await self._remote.write(_manifest(name, layer), transfer.compressed(command))
            self._kept.add(name)

    async def fetch(self, digest: str, folder: str) -> Layer:
        """The layer as this host has it: of an image, or fetched before, or fetched now. Raises errors.NotFound."""
        for layer in self._known():
            if (layer.digest, layer.path.name) == (digest, folder):
                return layer
        name = _name(digest, folder)
        place = self._folder / name
        async with self._locks.setdefault(name, asyncio.Lock()):
            manifest = await self._remote.read(NOBODY, name)
            if manifest is None:
                raise errors.NotFound(
                    f"cannot use layer {digest} {folder}: it is neither on this host nor in the object store"
                )
            if not await asyncio.to_thread(place.is_dir):
                await self._unpack(manifest, place)
            return Layer(digest, place / folder, int(manifest.request["id_base"]))

    def open(self) -> None:
        """Drop what an earlier server fetched by half."""
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        for partial in self._folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(partial)

    async def _unpack(self, manifest: Manifest, place: Path) -> None:
        partial = place.with_name(_PARTIAL + place.name)
        await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
        target = partial / manifest.snapshot_id
        await asyncio.to_thread(target.mkdir, 0o755, parents=True)
        command = [
            *("tar", "--extract", "--preserve-permissions", "--same-owner", "--numeric-owner"),
            *("--xattrs", "--xattrs-include=*", "--directory", str(target)),
        ]
        await transfer.expand(self._remote.stream(manifest), command)
        await asyncio.to_thread(partial.rename, place)


def _name(digest: str, folder: str) -> str:
    """One word for a layer; both parts are of an image's manifest, which has no other characters."""
    name = f"{digest}-{folder}".replace(":", "-")
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith("."):
        raise errors.Invalid(f"cannot use layer {digest[:80]} {folder[:80]}: its name is not one of ours")
    return name


def _manifest(name: str, layer: Layer) -> Manifest:
    return Manifest(
        id=name,
        account_id=NOBODY,
        devbox_id="",
        snapshot_id=layer.path.name,
        name=None,
        form=SnapshotForm.TREE,
        parent_id=None,
        level=0,
        layers=(),
        env={},
        request={"id_base": layer.id_base},
        size=0,
        created_at_ms=0,
    )
