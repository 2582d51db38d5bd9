"""What other parts may ask of images: what a name stands for, images taken in and given out.

Owns the order of steps in each, and which names are given and taken away. Must not build: a server that finds no image
says which command makes it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Final

from corral.core import errors
from corral.core.clock import Clock, SystemClock
from corral.images import intake, names, outlet, stock
from corral.images.archives import sandbox, transports, tree
from corral.images.archives.model import Limits, Task
from corral.images.archives.transports import Registries, Source
from corral.images.catalogue import Catalogue, ImageInfo
from corral.images.collect import Collected, collect
from corral.images.store import ImageStore, Stored
from corral.images.threads import threaded, working
from corral.runtime.contract import Layer

__all__ = ["Images", "Registries"]

#: Seconds for which a registry's refusal is believed.
_REFUSED_S: Final = 600.0


class Images:
    """The images of this host. `data` is the folder of the server that asks, so that what it uses stays."""

    def __init__(
        self,
        root: Path,
        data: Path | None = None,
        *,
        registries: Registries | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.store = ImageStore(root)
        self._registries = registries or Registries()
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._catalogue = Catalogue(self.store, data, self._clock)
        self._pulls: dict[str, asyncio.Lock] = {}
        self._refused: dict[str, tuple[float, str]] = {}
        self._hiding: dict[str, bool] = {}  #: by the digest of a layer, in which nothing changes

    # -- names

    def resolve(self, name: str | None = None) -> ImageInfo:
        """The current image of this name, the default one for None. Raises NotFound with the names that exist."""
        return self._catalogue.resolve(name)

    def names(self) -> list[str]:
        """Names that `resolve` knows now, but for other words for stock images."""
        return self.store.names()

    def alias(self, name: str, target: str) -> ImageInfo:
        """Have `name` mean whatever `target` means at the time. Raises errors.Conflict for a circle, or NotFound."""
        kept = names.normal(name)
        if self.store.name_file(kept).exists() and self.store.target(kept) is None:
            raise errors.Conflict(f"cannot make alias {kept}: it is an image; remove that first")
        self.renew(target)  # so that it does not go before it is stood for
        self.resolve(target)
        self.store.put_alias(kept, names.normal(target))
        return self.resolve(kept)

    def remove(self, name: str) -> None:
        """Forget a name; layers that nothing else needs go with the next `collect`. Raises NotFound, Conflict."""
        kept = next((each for each in names.candidates(name) if self.store.name_file(each).exists()), None)
        if kept is None:
            raise self._catalogue.missing(name, "remove")
        if followers := [alias for alias in self.store.names() if self.store.target(alias) == kept]:
            raise errors.Conflict(
                f"cannot remove image {kept}: {', '.join(followers)} stands for it; remove that first"
            )
        self.store.drop(kept)

    def forget(self, name: str) -> None:
        """Have the name mean nothing any more; what it was stays until it is collected. Idempotent."""
        known = names.normal(name)
        self.store.drop(known)
        self._catalogue.disown(known)

    # -- in and out

    async def import_layout(
        self, folder: Path, reference: str, *, origin: str | None = None, owned: bool = False
    ) -> ImageInfo:
        """Take the image `reference` of an OCI layout, or its only one, and have that name mean it.

        Layers that are on this host already are not read. The layout is hostile; no more is taken than the limits say.
        A name that is `owned` goes with the server that asks.
        Raises errors.Invalid, errors.TooLarge.
        """
        name = names.normal(reference)
        task = self._task(f"cannot import {name}")
        async with working(self.store, task) as work:
            if owned:
                self._catalogue.own(name)
            await threaded(
                task,
                lambda: intake.take_layout(
                    self.store, work, folder, reference, name, origin or str(folder), self._clock, task
                ),
            )
            return self.resolve(name)

    async def import_path(self, path: Path, reference: str) -> ImageInfo:
        """As `import_layout`, of whatever is at this path: a layout, an archive of one, of Docker, or a root's tar."""
        name = names.normal(reference)
        task = self._task(f"cannot import {path}")
        source = await threaded(task, lambda: transports.local(path, task))
        if source.kind is transports.Kind.LAYOUT:
            return await self.import_layout(path, name)
        if source.kind is not transports.Kind.TAR:
            return await self._take(source, name, task)
        async with working(self.store, task) as work:
            await threaded(task, lambda: intake.take_tar(self.store, work, path, name, self._clock, task))
            return self.resolve(name)

    async def pull(self, reference: str, name: str | None = None) -> ImageInfo:
        """Fetch an image from its registry and have the name, else its own, mean it. Raises errors.Unavailable."""
        return await self._pull(names.normal(name) if name else names.tagged(reference), reference)

    def renew(self, name: str) -> None:
        """Have what this name means, where it was pulled for a build, be asked for now. Does nothing for others."""
        with contextlib.suppress(errors.Invalid):
            for each in names.candidates(name):
                self.store.renew(each, self._clock.now_ms())

    async def obtain(self, name: str) -> ImageInfo:
        """The image of this name, from its registry when it is not on this host, or a stock one that is like it.

        What is fetched for it stays until it was not asked for, here or by `renew`, for as long as `collect` is told.
        A registry that had it not, or did not answer, is asked again after ten minutes. Raises errors.NotFound.
        """
        self.renew(name)
        meant = names.candidates(name)
        if any(self.store.name_file(each).exists() for each in meant) or meant[0] in stock.FLAVOURS:
            return self.resolve(name)
        async with self._pulls.setdefault(meant[-1], asyncio.Lock()):
            asked, cause = self._refused.get(meant[-1], (-_REFUSED_S, ""))
            if self._clock.monotonic() - asked >= _REFUSED_S:
                try:
                    return await self._pull(names.tagged(name), name, pulled=True)
                except errors.Unavailable as problem:
                    cause = problem.message
                    self._refused[meant[-1]] = (self._clock.monotonic(), cause)
        try:
            return self.resolve(name)
        except errors.NotFound as problem:
            raise errors.NotFound(f"{problem.message}; {cause}") from None

    async def export_layout(self, name: str, folder: Path) -> None:
        """Add the image to an OCI layout, under this name, with layers that are not compressed: their digests are the
        diff ids. Archives that are among its blobs already are not made again.
        """
        await self._give(name, folder, outlet.put_layout)

    async def export_archive(self, name: str, target: Path) -> None:
        """As `export_layout`, to a layout in a tar of its own."""
        await self._give(name, target, outlet.put_archive)

    async def plain(self, name: str) -> str | None:
        """Text of the image's configuration, if an overlay that is mounted in a user namespace can be made of its
        trees: None when one of them hides what is below it by a mark that only the host can read.

        Raises errors.NotFound.
        """
        info = self.resolve(name)
        with self.store.sharing():
            stored = self.store.current(info.name)
        if (
            stored is None
            or stored.manifest.digest != info.digest
            or len(stored.layers) != len(stored.manifest.layers)
        ):
            return None
        for layer in stored.layers[1:]:
            if layer.digest not in self._hiding:
                self._hiding[layer.digest] = await asyncio.to_thread(tree.hides, layer.path)
            if self._hiding[layer.digest]:
                return None
        return stored.manifest.config

    # -- layers alone

    def layer(self, digest: str) -> Layer | None:
        """The layer with this digest, whatever image it is of; None when it is not on this host.

        It is held for an hour, as what is in use is held longer. Blocks.
        """
        return self._catalogue.layer(digest)

    @contextlib.asynccontextmanager
    async def pack_layer(self, digest: str) -> AsyncIterator[Path]:
        """A file with the layer's archive, compressed, for as long as the context lasts. Raises errors.Unavailable."""
        task = self._task("cannot send a layer")
        async with working(self.store, task) as work:
            path = work / "archive"
            await threaded(task, lambda: outlet.pack_layer(self.store, digest, path, task))
            yield path

    async def take_layer(self, digest: str, pieces: AsyncIterator[bytes]) -> Layer:
        """Make a layer of its archive, compressed or not, as hostile as that of an image. It is held as by `layer`.

        Raises errors.Invalid, errors.TooLarge.
        """
        task = self._task("cannot receive a layer")
        async with working(self.store, task) as work:
            path = work / "archive"
            with path.open("xb") as file:
                size = 0
                async for piece in pieces:
                    size += len(piece)
                    if size > task.limits.size:
                        raise errors.TooLarge(f"{task.what}: its archive is over {task.limits.size} bytes")
                    await threaded(task, lambda piece=piece: file.write(piece))  # type: ignore[misc]
            await threaded(task, lambda: intake.take_layer(self.store, work, path, digest, task))
            found = await asyncio.to_thread(self.layer, digest)
        if found is None:
            raise errors.Internal(f"cannot receive layer {digest}: it went at once")
        return found

    # -- what is kept

    async def collect(self, used: Iterable[Layer] = (), *, keep_s: float | None = None) -> Collected | None:
        """Remove layers that no name and no server needs; None when somebody is adding some at the moment.

        `used` is all that this server's rows and boxes are on; what was asked for lately is held as well.
        Names that were pulled for builds go first, when none has asked for them for `keep_s` seconds, unless None.
        """
        self._catalogue.keep(used)
        return await asyncio.to_thread(collect, self.store, self._clock, keep_s)

    def leave(self, used: Iterable[Layer]) -> None:
        """Hold no more than `used`, for a server that ends."""
        self._catalogue.leave(used)

    # -- inside

    async def _pull(self, name: str, reference: str, *, pulled: bool = False) -> ImageInfo:
        full = reference if names.has_tag(reference) else f"{reference}:latest"
        source = transports.Source(transports.Kind.REGISTRY, full)
        return await self._take(source, name, self._task(f"cannot pull {name}"), pulled=pulled)

    async def _take(self, source: Source, name: str, task: Task, *, pulled: bool = False) -> ImageInfo:
        async with working(self.store, task) as work:
            folder = work / "layout"
            known = await asyncio.to_thread(self.store.archives)
            await transports.fetch(source, folder, self._registries, task, known)
            await threaded(
                task,
                lambda: intake.take_layout(
                    self.store,
                    work,
                    folder,
                    transports.NAME,
                    name,
                    source.shown,
                    self._clock,
                    task,
                    fetched=source.kind is transports.Kind.REGISTRY,
                    pulled=pulled,
                ),
            )
            return self.resolve(name)

    async def _give(self, name: str, target: Path, put: Callable[[ImageStore, Stored, Path, str, Task], None]) -> None:
        task = self._task(f"cannot export {name}")
        kept = self.resolve(name).name
        with self.store.sharing():
            stored = self.store.current(kept)
            if stored is None:
                raise self._catalogue.missing(name)
            await threaded(task, lambda: put(self.store, stored, target, kept, task))

    def _task(self, what: str) -> Task:
        sandbox.require_programs()
        return Task(what, self._limits, self._clock)
