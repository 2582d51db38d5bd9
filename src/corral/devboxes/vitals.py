"""What this process has seen of each devbox since it started: activity, open commands, silence.

Owns memory only: after a restart every devbox counts as active at that moment. Must not decide what follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from corral.core.clock import Clock
from corral.devboxes import faults
from corral.runtime.contract import BoxGone, BoxUnresponsive


@dataclass(slots=True)
class _Vital:
    active_at: float
    open_commands: int = 0


class Vitals:
    """Kept for live devboxes; `forget` drops one. `on_doubt` is called when a guest did not answer as it should."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.monotonic()
        self._seen: dict[str, _Vital] = {}
        self._silent: set[str] = set()
        self.on_doubt: Callable[[str], None] = lambda _devbox_id: None

    def touch(self, devbox_id: str) -> None:
        """Something was asked of the devbox now."""
        self._of(devbox_id).active_at = self._clock.monotonic()

    def command_began(self, devbox_id: str) -> None:
        """The devbox is active until as many have ended."""
        self.touch(devbox_id)
        self._of(devbox_id).open_commands += 1

    def command_ended(self, devbox_id: str) -> None:
        """The other half of `command_began`."""
        vital = self._seen.get(devbox_id)
        if vital is not None:
            self.touch(devbox_id)
            vital.open_commands = max(0, vital.open_commands - 1)

    def idle_s(self, devbox_id: str) -> float:
        """Seconds since the last activity; 0 while a command is open."""
        vital = self._seen.get(devbox_id)
        if vital is None:
            return self._clock.monotonic() - self._start
        return 0.0 if vital.open_commands else self._clock.monotonic() - vital.active_at

    def doubt(self, devbox_id: str) -> None:
        """A call to the box failed in a way that its death or a hung guest would explain."""
        self.on_doubt(devbox_id)

    @contextmanager
    def watching(self, devbox_id: str) -> Iterator[None]:
        """Around a call to the box for a caller: counts as activity, raises errors.CorralError, notes doubts."""
        self.touch(devbox_id)
        with faults.translated():
            try:
                yield
            except (BoxGone, BoxUnresponsive):
                self.doubt(devbox_id)
                raise

    def silence(self, devbox_id: str) -> None:
        """The devbox's guest has not answered for longer than any guest may."""
        self._silent.add(devbox_id)

    def is_silent(self, devbox_id: str) -> bool:
        """Whether that was found; it stays so until the devbox is forgotten."""
        return devbox_id in self._silent

    def forget(self, devbox_id: str) -> None:
        """The devbox has ended."""
        self._seen.pop(devbox_id, None)
        self._silent.discard(devbox_id)

    def _of(self, devbox_id: str) -> _Vital:
        vital = self._seen.get(devbox_id)
        if vital is None:
            vital = self._seen[devbox_id] = _Vital(active_at=self._clock.monotonic())
        return vital
