"""Harbor as it is published, with its provider for the dialect, running whole tasks: build, solve, grade.

The tasks in `tasks` are in Harbor's format and name images as tasks of others do. The oracle, which has the solution,
must get all of the reward, and an agent that does nothing none of it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.caller import Caller
from tests.harness.server import Server
from tests.integration.clients import install

VERSION = "0.25.0"
TASKS = Path(__file__).parent / "tasks"
NAMES = sorted(folder.name for folder in TASKS.iterdir())
LIMIT_S = 400

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("harbor") / "data", runtime="oci") as running:
        yield running


def run(server: Server, folder: Path, agent: str) -> dict[str, dict[str, Any]]:
    """What the verifier says of each task that the agent was given."""
    harbor = install.harbor(VERSION)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RUNLOOP_", "CORRAL_"))}
    env |= {"RUNLOOP_BASE_URL": server.url, "RUNLOOP_API_KEY": server.key, "HOME": str(folder)}
    env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no model is asked: its prices need not be downloaded
    command = [str(harbor), "run", "-e", "runloop", "-a", agent, "-p", str(TASKS), "-o", str(folder), "-q"]
    command += ["--job-name", agent, "-n", str(len(NAMES))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {}
    for path in (folder / agent).glob("*/result.json"):
        result = json.loads(path.read_text())
        assert result["exception_info"] is None, result["exception_info"]
        found[path.parent.name.partition("__")[0]] = result["verifier_result"]["rewards"]
    return found


@pytest.mark.timeout(2 * LIMIT_S + install.INSTALL_LIMIT_S)
def test_harbor_runs_its_tasks_unchanged(server: Server, tmp_path: Path) -> None:
    assert NAMES == ["count-words", "keep-serving", "loose-files", "mend-median"]
    solved = run(server, tmp_path, "oracle")
    assert {name: rewards["reward"] for name, rewards in solved.items()} == dict.fromkeys(NAMES, 1.0)
    assert solved["mend-median"]["odd"] == 1.0  # a second reward, by reward.json
    caller = Caller(server)
    with caller.http:
        first = caller.http.get("/v1/blueprints").json()["blueprints"]
        # The same images again: nothing is built for the agent that does nothing.
        idle = run(server, tmp_path, "nop")
        assert {name: rewards["reward"] for name, rewards in idle.items()} == dict.fromkeys(NAMES, 0.0)
        assert [one["id"] for one in caller.http.get("/v1/blueprints").json()["blueprints"]] == [
            one["id"] for one in first
        ]
        assert len(first) == len(NAMES)
        page = caller.http.get("/v1/devboxes", params={"limit": 100}).json()["devboxes"]
        assert {box["status"] for box in page} == {"shutdown"}
        asked = [box["launch_parameters"] for box in page]
        sizes = {(one.get("custom_gb_memory"), one.get("custom_disk_size")) for one in asked}
        assert {(9, 11), (1, 3)} <= sizes
