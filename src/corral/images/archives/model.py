"""What an image may be at most, and what is known of one of its layers."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from corral.core import errors
from corral.core.clock import Clock, SystemClock
from corral.runtime.rootfs.plan import MOST_LAYERS

GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken in at most. `size` in bytes of all layers unpacked, `seconds` for all of it.

    Some layers of a box are its host's, and a few are left for those of snapshots.
    """

    size: int = 32 * GIB
    files: int = 2_000_000
    layers: int = MOST_LAYERS - 4
    seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A layer as it was made. `size` in bytes of its files; `surface` is a digest of all but their contents.

    `tar` says how the bytes of its archive are kept: `split` as what is not in the tree, `whole` with all of it,
    for the rare ones that the tree does not give back (sparse files, names that come twice). `tar_digest` is of that.
    `blob` is the digest of the archive as a registry has it, compressed; "" when none is known.
    """

    diff_id: str
    size: int
    files: int
    surface: str
    tar: str
    tar_digest: str
    blob: str = ""

    def to_json(self) -> str:
        """The text of layer.json."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> LayerFacts:
        """Read what `to_json` wrote. Raises ValueError, KeyError, TypeError."""
        facts: dict[str, Any] = json.loads(text)
        return cls(**facts)


@dataclass(slots=True)
class Task:
    """A piece of work on an image: its limits, what is used of them, and whether it shall go on.

    Worked on by a thread; `stop` may be called from any.
    """

    what: str
    limits: Limits = field(default_factory=Limits)
    clock: Clock = field(default_factory=SystemClock)
    size: int = 0
    files: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _until: float = 0.0

    def __post_init__(self) -> None:
        self._until = self.clock.monotonic() + self.limits.seconds

    def stop(self) -> None:
        """Have it end at the next opportunity."""
        self._stopped.set()

    def check(self) -> None:
        """Raise errors.Unavailable once stopped, errors.TimedOut once it has taken too long."""
        if self._stopped.is_set():
            raise errors.Unavailable(f"{self.what}: stopped", remedy="ask for it again")
        if self.clock.monotonic() > self._until:
            raise errors.TimedOut(f"{self.what}: not done after {self.limits.seconds:.0f} s")

    def grow(self, size: int, where: str) -> None:
        """Count bytes of a layer. Raises errors.TooLarge that names the layer."""
        self.size += size
        if self.size > self.limits.size:
            raise errors.TooLarge(f"{self.what}: {where}: more than {self.limits.size >> 20} MiB unpacked")

    def count(self, name: str, where: str) -> None:
        """Count one more file. Raises errors.TooLarge that names it."""
        self.files += 1
        if self.files > self.limits.files:
            raise errors.TooLarge(f"{self.what}: {where}: {name}: more than {self.limits.files} files")

    def invalid(self, cause: str) -> errors.Invalid:
        """The archive is at fault."""
        return errors.Invalid(f"{self.what}: {cause}")
