"""Which tests may be skipped in CI: tests/expected_skips.txt, one `<pattern>  # <reason>` a line."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

LIST = Path(__file__).with_name("expected_skips.txt")

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
MakeReport = Generator[None, pytest.TestReport, pytest.TestReport]
MakeCollectReport = Generator[None, pytest.CollectReport, pytest.CollectReport]


def parse(text: str) -> dict[str, str]:
    """Patterns of node ids with their reasons. Raises ValueError for a line without a reason."""
    entries = {}
    for line in text.splitlines():
        pattern, _, reason = line.partition("  # ")
        if not line.strip() or line.startswith("#"):
            continue
        if not reason.strip():
            message = f"cannot read {LIST.name}: no reason in {line!r}"
            raise ValueError(message)
        entries[pattern.strip()] = reason.strip()
    return entries


@functools.cache
def expected() -> dict[str, str]:
    """The list in this tree."""
    return parse(LIST.read_text())


def judge(report: Report, allowed: dict[str, str], *, strict: bool) -> Report:
    """The report, turned into a failure when it is a skip that `allowed` does not name and `strict` is set."""
    if not strict or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return report
    if any(fnmatch.fnmatch(report.nodeid, pattern) for pattern in allowed):
        return report
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid} was skipped ({report.longrepr}), and tests/expected_skips.txt does not name it"
    return report
