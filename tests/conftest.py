"""What holds for every tier: a clean environment, needs that skip with a reason, and no silent skips in CI.

With CI set, a test that is skipped fails unless tests/expected_skips.txt names it and says why.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from corral.core import errors
from corral.core.clock import SystemClock
from corral.core.settings import Settings
from corral.images import holds
from corral.images.collect import collect
from corral.images.service import Images
from corral.images.store import ImageStore
from tests import skips

#: Where a host keeps its parts; all other CORRAL_* settings of the caller would change what is tested.
KEPT = frozenset({"CORRAL_GUEST", "CORRAL_IMAGES", "CORRAL_OCI_RUNTIME"})
# A machine with other work takes longer now and then: that is no finding of a test about something else.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")
FOREIGN = ("CORRAL_", "RUNLOOP_")


def pytest_configure() -> None:
    """Forget the caller's settings, before any fixture or child process can read them."""
    # A shell ignores interrupts for what it puts in the background, nohup hang-ups: every child would inherit that.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    for name in [name for name in os.environ if name.startswith(FOREIGN) and name not in KEPT]:
        del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs root or the default image where there is none."""
    lacking = {"root": os.geteuid() != 0 and "needs root", "image": _no_image()}
    for item in items:
        for marker, reason in lacking.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _no_images_are_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove what servers of this session's folders hold of the host's images, and what they built."""
    yield
    store = ImageStore(Path(os.environ.get("CORRAL_IMAGES") or Settings().images))
    ended = [_let_go(store, path, tmp_path_factory.getbasetemp()) for path in holds.files(store)]
    if any(ended):
        collect(store, SystemClock())


def _let_go(store: ImageStore, path: Path, base: Path) -> bool:
    """Whether the hold was of a server of this session, or of one whose temporary folder is gone."""
    # Whoever collects reads all holds; another session may let go of this one at this moment.
    with store.sharing(), contextlib.suppress(FileNotFoundError):
        held = holds.read(path)
        gone = held.data.is_relative_to(tempfile.gettempdir()) and not held.data.exists()
        if gone or held.data.is_relative_to(base):
            holds.end(store, held)
            return True
    return False


def _no_image() -> str:
    """Why there is no default image; nothing when there is one."""
    folder = Path(os.environ.get("CORRAL_IMAGES") or Settings().images)
    try:
        Images(folder).resolve()
    except errors.CorralError as problem:
        return problem.message
    return ""


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
