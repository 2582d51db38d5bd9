"""What builds need of the images of this host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from corral.runtime.contract import Layer


class Image(Protocol):
    """An image; `digest` is that of its configuration."""

    @property
    def name(self) -> str:
        """As `export_layout` knows it."""

    @property
    def digest(self) -> str:
        """Its id: `sha256:…`."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """From the lowest to the highest."""

    @property
    def env(self) -> Mapping[str, str]:
        """Variables of every box of it."""


class Library(Protocol):
    """The images of this host."""

    def resolve(self, name: str | None = None) -> Image:
        """The image of this name. Raises errors.NotFound."""

    def renew(self, name: str) -> None:
        """Note that a build asks for what this name means: what was pulled for builds stays while some do."""

    async def obtain(self, name: str) -> Image:
        """As `renew` and `resolve`, but what is not here is asked of its registry first. Raises errors.CorralError."""

    def names(self) -> list[str]:
        """Names that `resolve` knows now."""

    async def export_layout(self, name: str, folder: Path) -> None:
        """Add it to an OCI layout, under this name, with layers that are not compressed."""

    async def import_layout(self, folder: Path, reference: str, *, owned: bool = False) -> Image:
        """Take the layout's only image under this name. Layers that are here already are not read.

        A name that is `owned` goes with this server.
        """

    async def plain(self, name: str) -> str | None:
        """Text of its configuration, when its trees are all there is to it; see `Images.plain`."""

    def forget(self, name: str) -> None:
        """Have the name mean nothing any more. Idempotent."""
