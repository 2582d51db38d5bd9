"""Slots: numbers that stand for an id range and an address, unique on the whole host.

Owns `<run>/blocks`: each file there says which data folder holds a block of 1,024 slots, so that several servers with
data folders of their own share a host without meeting. Must not make namespaces.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from corral.runtime.contract import HostExhausted
from corral.runtime.network.namespace import IDS_PER_BOX, SlotWish

SLOTS_PER_BLOCK: Final = 1024
#: The ranges end below 2^32 - 1, which is no user id.
ID_BASE: Final = 0x2000_0000
BLOCKS: Final = (0xFFFF_FFFF - ID_BASE) // (IDS_PER_BOX * SLOTS_PER_BLOCK)
#: RFC 2544 benchmark addresses: routed nowhere, so they meet no network of the host's or of a cloud.
DEFAULT_NETWORK: Final = "198.18.0.0/15"
LINK_PREFIX: Final = "corral"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which numbers mean which ids, addresses and link names."""

    network: ipaddress.IPv4Network

    def wish(self, index: int) -> SlotWish:
        """The slot with this number."""
        return SlotWish(
            index=index,
            id_base=ID_BASE + index * IDS_PER_BOX,
            link=f"{LINK_PREFIX}{index}",
            address=str(self.network[index]),
            gateway=self.gateway(index // SLOTS_PER_BLOCK),
        )

    def gateway(self, block: int) -> str:
        """The block's first address: the host's, as its boxes see it."""
        return str(self.network[block * SLOTS_PER_BLOCK])

    def subnet(self, block: int) -> str:
        """The block's addresses."""
        return f"{self.gateway(block)}/22"


@dataclass(slots=True)
class Blocks:
    """The claims of one data folder, and which of its slots are free. Not for two threads."""

    run: Path
    data: Path
    held: list[int] = field(default_factory=list)
    free: deque[int] = field(default_factory=deque)
    pending: list[int] = field(default_factory=list)

    def open(self, in_use: set[int]) -> None:
        """Find the blocks that this data folder held before. `in_use` are slots of boxes that are on the host."""
        (self.run / "blocks").mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            owned = {block for block, owner in self._claims().items() if owner == self.data}
            self.held = sorted(owned | {index // SLOTS_PER_BLOCK for index in in_use})
            for block in self.held:
                self._write(block)
        self.free.clear()
        for block in self.held:
            self._add(block, in_use)

    def take(self) -> int | None:
        """A free slot, the one that was given back longest ago; None when `grow` is needed."""
        return self.free.popleft() if self.free else None

    def give(self, index: int) -> None:
        """Put a slot back."""
        self.free.append(index)

    def grow(self) -> int:
        """Claim one more block and free its slots; return it. Raises HostExhausted."""
        block = self.claim()
        self.admit()
        return block

    def claim(self) -> int:
        """Claim one more block and return it; its slots are free after `admit`. Raises HostExhausted."""
        with self._locked():
            claims = self._claims()
            block = next((block for block in range(BLOCKS) if block not in claims or self._stale(claims[block])), None)
            if block is None:
                message = f"cannot claim addresses: all {BLOCKS} blocks of this host are in use"
                raise HostExhausted(message)
            self._write(block)
        self.held.append(block)
        self.pending.append(block)
        return block

    def admit(self) -> None:
        """Free the slots of the blocks that were claimed."""
        while self.pending:
            self._add(self.pending.pop(), set())

    def owners(self) -> set[Path]:
        """Every data folder that has a claim on this host."""
        with self._locked():
            return set(self._claims().values())

    def release(self) -> None:
        """Give up every claim; no box may be left."""
        with self._locked():
            for block, owner in self._claims().items():
                if owner == self.data:
                    (self.run / "blocks" / str(block)).unlink(missing_ok=True)
        self.held.clear()
        self.pending.clear()
        self.free.clear()

    def _add(self, block: int, in_use: set[int]) -> None:
        first = block * SLOTS_PER_BLOCK
        self.free.extend(index for index in range(first + 1, first + SLOTS_PER_BLOCK) if index not in in_use)

    def _claims(self) -> dict[int, Path]:
        names = (path for path in (self.run / "blocks").iterdir() if path.name.isdigit())
        return {int(path.name): Path(path.read_text()) for path in names}

    def _write(self, block: int) -> None:
        path = self.run / "blocks" / str(block)
        partial = path.with_suffix(".new")
        partial.write_text(str(self.data))
        partial.rename(path)

    def _stale(self, owner: Path) -> bool:
        """Whether a claim's owner is gone for good: no server holds its folder, and no box is recorded there."""
        if owner == self.data:
            return False
        try:
            with (owner / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return not any((owner / "boxes").iterdir())
        except FileNotFoundError:
            return not (owner / "boxes").exists()
        except BlockingIOError:
            return False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
