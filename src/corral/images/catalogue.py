"""What a name stands for, and that whatever was answered stays on this host until nobody needs it.

Owns the meaning of names, what is remembered of them, and the hold of the server that asks. Must not change what a
name means, nor take a layer away.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from corral.core import errors
from corral.core.clock import Clock
from corral.images import names, stock
from corral.images.holds import Hold
from corral.images.store import MOST_ALIASES, ImageStore
from corral.runtime.contract import Layer, User

#: Seconds for which a layer that somebody asked for is held, though nothing is known to be on it yet.
_LATELY_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image as a box needs it, and what its configuration says. `layers` from the lowest to the highest.

    `digest` is that of the configuration. `user` is who commands run as, `workdir` where, "" when it does not say.
    """

    name: str
    digest: str
    layers: tuple[Layer, ...]
    env: Mapping[str, str]
    user: User
    workdir: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()


class Catalogue:
    """The images and layers of a store by what they are asked for; without a `data` folder nothing is held."""

    def __init__(self, store: ImageStore, data: Path | None, clock: Clock) -> None:
        self._store = store
        self._hold = Hold(store, data) if data is not None else None
        self._clock = clock
        # `resolve` is asked from the threads of the database too: what it answers is held before it answers.
        self._guard = threading.Lock()
        self._known: dict[str, tuple[tuple[int, int], ImageInfo | str | None]] = {}
        self._asked: dict[str, tuple[float, tuple[Layer, ...]]] = {}

    # -- what is there

    def resolve(self, name: str | None) -> ImageInfo:
        """The current image of this name, the default one for None. Raises NotFound with the names that exist.

        Costs one stat once the image was seen, and one more for each alias: it is asked for every box.
        """
        wanted = name or stock.DEFAULT
        with self._guard:
            try:
                info = self._find(wanted)
            except errors.Invalid:
                info = None
            if info is None:
                raise self.missing(wanted)
            self._asked[info.digest] = (self._clock.monotonic(), info.layers)
        return info

    def layer(self, digest: str) -> Layer | None:
        """The layer with this digest, whatever image it is of; None when it is not on this host.

        It is held for an hour, as what is in use is held longer. Blocks.
        """
        with self._store.sharing():
            if self._store.facts(digest) is None:
                return None
            layer = self._store.layer(digest)
            with self._guard:
                self._asked[digest] = (self._clock.monotonic(), (layer,))
                if self._hold is not None:
                    self._hold.add([layer.path])
        return layer

    def missing(self, name: str, verb: str = "use") -> errors.NotFound:
        """The error for an image that is not there: it says which are, or which command makes this one."""
        there = ", ".join(self._store.names()) or "none"
        flavour = stock.flavour_of(name) or name
        hint = f"; build it with: corral image build {flavour}" if flavour in stock.FLAVOURS else ""
        return errors.NotFound(f"cannot {verb} image {name!r}: it is not on this host (there: {there}){hint}")

    # -- what is held

    def own(self, name: str) -> None:
        """Have this name, in normal form, go with the server. The caller shares the store's lock."""
        if self._hold is not None:
            with self._guard:
                self._hold.own(name)

    def disown(self, name: str) -> None:
        """Have this name, which means nothing any more, not be the server's. Idempotent."""
        if self._hold is not None:
            with self._guard:
                self._hold.disown(name)

    def keep(self, used: Iterable[Layer]) -> None:
        """Hold no more than `used` and what was asked for lately."""
        if self._hold is not None:
            lately = self._clock.monotonic() - _LATELY_S
            with self._guard:
                self._asked = {key: asked for key, asked in self._asked.items() if asked[0] > lately}
                recent = [layer for _, layers in self._asked.values() for layer in layers]
                # What is held no more must be read, and with that held, again before it is used again.
                self._known.clear()
                self._hold.replace({layer.path for layer in (*used, *recent)})

    def leave(self, used: Iterable[Layer]) -> None:
        """Hold no more than `used`, for a server that ends."""
        if self._hold is not None:
            with self._guard:
                self._known.clear()
                self._hold.replace({layer.path for layer in used})

    # -- inside: all of it under the guard

    def _find(self, wanted: str, depth: int = 0) -> ImageInfo | None:
        meant = names.candidates(wanted)
        other_words = [flavour for name in meant if (flavour := stock.flavour_of(name)) is not None]
        for candidate in (*meant, *other_words):
            found = self._look(candidate)
            if isinstance(found, str):
                target = self._find(found, depth + 1) if depth < MOST_ALIASES else None
                found = None if target is None else replace(target, name=candidate)
            if found is not None:
                return found
        return None

    def _look(self, name: str) -> ImageInfo | str | None:
        """The image of exactly this name, or what the alias of this name stands for."""
        try:
            # A name's text is written once, to a new file: its identity tells whether this is the one that was read.
            # Its time also changes when a build asks for what was pulled: then it is read once more.
            facts = self._store.name_file(name).stat()
        except OSError:
            return None
        version = (facts.st_ino, facts.st_mtime_ns)
        known = self._known.get(name)
        if known is None or known[0] != version:
            known = (version, self._read(name))
            self._known[name] = known
        return known[1]

    def _read(self, name: str) -> ImageInfo | str | None:
        with self._store.sharing():
            if (target := self._store.target(name)) is not None:
                return target
            stored = self._store.current(name)
            if stored is None:
                return None
            if lost := [layer.digest for layer in stored.layers if not layer.path.is_dir()]:
                message = f"cannot use image {name}: its layer {lost[0]} is not on this host"
                raise errors.Unavailable(message, remedy="see: corral image fsck")
            if self._hold is not None:
                self._hold.add(layer.path for layer in stored.layers)
        manifest = stored.manifest
        return ImageInfo(
            name,
            manifest.digest,
            stored.layers,
            manifest.env,
            manifest.user,
            workdir=manifest.workdir,
            entrypoint=manifest.entrypoint,
            cmd=manifest.cmd,
            labels=manifest.labels,
            exposed_ports=manifest.exposed_ports,
        )
