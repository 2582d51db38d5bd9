"""A short run of chaos and one of soak, each by a fixed seed, and a judge that is not taken in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.crash.chaos import blows
from tests.crash.chaos.ledger import ENV, KILLED, SHUT, Box, Broken, Ledger
from tests.crash.chaos.run import Chaos
from tests.harness.server import Server

ROOT = Path(__file__).parents[2]
SEED = 1


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.image
@pytest.mark.timeout(300)
def test_the_true_state_is_told_through_chaos(tmp_path: Path) -> None:
    with Server(tmp_path / "data", runtime="oci", env=ENV) as server:
        chaos = Chaos(server, SEED)
        chaos.run(seconds=0)
        assert len(chaos.history) == len(blows.ON_SERVER) + len(blows.ON_BOX)
        assert len(chaos.ledger.promises) > 20


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.image
@pytest.mark.timeout(300)
def test_churn_leaves_nothing(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    env["PYTHONPATH"] = str(ROOT)
    argv = [sys.executable, "-m", "bench.soak", "--boxes", "16", "--seconds", "6"]
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "bench-results" / "soak.json").read_text())
    assert set(report["left"].values()) == {0}
    assert report["replaced"] > 16
    assert report["commands"] > 0


# -- the judge


BOX = "dbx_1"


def ran(**changes: object) -> dict[str, Any]:
    """The answer about a command that said `hi` and exited with 3."""
    view = {"execution_id": "exe_1", "status": "completed", "stdout": "hi\n", "exit_status": 3, "lost": False}
    return view | changes


def harmed(box: Box) -> None:
    box.must_end(KILLED)


def purged(box: Box) -> None:
    box.purges += 1


def unharmed(_: Box) -> None:
    """Nothing was done to it."""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    (tmp_path / "data" / "boxes" / BOX).mkdir(parents=True)
    made = Ledger(Server(tmp_path / "data"))
    made.boxes[BOX] = Box(BOX)
    return made


@pytest.mark.parametrize(
    ("harm", "changes", "right"),
    [
        (unharmed, {}, True),
        (unharmed, {"stdout": "h"}, False),
        (unharmed, {"exit_status": 0}, False),
        (unharmed, {"exit_status": 137, "stdout": "", "lost": True}, False),
        (unharmed, {"exit_status": 137, "stdout": ""}, False),
        (harmed, {"exit_status": 137, "stdout": "h", "lost": True}, True),
        (harmed, {"exit_status": 137, "stdout": "other", "lost": True}, False),
        (harmed, {"exit_status": 1}, False),
        (purged, {"exit_status": 137, "stdout": ""}, True),
        (purged, {"exit_status": 137, "stdout": "", "lost": True}, False),
    ],
)
def test_a_command_is_excused_only_by_what_was_done_to_its_box(
    ledger: Ledger, harm: Callable[[Box], None], changes: dict[str, Any], *, right: bool
) -> None:
    box = ledger.boxes[BOX]
    ledger.promised(ran(status="running"), box, "hi\n", 3)
    harm(box)
    if right:
        ledger.judge("exe_1", ledger.promises["exe_1"], ran(**changes))
        return
    with pytest.raises(Broken):
        ledger.judge("exe_1", ledger.promises["exe_1"], ran(**changes))


def test_a_result_that_changes_is_found(ledger: Ledger) -> None:
    box = ledger.boxes[BOX]
    ledger.promised(ran(), box, "hi\n", 3)
    box.must_end(SHUT)
    with pytest.raises(Broken, match="first and then"):
        ledger.promised(ran(exit_status=137, lost=True), box, "hi\n", 3)


def test_rows_boxes_and_promises_that_differ_are_found(ledger: Ledger) -> None:
    running = {BOX: {"id": BOX, "status": "running"}}
    assert ledger.audit(running) == []
    assert ledger.audit({}) == [f"{BOX} has no row", f"{BOX} has a box and no live row"]
    assert ledger.audit({BOX: {"id": BOX, "status": "provisioning"}}) == [f"{BOX} is provisioning"]
    other = {"dbx_2": {"id": "dbx_2", "status": "running"}}
    assert ledger.audit(running | other) == ["dbx_2 has a live row and no box"]
    with pytest.raises(Broken, match="ended with 'killed'"):
        ledger.audit({BOX: {"id": BOX, "status": "failure", "reason": "killed"}})
    ledger.boxes[BOX].must_end(KILLED)
    assert ledger.audit(running) == [f"{BOX} runs, and was to end with ['killed']"]


def test_what_differs_for_too_long_breaks_the_run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.audit({})
    monkeypatch.setattr("tests.crash.chaos.ledger.SETTLES_S", -1)
    with pytest.raises(Broken, match="has no row"):
        ledger.audit({})
