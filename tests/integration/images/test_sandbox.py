"""What reads hostile archives ends with those who are done with it, however early that is."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from corral.images.archives import sandbox

pytestmark = [pytest.mark.root]

ROUNDS = 60
#: Seconds by which the moment of the end moves on; all is set up after some 10 ms.
STEP_S = 0.0005


def running(argument: str) -> list[int]:
    """Processes with this argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # it ended since the glob
            continue
    return found


def test_nothing_is_left_of_a_program_that_is_ended_at_any_moment() -> None:
    argument = "987654.25"
    for number in range(ROUNDS):
        child = subprocess.Popen(sandbox.confined(["sleep", argument], sandbox.Walls()))
        time.sleep(number * STEP_S)
        sandbox.end(child.pid)
        child.wait(10)
    deadline = time.monotonic() + 10
    while left := running(argument):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
