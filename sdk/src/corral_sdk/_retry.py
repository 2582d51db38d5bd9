"""Whether and when a call is sent again. Decides only; sleeps and sends nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from corral_sdk import errors

#: Seconds for which a lost connection is tried again: a server restarts in less.
PATIENCE_S = 20.0
#: Seconds for a server from which no answer ever came: its address is wrong, or it does not run.
FIRST_CONTACT_S = 0.4
#: How often an answer that asks for another try gets one when it does not say when.
ANSWERED_TRIES = 2
LONGEST_PAUSE_S = 5.0


class Attempts:
    """The tries of one call. `pause` says how long to wait before the next, or None to give up."""

    def __init__(
        self, *, reached: bool, patience_s: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._limit_s = patience_s if reached else min(patience_s, FIRST_CONTACT_S)
        self._started = clock()
        self._count = 0

    def pause(self, failure: errors.CorralError, headers: Mapping[str, str] | None = None) -> float | None:
        """Return the seconds before the next try, or None when `failure` is the outcome."""
        headers = headers or {}
        self._count += 1
        backoff = min(0.1 * 2 ** (self._count - 1), LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)  # noqa: S311
        if isinstance(failure, errors.Unreachable):
            return backoff if self._clock() - self._started + backoff <= self._limit_s else None
        wanted = headers.get("x-should-retry")
        transient = isinstance(failure, errors.Exhausted | errors.Unavailable)
        if wanted == "false" or not (transient or wanted == "true") or isinstance(failure, errors.TimedOut):
            return None
        asked = _retry_after(headers)
        if asked is not None:
            late = self._clock() - self._started + asked > self._limit_s
            return None if late else max(asked, backoff)
        return backoff if self._count <= ANSWERED_TRIES else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            return max(0.0, float(value) * unit)
        except ValueError:  # absent, or a date, which Corral never sends
            continue
    return None
