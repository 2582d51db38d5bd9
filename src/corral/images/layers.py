"""Layers of images in the object store, so that a snapshot is of use on a node that has not its image.

Owns the keys under which they are kept: a layer is stored once, under its digest, as the compressed archive that this
is the digest of. On this host layers are the image store's: what is fetched becomes one like any other there.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Protocol

from corral.core import errors
from corral.images.remote_store import Manifest, RemoteStore
from corral.runtime.contract import Layer, SnapshotForm

#: The account that layers are stored under: they are nobody's.
NOBODY: Final = "layers"

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_PIECE: Final = 1 << 20


class Layers(Protocol):
    """The layers of this host."""

    def layer(self, digest: str) -> Layer | None:
        """The one with this digest, which stays for an hour at least; None when there is none."""

    def pack_layer(self, digest: str) -> AbstractAsyncContextManager[Path]:
        """A file with its archive, compressed, while the context lasts. Raises errors.Unavailable."""

    async def take_layer(self, digest: str, pieces: AsyncIterator[bytes]) -> Layer:
        """Make it of its archive, compressed or not; it stays for an hour at least.

        Raises errors.Invalid, errors.TooLarge.
        """


class LayerShelf:
    """One for each server."""

    def __init__(self, remote: RemoteStore, layers: Layers) -> None:
        self._remote = remote
        self._layers = layers
        self._kept: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    async def keep(self, layer: Layer) -> None:
        """See to it that the layer is in the object store. Raises errors.Unavailable when it is not on this host."""
        name = _name(layer.digest)
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name in self._kept:
                return
            if await self._remote.read(NOBODY, name) is None:
                async with self._layers.pack_layer(layer.digest) as path:
                    await self._remote.write(_manifest(name), _pieces(path))
            self._kept.add(name)

    async def fetch(self, digest: str) -> Layer:
        """The layer, from the object store if this host has it not. It stays for an hour, or as long as it is used.

        Raises errors.NotFound, and errors.WrongState, errors.Invalid when it is not what it should be.
        """
        name = _name(digest)
        async with self._locks.setdefault(name, asyncio.Lock()):
            if (layer := await asyncio.to_thread(self._layers.layer, digest)) is not None:
                return layer
            manifest = await self._remote.read(NOBODY, name)
            if manifest is None:
                raise errors.NotFound(f"cannot use layer {digest}: it is neither on this host nor in the object store")
            return await self._layers.take_layer(digest, self._remote.stream(manifest))


def _name(digest: str) -> str:
    """One word for a layer."""
    if not _DIGEST.fullmatch(digest):
        raise errors.Invalid(f"cannot use layer {digest[:80]!r}: that is no digest")
    return digest.replace(":", "-")


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


def _manifest(name: str) -> Manifest:
    return Manifest(
        id=name,
        account_id=NOBODY,
        devbox_id="",
        snapshot_id="",
        name=None,
        form=SnapshotForm.TREE,
        parent_id=None,
        level=0,
        layers=(),
        env={},
        request={},
        size=0,
        created_at_ms=0,
    )
