"""What the boxes of devboxes begin as: an image, or a snapshot and the image below it.

Must not make a box, or a snapshot.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Protocol

import sqlalchemy as sa

from corral.core import errors, log
from corral.core.store.store import Store
from corral.devboxes.model import Devbox, copy_of
from corral.images import snapshot_rows as rows
from corral.images.model import SnapshotStatus, Source
from corral.runtime.contract import Layer


class Image(Protocol):
    """What a box needs of an image."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """From the lowest to the highest."""

    @property
    def env(self) -> Mapping[str, str]:
        """Variables of every box of it."""


class Images(Protocol):
    """Where images come from."""

    def resolve(self, name: str | None = None) -> Image:
        """The image of this name, the default one for None. Raises errors.CorralError when there is none."""

    def names(self) -> list[str]:
        """Names that `resolve` knows now."""


class Sources:
    """What devboxes begin as: an image, or a snapshot and the image below it."""

    def __init__(self, store: Store, images: Images) -> None:
        self._store = store
        self._images = images

    async def find(self, devbox: Devbox) -> Source | None:
        """What a box of this devbox begins as; None while that is being copied.

        Raises errors.CorralError when it is not there, and will not be.
        """
        snapshot_id = devbox.request.snapshot_id
        lent = _lent(self._images, devbox)
        if devbox.kept is not None:
            env = await self._store.read(lambda connection: env_of(connection, self._images, devbox))
            return Source(devbox.kept.layers, env, copy_of(devbox.id), lent)
        if snapshot_id is None:
            image = self._images.resolve(devbox.request.image)
            return Source(image.layers, image.env, None, lent)
        snapshot = await self._store.read(lambda connection: rows.find(connection, snapshot_id))
        if snapshot is None or snapshot.status is SnapshotStatus.ERROR:
            why = f"it was not made: {snapshot.message}" if snapshot is not None else "there is none"
            raise errors.NotFound(f"cannot use snapshot {snapshot_id}: {why}")
        if snapshot.status is SnapshotStatus.IN_PROGRESS:
            return None
        return Source(snapshot.layers, snapshot.env, snapshot.id, lent, snapshot.memory)


def _lent(images: Images, devbox: Devbox) -> tuple[Layer, ...]:
    """Layers of the images that are lent to it, as far as these are on this host: it can do without."""
    found: dict[str, Layer] = {}
    for name in devbox.request.lent:
        with contextlib.suppress(errors.NotFound, errors.Unavailable):
            found |= {layer.digest: layer for layer in images.resolve(name).layers}
    return tuple(found.values())


def env_of(connection: sa.Connection, images: Images, devbox: Devbox) -> Mapping[str, str]:
    """Variables of the image that the devbox's layers are of, whether it began as a snapshot or not."""
    origin = devbox.request.snapshot_id
    snapshot = rows.find(connection, origin) if origin is not None else None
    if snapshot is not None:
        return snapshot.env
    try:
        return images.resolve(devbox.request.image).env
    except errors.NotFound:
        # The name was removed since: the disk, whose layers are there, is worth more than a few variables.
        log.get("images").warning("an image's variables are gone with its name", devbox=devbox.id)
        return {}
