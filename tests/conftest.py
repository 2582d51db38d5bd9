"""What holds for every tier: a clean environment, needs that skip with a reason, and no silent skips in CI.

With CI set, a test that is skipped fails unless tests/expected_skips.txt names it and says why.
"""

from __future__ import annotations

import os

import pytest

from tests import skips

#: Where a host keeps its parts; all other CORRAL_* settings of the caller would change what is tested.
KEPT = frozenset({"CORRAL_GUEST", "CORRAL_IMAGES", "CORRAL_OCI_RUNTIME"})
FOREIGN = ("CORRAL_", "RUNLOOP_")


def pytest_configure() -> None:
    """Forget the caller's settings, before any fixture or child process can read them."""
    for name in [name for name in os.environ if name.startswith(FOREIGN) and name not in KEPT]:
        del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs root where there is none."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> skips.MakeReport:
    """In CI, turn a skip that nobody expects into a failure."""
    report = yield
    return skips.judge(report, skips.expected(), strict=bool(os.environ.get("CI")))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> skips.MakeCollectReport:
    """As above, for a module that skips itself as a whole."""
    report = yield
    return skips.judge(report, skips.expected(), strict=bool(os.environ.get("CI")))
