"""The demo, run as a stranger would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.slow]


def run(module: str, *arguments: str, cwd: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    """Run a module of the repository with the environment's Python, without a key for a real model."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "CORRAL_"))}
    env["PYTHONPATH"] = str(ROOT)
    argv = [sys.executable, "-m", module, *arguments]
    return subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=limit_s, check=False)


@pytest.mark.timeout(600)
def test_an_agent_repairs_a_library_and_leaves_nothing(tmp_path: Path) -> None:
    done = run("examples.main_job", cwd=tmp_path, limit_s=590)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    before, after = done.stdout.split("The agent works", 1)
    assert "FAILED (failures=1)" in before
    assert "+    padding = (fillvalue,) * (n - 1 if step >= n else step - 1)" in after
    assert after.split("tests, after")[1].count("OK") == 1
    assert "nothing is left on this machine" in done.stdout
