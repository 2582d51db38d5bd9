"""Whoever imports, removes or collects images may be killed at any step: the store stays sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.images import archives
from tests.integration.images.archives import Entry, folder, tar

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(180)]

SEED = int(os.environ.get("STORE_SEED", "7"))
COUNT = int(os.environ.get("STORE_STEPS", "24"))
BASE = tar(folder("./"), Entry("base", b"b"))


def test_a_store_whose_writer_is_killed_at_any_step_stays_sound(tmp_path: Path) -> None:
    archives.layout(tmp_path / "layout-1", [BASE])
    archives.layout(tmp_path / "layout-2", [BASE, tar(folder("./"), Entry(".wh.base"), Entry("top", b"t"))])
    (tmp_path / "layer.tar").write_bytes(tar(folder("./"), Entry("alone", b"a")))
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.store_victim", str(tmp_path), str(SEED), str(COUNT)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["wrong"] == {}, f"seed {SEED} of {told['steps']} steps"
    assert len(told["picked"]) == COUNT
    assert (told["layers"], told["names"]) == (1, ["base"])
