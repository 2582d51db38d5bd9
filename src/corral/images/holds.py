"""Which layers a server needs, written where whoever removes layers can read it without that server's database.

Owns `<images>/holds/<id>`: the server's data folder, the layers that anything of it may be on, and the names that are
its alone. Each is written here before it is used, and taken off after nothing uses it any more.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from corral.core import errors
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
    names: frozenset[str]
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
        held = read(self.path) if self.path.exists() else None
        self._layers = held.layers if held else frozenset[Path]()
        self._names = held.names if held else frozenset[str]()

    def add(self, layers: Iterable[Path]) -> None:
        """Hold these too. On the disk when this returns. The caller shares the store's lock since it saw them."""
        if more := frozenset(layers) - self._layers:
            self._write(self._layers | more, self._names)

    def own(self, name: str) -> None:
        """Have this name go with the server. The caller shares the store's lock."""
        if name not in self._names:
            self._write(self._layers, self._names | {name})

    def disown(self, name: str) -> None:
        """Have this name, which means nothing any more, not be the server's. Idempotent."""
        if name in self._names:
            with self._store.sharing():
                self._write(self._layers, self._names - {name})

    def replace(self, layers: Iterable[Path]) -> None:
        """Hold these layers and no others."""
        with self._store.sharing():
            self._write(frozenset(layers), self._names)

    def _write(self, layers: frozenset[Path], names: frozenset[str]) -> None:
        if layers or names:
            facts = {"data": str(self._data), "layers": sorted(map(str, layers)), "names": sorted(names)}
            self._store.write(self.path, json.dumps(facts, indent=1) + "\n")
        else:
            self.path.unlink(missing_ok=True)
        self._layers, self._names = layers, names


def read(path: Path) -> Held:
    """The hold in this file. Raises OSError, ValueError, KeyError, TypeError."""
    facts = json.loads(path.read_text())
    written_ms = path.stat().st_mtime_ns // 1_000_000
    # Holds were written without names before.
    layers, names = frozenset(map(Path, facts["layers"])), frozenset(map(str, facts.get("names", ())))
    return Held(path, Path(facts["data"]), layers, names, written_ms)


def files(store: ImageStore) -> list[Path]:
    """The holds of all servers. Who cannot read one must not remove a layer."""
    folder = store.root / HOLDS
    return sorted(folder.glob("[!.]*")) if folder.is_dir() else []


def end(store: ImageStore, held: Held) -> None:
    """Have a server that is gone hold nothing: what it named alone means nothing any more."""
    for name in held.names:
        store.drop(name)
    held.path.unlink()


def owned(store: ImageStore) -> set[str]:
    """Names that are one server's alone. Raises errors.Unavailable when a hold cannot be read."""
    found: set[str] = set()
    for path in files(store):
        try:
            found |= read(path).names
        except FileNotFoundError:
            continue  # its server has just let go of all
        except (OSError, ValueError, KeyError, TypeError) as problem:
            message = f"cannot tell whose images there are: {path} cannot be read: {problem}"
            raise errors.Unavailable(message, remedy="see: corral image fsck") from problem
    return found
