"""What was acknowledged during a run of chaos and what was done to whom, and the judgement over both.

Owns the promises and the invariant. It does no harm and makes no load: `blows.py` and `client.py` do.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from corral.devboxes.model import ENDED, Reason
from corral.runtime.cgroup.group import Group
from corral.runtime.cgroup.layout import read_layout
from corral.runtime.linux import mounts
from corral.runtime.oci.settings import Places
from tests.harness.server import Server

#: A guest that hangs is told after PING_S + GUEST_LIMIT_S and a few seconds; readings for memory are taken so often.
PING_S: Final = 1.0
GUEST_LIMIT_S: Final = 4.0
ALERTS_S: Final = 1.0
ENV: Final = {
    "CORRAL_PING_S": str(PING_S),
    "CORRAL_GUEST_LIMIT_S": str(GUEST_LIMIT_S),
    "CORRAL_ALERTS_S": str(ALERTS_S),
}
#: While a server serves: no state on the way lasts longer, and no two of row, box and promise differ for longer.
SETTLES_S: Final = 45.0
#: A kill for memory that the server has not read yet may be taken for the end of process 1.
UNREAD_S: Final = ALERTS_S + 10

KILLED: Final = frozenset({Reason.KILLED.value})
HUNG: Final = frozenset({Reason.GUEST_UNRESPONSIVE.value})
SHUT: Final = frozenset({Reason.API_SHUTDOWN.value})
OVER: Final = frozenset({Reason.KEEP_ALIVE_TIMEOUT.value})


class Broken(Exception):
    """The invariant does not hold; the message says for what."""


@dataclass
class Box:
    """A devbox that was promised. `ends` are the reasons with which it must end; empty while it must run."""

    id: str
    ends: frozenset[str] = frozenset()
    hogged_at: float = 0.0
    #: Blows under way, or just over, that may cost commands and files in it, but not the box.
    full: int = 0
    purged: int = 0
    #: Its purges so far: a command that was open during one may have been killed.
    purges: int = 0
    files: dict[str, str] = field(default_factory=dict, repr=False)

    def must_end(self, reasons: frozenset[str]) -> None:
        """Before it is done, so that nobody is surprised by what follows."""
        if Reason.KILLED.value in reasons and time.monotonic() - self.hogged_at < UNREAD_S:
            reasons |= {Reason.OUT_OF_MEMORY.value}
        self.ends |= reasons


@dataclass
class Promise:
    """A command that was acknowledged, with what it must say; `seen` once an answer said how it ended."""

    box: Box
    stdout: str
    code: int
    purges: int
    seen: tuple[str, int] | None = None


class Ledger:
    """Of one run. Safe for several threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.places = Places(server.data.resolve(), Path("/run/corral"))
        self.boxes: dict[str, Box] = {}
        self.promises: dict[str, Promise] = {}
        self.broken: list[str] = []
        self.ending = threading.Event()  #: the server is being ended by a blow
        self.outages = 0
        self.stop = threading.Event()  #: no more load
        self._layout = read_layout(mounts.current())
        self._numbers = itertools.count(1)
        self._differs: dict[str, float] = {}

    # -- promises

    def number(self) -> int:
        """One that was not used yet."""
        return next(self._numbers)

    def promised(self, view: Mapping[str, Any], box: Box, stdout: str, code: int) -> None:
        """A command was acknowledged with this answer."""
        promise = self.promises.setdefault(view["execution_id"], Promise(box, stdout, code, box.purges - box.purged))
        self.judge(view["execution_id"], promise, view)

    def judge(self, execution_id: str, promise: Promise, view: Mapping[str, Any]) -> None:
        """Raise Broken unless the answer is what was promised, or says what a blow did to the command."""
        if view["status"] != "completed":
            return
        told, box = (view["stdout"], view["exit_status"]), promise.box
        if promise.seen is not None and told != promise.seen:
            raise Broken(f"{execution_id} ended with {promise.seen} first and then with {told}")
        promise.seen = told
        if told == (promise.stdout, promise.code) and not (view["lost"] and not box.ends):
            return
        begun = promise.stdout.startswith(view["stdout"])
        if box.ends and begun and view["exit_status"] == 137:
            return
        # The shell that a purge spares reports the end of its child in its own way.
        if box.purges > promise.purges and begun and view["exit_status"] != 0 and not view["lost"]:
            return
        raise Broken(f"{execution_id} in {box} was promised {(promise.stdout, promise.code)} and is {dict(view)}")

    # -- boxes on the host

    def process_1(self, box: Box) -> int | None:
        """The host's number of the box's process 1; None when the box is just being removed."""
        try:
            return int(json.loads((self.places.box(box.id) / "box.json").read_text())["pid"]) or None
        except FileNotFoundError:
            return None

    def group(self, box: Box) -> Group:
        """The box's control group."""
        return self.places.group(self._layout, box.id)

    # -- judgement

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Around the end of the server and its next start: no time of it counts against the server."""
        self.outages += 1
        self.ending.set()
        try:
            yield
        finally:
            self._differs.clear()
            self.ending.clear()

    def audit(self, views: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """What does not agree at this moment. Raises Broken for what has not agreed for longer than it may."""
        wrong = self._differences(views)
        now = time.monotonic()
        self._differs = {one: self._differs.get(one, now) for one in wrong}
        old = [one for one, since in self._differs.items() if now - since > SETTLES_S]
        if old:
            raise Broken(f"for over {SETTLES_S:.0f} s: {old}")
        return wrong

    def _differences(self, views: Mapping[str, Mapping[str, Any]]) -> list[str]:
        wrong = [f"{lost} has no row" for lost in set(self.boxes) - set(views)]
        for one, view in views.items():
            wrong += self._misjudged(self.boxes.get(one), view)
        rows = {one for one, view in views.items() if view["status"] not in ENDED}
        host = set(os.listdir(self.places.boxes))
        wrong += [f"{one} has a box and no live row" for one in host - rows]
        return wrong + [f"{one} has a live row and no box" for one in rows - host]

    def _misjudged(self, box: Box | None, view: Mapping[str, Any]) -> list[str]:
        status, reason = view["status"], view.get("reason") or ""
        if status not in {"running", *ENDED}:
            return [f"{view['id']} is {status}"]
        if box is None:  # its create was not acknowledged yet
            return []
        if status in ENDED and reason not in box.ends:
            # At once: a wrong reason does not become right.
            raise Broken(f"{box} ended with {reason!r}: {dict(view)}")
        return [f"{box.id} runs, and was to end with {sorted(box.ends)}"] if status == "running" and box.ends else []
