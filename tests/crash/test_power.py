"""The host loses its power: what was acknowledged is there when it has booted, and what is gone is said to be gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from corral.core.store.store import RELAXED_S
from tests.crash.power import Machine
from tests.harness.caller import Caller

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(240)]

COUNT = "n=0; while sleep 0.02; do echo $n; n=$((n + 1)); done"
COMMAND_ID = "0197f0a0-0000-7000-8000-000000000001"
CONTENT = b"content" * 10_000


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path) as one:
        yield one


@pytest.fixture
def caller(machine: Machine) -> Iterator[Caller]:
    made = Caller(machine)
    with made.http:
        yield made


def object_of(caller: Caller) -> str:
    """A whole stored object."""
    made = caller.http.post("/v1/objects", json={"name": "kept", "content_type": "binary"}).json()
    assert httpx.put(made["upload_url"], content=CONTENT).status_code == 200
    assert caller.http.post(f"/v1/objects/{made['id']}/complete", json={}).status_code == 200
    return str(made["id"])


def content_of(caller: Caller, object_id: str) -> bytes:
    found = caller.http.get(f"/v1/objects/{object_id}/download").json()
    return httpx.get(found["download_url"]).content


def counted(machine: Machine, devbox_id: str, execution_id: str) -> list[str]:
    return (machine.data / "spool" / devbox_id / f"{execution_id}.stdout").read_text().splitlines()


def counts_on(machine: Machine, devbox_id: str, execution_id: str) -> None:
    """The command goes on to write, and nothing is missing in what it has written."""
    before, deadline = len(counted(machine, devbox_id, execution_id)), time.monotonic() + 20
    while len(now := counted(machine, devbox_id, execution_id)) < before + 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert now == [str(number) for number in range(len(now))]


def test_what_was_acknowledged_is_there_after_a_loss_of_power(machine: Machine, caller: Caller) -> None:
    running, asleep = caller.create(), caller.create()
    counting = caller.create(launch_parameters={"keep_memory": "always"})
    count = str(caller.post(f"/{counting}/execute_async", command=COUNT)["execution_id"])
    counts_on(machine, counting, count)
    done = caller.post(f"/{running}/execute", command="echo said; echo kept > file", command_id=COMMAND_ID)
    object_id = object_of(caller)
    caller.run(asleep, "echo kept > file")
    for devbox_id in (asleep, counting):
        caller.post(f"/{devbox_id}/suspend")
        caller.reach(devbox_id, "suspended")
    time.sleep(RELAXED_S + 0.5)
    snapshot = caller.snapshot(running)
    machine.lose_power()

    machine.boot()
    assert caller.reach(running, "failure")["reason"] == "host_restarted"
    found = caller.http.get(f"/v1/devboxes/{running}/executions/{done['execution_id']}").json()
    assert (found["status"], found["exit_status"], found["lost"]) == ("completed", 0, False)
    # Output is written to the disk when the kernel sees fit.
    assert found["stdout_truncated"] is (found["stdout"] != "said\n")
    assert content_of(caller, object_id) == CONTENT
    copy = caller.create(snapshot_id=snapshot["id"])
    assert caller.run(copy, "cat file") == "kept\n"
    for devbox_id in (asleep, counting):
        assert caller.http.get(f"/v1/devboxes/{devbox_id}").json()["status"] == "suspended"
        caller.post(f"/{devbox_id}/resume")
        assert caller.reach(devbox_id, "running")["memory_kept"] is True
    assert caller.run(asleep, "cat file") == "kept\n"
    counts_on(machine, counting, count)

    # Once more, with a suspend as the last word: what went on meanwhile is kept, and no disk of before is left.
    caller.run(counting, "echo again > file")
    caller.post(f"/{counting}/suspend")
    caller.reach(counting, "suspended")
    machine.lose_power()
    machine.boot()
    caller.post(f"/{counting}/resume")
    assert caller.reach(counting, "running")["memory_kept"] is True
    counts_on(machine, counting, count)
    assert caller.run(counting, "cat file") == "again\n"
    machine.shutdown_all()
    deadline = time.monotonic() + 20
    while left := list((machine.data / "pool").glob("[!.]*")):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
