"""SIGKILL of the server during 20 running commands and 10 creates; the next one has all of it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corral.runtime.oci.settings import Places
from tests.crash import scene
from tests.crash.test_commit_points import wait_for_boxes
from tests.harness.server import Server

LINES = 300


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data", runtime="oci") as made:
        yield made


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.image
@pytest.mark.timeout(180)
def test_20_commands_and_10_creates_survive_the_server(server: Server) -> None:
    client = scene.Client(server)
    boxes = [client.create(name=f"box-{n}") for n in range(4)]
    for box in boxes:
        assert client.running(box)
    # Ends while the server is down, while it starts, and after: each prints slowly, so that all are under way.
    for number in range(20):
        seconds = 1 + number % 5
        command = (
            f"for n in $(seq {LINES}); do echo line $n of {number}; sleep {seconds / LINES:.4f}; done; exit {number}"
        )
        expected = "".join(f"line {n} of {number}\n" for n in range(LINES - 99, LINES + 1))
        assert client.execute(boxes[number % 4], command, expected, number)
    creators = [scene.Client(server) for _ in range(10)]
    threads = [threading.Thread(target=creator.create) for creator in creators]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    server.kill9()
    for thread in threads:
        thread.join()
    time.sleep(1.5)
    server.start()
    for creator in creators:
        client.got.devboxes += creator.got.devboxes
    devboxes = scene.settle(client, boxes_survive=True)
    assert all(box["status"] == "running" for box in devboxes)
    wait_for_boxes(server.data, {box["id"] for box in devboxes})
    for execution_id, (box, _, _, _) in client.got.executions.items():
        text = _whole_output(server, box, execution_id)
        assert text.count("\n") == LINES
    server.shutdown_all()
    wait_for_boxes(server.data, set())
    assert _left(server.data, [box["id"] for box in devboxes]) == []


def _whole_output(server: Server, box: str, execution_id: str) -> str:
    spool = server.data / "spool" / box / f"{execution_id}.stdout"
    return spool.read_text()


def _left(data: Path, devbox_ids: list[str]) -> list[str]:
    """What the host still has of these devboxes: mounts, processes, cgroups, sockets."""
    mounts = Path("/proc/self/mountinfo").read_text()
    found = [f"mount of {one}" for one in devbox_ids if one in mounts]
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    found += [f"process {line}" for line in listing.splitlines() if any(one in line for one in devbox_ids)]
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"cgroup {folder}/{name}" for name in names if any(one in name for one in devbox_ids)]
    bundles = Places(data.resolve(), Path("/run/corral")).bundles
    found += [f"bundle {one}" for one in devbox_ids if (bundles / one).exists()]
    return found
