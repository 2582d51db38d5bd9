"""`make density` with few boxes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(200)]


def test_idle_boxes_all_answer_across_restarts_and_leave_nothing(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("CORRAL_")}
    env["PYTHONPATH"] = str(ROOT)
    argv = [sys.executable, "-m", "bench.density", "40"]
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=190, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    report = json.loads((tmp_path / "bench-results" / "density.json").read_text())
    assert (report["answered"], report["answered_after"], report["left"]) == (40, 40, [])
