"""What other parts may ask of images: the layers, environment and user that a name stands for.

Must not build: a server that finds no image says which command makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.core import errors
from corral.images import stock, store
from corral.runtime.contract import Layer, User


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image as a box needs it. `layers` from the lowest to the highest."""

    name: str
    digest: str
    layers: tuple[Layer, ...]
    env: Mapping[str, str]
    user: User


class Images:
    """The images of this host."""

    def __init__(self, root: Path) -> None:
        self._store = store.ImageStore(root)
        self._known: dict[str, tuple[tuple[int, int], ImageInfo]] = {}

    def resolve(self, name: str | None = None) -> ImageInfo:
        """The current image of this name, the default one for None. Raises NotFound with the names that exist.

        Costs one stat once the image was seen: it is asked for every box.
        """
        wanted = name or stock.DEFAULT
        if not _plain(wanted):
            raise self._missing(wanted)
        try:
            # A manifest is written once, to a new file: its identity tells whether this is the one that was read.
            facts = (self._store.root / wanted / store.CURRENT / store.MANIFEST).stat()
        except OSError:
            raise self._missing(wanted) from None
        version = (facts.st_ino, facts.st_mtime_ns)
        known = self._known.get(wanted)
        if known is None or known[0] != version:
            known = (version, self._read(wanted))
            self._known[wanted] = known
        return known[1]

    def names(self) -> list[str]:
        """Names that `resolve` knows now."""
        return self._store.names()

    def _read(self, name: str) -> ImageInfo:
        stored = self._store.current(name)
        if stored is None:
            raise self._missing(name)
        manifest = stored.manifest
        layers = tuple(Layer(digest=manifest.digest, path=stored.path / layer) for layer in manifest.layers)
        return ImageInfo(name, manifest.digest, layers, dict(manifest.env), manifest.user)

    def _missing(self, name: str) -> errors.NotFound:
        there = ", ".join(self.names()) or "none"
        hint = f"; build it with: corral image build {name}" if name in stock.FLAVOURS else ""
        return errors.NotFound(f"cannot use image {name!r}: it is not on this host (there: {there}){hint}")


def _plain(name: str) -> bool:
    """Whether the name can only stand for a directory directly in the store."""
    return name not in {"", ".", ".."} and not set(name) & {"/", "\0"} and not name.startswith(".")
