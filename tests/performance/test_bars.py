"""The bars of SPECIFICATION.md, in a short run of the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
#: Absolute times move with the machine and its other load; `make bench` on a quiet one holds the bar itself.
SLACK = 4.0

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a short run of the benchmark wrote."""
    folder = tmp_path_factory.mktemp("bench")
    env = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    argv = [sys.executable, "-m", "bench", "--quick"]
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=390, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    written: dict[str, Any] = json.loads((folder / "bench-results" / "last.json").read_text())
    return written


def bar(results: dict[str, Any], beginning: str) -> dict[str, Any]:
    """The bar whose description begins like this."""
    found: dict[str, Any] = next(bar for bar in results["bars"] if bar["what"].startswith(beginning))
    return found


def test_a_cold_start_is_near_the_floor(results: dict[str, Any]) -> None:
    measured = bar(results, "create to first output, p50, beside crun")
    assert measured["value"] <= measured["limit"]


def test_a_prepared_box_is_claimed_at_once(results: dict[str, Any]) -> None:
    measured = bar(results, "create of a prepared box")
    assert measured["value"] <= measured["limit"] * SLACK


def test_a_command_is_quick(results: dict[str, Any]) -> None:
    measured = bar(results, "execute true over HTTP, p50")
    assert measured["value"] <= measured["limit"] * SLACK


def test_many_callers_are_served_at_a_rate(results: dict[str, Any]) -> None:
    measured = bar(results, "execute true, 16 callers")
    assert measured["value"] >= measured["limit"] / SLACK


def test_boxes_that_are_asked_for_at_once_all_come(results: dict[str, Any]) -> None:
    systems = {system["name"]: system for system in results["systems"]}
    assert systems["corral"]["burst_ok"] == "20/20"
    assert systems["corral"]["burst_wall_ms"] <= SLACK * systems["crun"]["burst_wall_ms"]


def test_an_idle_box_is_small(results: dict[str, Any]) -> None:
    measured = bar(results, "memory of an idle box")
    assert measured["value"] <= measured["limit"]


def test_a_transfer_does_not_grow_the_server(results: dict[str, Any]) -> None:
    measured = bar(results, "server's growth")
    assert measured["value"] <= measured["limit"]


@pytest.mark.parametrize(
    "what",
    [
        "snapshot of a running box",
        "of that, it stands still",
        "snapshot of a suspended box",
        "create from a snapshot beside the image",
        "forks of a running box",
        "create at the last level of a row of snapshots",
        "suspend, the disk",
        "resume, the disk",
        "suspend, 200 MB of memory",
        "resume, 200 MB of memory",
    ],
)
def test_copies_of_disks_cost_what_is_promised(results: dict[str, Any], what: str) -> None:
    measured = bar(results, what)
    assert measured["value"] <= measured["limit"] * SLACK
