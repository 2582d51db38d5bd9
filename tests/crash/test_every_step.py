"""SIGKILL at each step of a snapshot, a fork, a suspend and a resume of real devboxes, and what must hold after it.

All steps take some minutes (`make crash`); the test suite takes a few of each verb.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest
from bench.leftovers import gone

from corral.devboxes.model import copy_of
from corral.runtime.cgroup.layout import read_layout
from corral.runtime.linux import mounts
from corral.runtime.oci.settings import Places
from tests.harness.caller import Caller
from tests.harness.server import Server

#: At how many steps of each verb it dies; 0 for all of them.
ROUNDS: Final = int(os.environ.get("CRASH_ROUNDS", "3"))
REST: Final = frozenset({"running", "suspended", "shutdown"})
#: Never reached: only counts.
NEVER: Final = 1_000_000

pytestmark = [
    pytest.mark.slow, pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120 if ROUNDS else 3600),
]  # fmt: skip


class Mortal(Server):
    """Dies at a step of its work once it is armed."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.crash.points", f"127.0.0.1:{self.port}", str(self.data)]

    def arm(self, at: int) -> None:
        """Die at the step of this number from now on."""
        (self.data / "steps").unlink(missing_ok=True)
        (self.data / "armed.new").write_text(str(at))
        (self.data / "armed.new").rename(self.data / "armed")

    def disarm(self) -> list[str]:
        """The steps that were made since; whoever is armed counts on."""
        (self.data / "armed").unlink()
        told = self.data / "steps"
        return told.read_text().splitlines() if told.exists() else []


@dataclass
class Stage:
    """One server over all of its lives, and one devbox at work, whose file `mark` has a line for each round."""

    server: Mortal
    caller: Caller
    devbox: str = ""
    rounds: int = 0
    asleep: bool = False
    #: What answers have promised in this round: devboxes, and the status that each must come to have.
    promised: dict[str, str] = field(default_factory=dict)
    snapshots: set[str] = field(default_factory=set)

    def fresh(self) -> None:
        """Another devbox."""
        if self.devbox:
            self.caller.post(f"/{self.devbox}/shutdown")
        self.devbox, self.rounds = self.caller.create(), 0

    def begin(self, *, asleep: bool) -> None:
        """Bring the devbox to where the round begins."""
        self.promised.clear()
        self.snapshots.clear()
        self.rounds += 1
        self.caller.run(self.devbox, f"echo {self.rounds} >> mark")
        beats = "kill $(cat beats); echo $$ > beats; n=0; while :; do echo $((n=n+1)) > beat; sleep 0.01; done"
        self.caller.post(f"/{self.devbox}/execute_async", command=beats)
        self.caller.run(self.devbox, "until [ -s beat ]; do sleep 0.01; done")
        if asleep:
            self.caller.post(f"/{self.devbox}/suspend")
            self.caller.reach(self.devbox, "suspended")
        self.asleep = asleep

    def beats(self, devbox_id: str) -> None:
        """What runs in the devbox goes on; nothing stands still."""
        self.caller.run(devbox_id, "rm beat && timeout 5 sh -c 'until [ -s beat ]; do sleep 0.01; done'")

    def holds(self, devbox_id: str) -> None:
        """The devbox works, and has all that was written before the round."""
        lines = self.caller.run(devbox_id, "cat mark && echo works > new && cat new").split()
        assert lines == [*map(str, range(1, self.rounds + 1)), "works"]


# ---------------------------------------------------------------- what is cut off


def snapshot(stage: Stage) -> None:
    made = stage.caller.post(f"/{stage.devbox}/snapshot_disk_async")["id"]
    stage.snapshots.add(made)
    while stage.caller.http.get(f"/v1/devboxes/disk_snapshots/{made}/status").json()["status"] != "complete":
        time.sleep(0.005)


def fork(stage: Stage, keep_memory: str = "never") -> None:
    made = stage.caller.post(f"/{stage.devbox}/fork", count=2, keep_memory=keep_memory)["devboxes"]
    stage.promised |= {child["id"]: "running" for child in made}
    for child in made:
        stage.caller.reach(child["id"], "running")
    # What was made for the fork alone goes, too.
    while set(os.listdir(stage.server.data / "pool" / ".snapshots")) - {copy_of(stage.devbox)}:
        stage.caller.http.get("/healthz").raise_for_status()
        time.sleep(0.02)


def fork_with_memory(stage: Stage) -> None:
    """What runs goes on in each: a fork of which only the disk came would fail."""
    fork(stage, "always")


def suspend(stage: Stage) -> None:
    stage.caller.post(f"/{stage.devbox}/suspend")
    stage.promised[stage.devbox] = "suspended"
    stage.caller.reach(stage.devbox, "suspended")


def resume(stage: Stage) -> None:
    stage.caller.post(f"/{stage.devbox}/resume")
    stage.promised[stage.devbox] = "running"
    stage.caller.reach(stage.devbox, "running")


# ---------------------------------------------------------------- what must hold


def settled(stage: Stage) -> dict[str, str]:
    """The status of every devbox that has not ended, once all are at rest."""
    deadline = time.monotonic() + 20
    while True:
        page = stage.caller.http.get("/v1/devboxes", params={"limit": 1000}).json()["devboxes"]
        status = {box["id"]: box["status"] for box in page}
        if set(status.values()) <= REST:
            return {devbox_id: now for devbox_id, now in status.items() if now != "shutdown"}
        assert "failure" not in status.values(), page
        assert time.monotonic() < deadline, page
        time.sleep(0.02)


def judge(stage: Stage) -> None:
    """Nothing acknowledged is lost, everything works, and nothing else is there."""
    status = settled(stage)
    assert stage.devbox in status
    for devbox_id, promise in stage.promised.items():
        assert status.get(devbox_id) == promise, (devbox_id, promise, status)
    if not stage.asleep and status[stage.devbox] == "running":
        stage.beats(stage.devbox)
    if status[stage.devbox] == "suspended":
        resume(stage)
    stage.holds(stage.devbox)
    for child in status.keys() - {stage.devbox}:
        assert status[child] == "running"
        stage.holds(child)
        if stage.caller.http.get(f"/v1/devboxes/{child}").json().get("memory_kept"):
            stage.beats(child)
        stage.caller.post(f"/{child}/shutdown")
    page = stage.caller.http.get("/v1/devboxes/disk_snapshots").json()["snapshots"]
    assert stage.snapshots <= {one["id"] for one in page}
    for one in page:
        while (now := stage.caller.http.get(f"/v1/devboxes/disk_snapshots/{one['id']}/status").json())[
            "status"
        ] == "in_progress":
            time.sleep(0.01)
        assert now["status"] == "complete", now
        copy = stage.caller.create(snapshot_id=one["id"])
        stage.holds(copy)
        stage.caller.post(f"/{copy}/shutdown")
        stage.caller.post(f"/disk_snapshots/{one['id']}/delete")
    nothing_else(stage)


def nothing_else(stage: Stage) -> None:
    """Return once the host has the one box, and nothing of another or of a copy."""
    places = Places(stage.server.data.resolve(), Path("/run/corral"))
    deadline = time.monotonic() + 20
    parents = {folder.parent for folder in places.group(read_layout(mounts.current()), "x").folders}
    while True:
        there = {
            "boxes": set(os.listdir(places.boxes)),
            "bundles": set(os.listdir(places.bundles)),
            "disks": {path.name for path in (places.data / "pool").glob("[!.]*")},
            "groups": {path.name for parent in parents for path in parent.glob("dbx_*")},
        }
        copies = os.listdir(places.data / "pool" / ".snapshots")
        still, kept = os.listdir(places.frozen), os.listdir(places.data / "memory")
        if all(names == {stage.devbox} for names in there.values()) and not copies and not still and not kept:
            return
        assert time.monotonic() < deadline, (there, copies, still, kept, copy_of(stage.devbox))
        time.sleep(0.02)


# ---------------------------------------------------------------- rounds


def live_through(stage: Stage, verb: Callable[[Stage], None], at: int, *, asleep: bool) -> list[str]:
    """One round: die at step `at` of the verb, come back, be judged. The names of the steps that were made."""
    stage.begin(asleep=asleep)
    stage.server.arm(at)
    try:
        verb(stage)
    except (httpx.TransportError, AssertionError):
        # An answer that a dying server gives is none of a server that lives.
        if at == NEVER:
            raise
        deadline = time.monotonic() + 5
        while stage.server.alive:
            assert time.monotonic() < deadline, "the verb failed, and the server lives"
            time.sleep(0.01)
    steps = stage.server.disarm()
    if stage.server.alive:
        stage.server.stop()
    stage.server.kill9()
    stage.server.start()
    try:
        judge(stage)
    except BaseException:
        sys.stderr.write(f"died at step {at} of {verb.__name__}: {steps}\n")
        raise
    return steps


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    server = Mortal(tmp_path_factory.mktemp("steps") / "data", runtime="oci")
    with server:
        caller = Caller(server)
        with caller.http:
            yield Stage(server, caller)
        places = Places(server.data.resolve(), Path("/run/corral"))
        server.shutdown_all()
        server.stop()
        assert asyncio.run(gone(places)) == []


VERBS: Final[dict[str, tuple[Callable[[Stage], None], bool]]] = {
    "snapshot": (snapshot, False),
    "snapshot-asleep": (snapshot, True),
    "fork": (fork, False),
    "fork-with-memory": (fork_with_memory, False),
    "fork-asleep": (fork_with_memory, True),
    "suspend": (suspend, False),
    "resume": (resume, True),
}


#: Where it has lost something once, and what no other verb does.
ALWAYS: Final = {
    "suspend": "BtrfsPool.delete after",
    "fork": "GuestClient.claim before",
    "fork-with-memory": "GuestClient.wake after",
    "fork-asleep": "Memories.share after",
}
#: Whose other steps are those of another verb too.
SHARED: Final = frozenset({"fork", "fork-asleep"})


def chosen(name: str, steps: list[str]) -> list[int]:
    """At which steps to die: evenly over all, and where something was lost once."""
    every = range(1, len(steps) + 1)
    if not ROUNDS:
        return list(every)
    always = {1 + steps.index(ALWAYS[name])} if name in ALWAYS else set()
    if name in SHARED:
        return sorted(always)
    return sorted(always | set(every[len(steps) // (2 * ROUNDS) :: max(1, len(steps) // ROUNDS)]))


@pytest.mark.parametrize("name", VERBS)
def test_a_server_that_dies_at_any_step_loses_and_leaves_nothing(stage: Stage, name: str) -> None:
    verb, asleep = VERBS[name]
    stage.fresh()
    steps = live_through(stage, verb, NEVER, asleep=asleep)
    assert len(steps) >= 6, steps
    died = Counter[str]()
    began = time.monotonic()
    points = chosen(name, steps)
    for at in points:
        made = live_through(stage, verb, at, asleep=asleep)
        if len(made) == at:
            died[made[-1]] += 1
    took = time.monotonic() - began
    sys.stderr.write(f"{name}: {len(steps)} steps, {len(points)} rounds in {took:.1f} s, died {dict(died)}\n")
    # What goes on beside it makes a round shorter now and then.
    assert died.total() >= 0.7 * len(points), died
