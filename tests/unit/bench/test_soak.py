from __future__ import annotations

import pytest
from bench.soak import FILES_MORE, MEMORY_MORE_MIB, Report


def report(**figures: object) -> Report:
    """A sound one, but for these."""
    sound = {"files": (30, 30 + FILES_MORE), "memory_mib": (90.0, 90.0 + MEMORY_MORE_MIB)}
    return Report(10, 60.0, 1, **{**sound, **figures})  # type: ignore[arg-type]


def test_a_sound_run_has_no_problem() -> None:
    assert report().problems() == []


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"found": ["mount /x"]}, "left on the host: mount /x"),
        ({"transient": 2}, "2 devboxes are neither"),
        ({"files": (30, 31 + FILES_MORE)}, "files open, and had 30"),
        ({"memory_mib": (90.0, 91.0 + MEMORY_MORE_MIB)}, "MiB, and had 90"),
    ],
)
def test_what_stayed_is_a_problem(figures: dict[str, object], told: str) -> None:
    (problem,) = report(**figures).problems()
    assert told in problem
