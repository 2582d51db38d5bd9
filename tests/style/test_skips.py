"""A test that CI skips without being listed is a failure."""

from __future__ import annotations

import pytest

from tests import skips


def skipped(nodeid: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid, ("a.py", 1, "test_a"), {}, outcome="skipped", longrepr=("a.py", 1, "no Docker"), when="setup"
    )


def test_an_unexpected_skip_fails_in_ci() -> None:
    report = skips.judge(skipped("tests/a.py::test_a"), {}, strict=True)
    assert report.outcome == "failed"
    assert "no Docker" in str(report.longrepr)


def test_an_expected_skip_stays_a_skip() -> None:
    report = skips.judge(skipped("tests/a.py::test_a"), {"tests/a.py::*": "no Docker in CI"}, strict=True)
    assert report.outcome == "skipped"


def test_a_skip_at_home_stays_a_skip() -> None:
    assert skips.judge(skipped("tests/a.py::test_a"), {}, strict=False).outcome == "skipped"


def test_an_entry_without_a_reason_is_refused() -> None:
    assert skips.parse("# a comment\n\ntests/a.py::*  # why\n") == {"tests/a.py::*": "why"}
    with pytest.raises(ValueError, match="no reason"):
        skips.parse("tests/a.py::*")
