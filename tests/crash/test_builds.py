"""kill -9 of the server while an image is built: the next server carries the build out, and leaves nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.builds.conftest import BASE, IMAGES, missing_images
from tests.harness.builds import BuildServer, eventually
from tests.harness.server import ServerFailed

pytestmark = [
    pytest.mark.root,
    pytest.mark.image,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(missing_images()), reason=f"no image {missing_images()}"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildServer]:
    """A server that has built, so that a build takes a second."""
    with BuildServer(tmp_path_factory.mktemp("crash") / "data", IMAGES) as running:
        assert running.build(f"FROM {BASE}\nRUN echo warm > /warm\n")["status"] == "build_complete"
        yield running


def left(server: BuildServer) -> tuple[list[str], int, list[str]]:
    """Boxes, how many snapshots, and files of builds on the host."""
    boxes, snapshots = server.ask("boxes")
    scratch = server.data / "builds"
    return boxes, len(snapshots), [str(path) for path in scratch.rglob("*") if path.is_file()]


def settled(server: BuildServer, build_id: str) -> None:
    """The build is complete, its image runs, and nothing but that and one disk is left."""
    build = server.wait(build_id)
    assert build["status"] == "build_complete", (build, server.log(build_id))
    assert server.run(build["image"], "cat /result") == "made\n"
    eventually(lambda: left(server) == ([], 1, []))
    assert server.ask("open") == []


@pytest.mark.parametrize("status", ["queued", "provisioning", "building"])
def test_a_build_outlives_the_server(server: BuildServer, status: str) -> None:
    """It dies as soon as the build is known to have come so far, perhaps before the request was answered."""
    plan = f"FROM {BASE}\nRUN echo made > /result; echo {status}\n"
    server.kill9()
    server.doom_on(f"build.{status}")
    server.start()
    with contextlib.suppress(OSError, ValueError):
        server.request(plan, wanted_by=status)
    eventually(lambda: not server.alive)
    server.doom_on(None)
    server.start()
    assert len(server.ask("open")) == 1
    settled(server, server.request(plan, wanted_by=status))


def test_a_build_outlives_one_server_after_another(server: BuildServer) -> None:
    """Each dies by SIGKILL at its n-th commit, the next one a commit later, until one sees the end of the build."""
    build_id = server.request(f"FROM {BASE}\nRUN echo made > /result; echo again\n", wanted_by="doomed")
    server.kill9()
    deaths = 0
    for number in range(3, 33):
        server.doom(number)
        with contextlib.suppress(ServerFailed):
            server.start()
        if _ended(server):
            break
        deaths += 1
    server.kill9()
    server.doom(None)
    server.start()
    settled(server, build_id)
    assert deaths >= 4


def _ended(server: BuildServer) -> bool:
    """Whether no build is left to do before the server dies."""
    deadline = time.monotonic() + 30
    while server.alive and time.monotonic() < deadline:
        with contextlib.suppress(AssertionError, OSError, ValueError):
            if server.ask("open") == []:
                return True
        time.sleep(0.02)
    assert not server.alive, "the build does not go on"
    return False


def test_the_database_is_whole(server: BuildServer) -> None:
    with sqlite3.connect(Path(server.data) / "corral.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM builds WHERE NOT cleared").fetchone() == (0,)
