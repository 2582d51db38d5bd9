"""Which layers a server needs, written where whoever removes layers can read it without that server's database.

Owns `<images>/holds/<id>`: the server's data folder, and the layers that anything of it may be on. A layer is written
here before it is used, and taken off after nothing uses it any more.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.core.clock import Clock
from corral.images.store import HOLDS, ImageStore

#: A hold whose data folder is not there counts for this long after its server last wrote it: its disk may come back.
_LOST_MS: Final = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Held:
    """What a hold says. `layers` are folders of trees. `written_ms` in Unix milliseconds."""

    path: Path
    data: Path
    layers: frozenset[Path]
    written_ms: int

    def lapsed(self, clock: Clock) -> bool:
        """Whether its server is gone for good."""
        return not self.data.exists() and clock.now_ms() - self.written_ms > _LOST_MS


class Hold:
    """The hold of one server, which alone writes it."""

    def __init__(self, store: ImageStore, data: Path) -> None:
        self._store = store
        self._data = data.absolute()
        self.path = store.root / HOLDS / hashlib.sha256(os.fsencode(self._data)).hexdigest()[:16]
        self._layers = read(self.path).layers if self.path.exists() else frozenset()

    def add(self, layers: Iterable[Path]) -> None:
        """Hold these too. On the disk when this returns. The caller shares the store's lock since it saw them."""
        if more := frozenset(layers) - self._layers:
            self._write(self._layers | more)

    def replace(self, layers: Iterable[Path]) -> None:
        """Hold these and no others."""
        with self._store.sharing():
            if layers := frozenset(layers):
                self._write(layers)
            else:
                self.path.unlink(missing_ok=True)
                self._layers = layers

    def _write(self, layers: frozenset[Path]) -> None:
        facts = {"data": str(self._data), "layers": sorted(map(str, layers))}
        self._store.write(self.path, json.dumps(facts, indent=1) + "\n")
        self._layers = layers


def read(path: Path) -> Held:
    """The hold in this file. Raises OSError, ValueError, KeyError, TypeError."""
    facts = json.loads(path.read_text())
    written_ms = path.stat().st_mtime_ns // 1_000_000
    return Held(path, Path(facts["data"]), frozenset(map(Path, facts["layers"])), written_ms)


def files(store: ImageStore) -> list[Path]:
    """The holds of all servers. Who cannot read one must not remove a layer."""
    folder = store.root / HOLDS
    return sorted(folder.glob("[!.]*")) if folder.is_dir() else []
