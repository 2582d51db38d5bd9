"""Suspended devboxes whose processes go on when they are resumed, by the API, whatever happens to the server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.devboxes.model import copy_of
from tests.harness.caller import Caller
from tests.harness.server import Server

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(240)]

COUNT = "python3 -uc 'import time\nn = 0\nwhile True:\n  print(n); n += 1; time.sleep(0.02)'"
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("memory") / "data", runtime="oci") as one:
        yield one


@pytest.fixture
def caller(server: Server) -> Iterator[Caller]:
    made = Caller(server)
    with made.http:
        yield made


def view(caller: Caller, devbox_id: str) -> dict[str, Any]:
    found: dict[str, Any] = caller.http.get(f"/v1/devboxes/{devbox_id}").json()
    return found


def reaches(caller: Caller, devbox_id: str, *statuses: str) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while (found := view(caller, devbox_id))["status"] not in statuses:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def suspended(caller: Caller, devbox_id: str) -> dict[str, Any]:
    caller.post(f"/{devbox_id}/suspend")
    return reaches(caller, devbox_id, "suspended")


def resumed(caller: Caller, devbox_id: str) -> dict[str, Any]:
    caller.post(f"/{devbox_id}/resume")
    return reaches(caller, devbox_id, "running")


def counted(caller: Caller, devbox_id: str, execution_id: str) -> list[int]:
    done = caller.http.get(f"/v1/devboxes/{devbox_id}/executions/{execution_id}").json()
    assert done["status"] == "running", done
    # What it has said so far is told by streams only; the record behind them is plain bytes.
    spool = caller.server.data / "spool" / devbox_id / f"{execution_id}.stdout"
    return [int(line) for line in spool.read_text().splitlines()]


def counts_on(caller: Caller, devbox_id: str, execution_id: str) -> None:
    before, deadline = len(counted(caller, devbox_id, execution_id)), time.monotonic() + LIMIT_S
    while len(now := counted(caller, devbox_id, execution_id)) < before + 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert now == list(range(len(now)))


def counter(caller: Caller, **parameters: Any) -> tuple[str, str]:
    devbox_id = caller.create(launch_parameters=parameters, entrypoint="echo once >> log; sleep 3600")
    execution_id = str(caller.post(f"/{devbox_id}/execute_async", command=COUNT)["execution_id"])
    counts_on(caller, devbox_id, execution_id)
    return devbox_id, execution_id


def test_a_suspended_devbox_goes_on_where_it_stood(caller: Caller, server: Server) -> None:
    devbox_id, execution_id = counter(caller, keep_memory="always")
    assert "memory_kept" not in view(caller, devbox_id)
    for kill in (False, True):
        found = suspended(caller, devbox_id)
        assert (found["memory_kept"], found.get("memory_message")) == (True, None)
        if kill:
            server.kill9()
            server.start()
        assert counted(caller, devbox_id, execution_id)
        assert resumed(caller, devbox_id)["memory_kept"] is True
        counts_on(caller, devbox_id, execution_id)
    # Its launch went on, and was not begun again.
    assert caller.run(devbox_id, "cat log") == "once\n"
    assert not (server.data / "memory" / copy_of(devbox_id)).exists()
    caller.post(f"/{devbox_id}/shutdown")


SERVE = "python3 -m http.server --directory /tmp 8000"
#: The host's name and the box's address, and whether its server answers there.
WHO = "hostname; hostname -I; python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:8000\").status)'"


def executions(caller: Caller, devbox_id: str) -> dict[str, str]:
    """Ids of the devbox's running executions, by those that they are copies of."""
    found = caller.http.get(f"/v1/devboxes/{devbox_id}/executions").json()["executions"]
    return {one["parent_id"]: one["execution_id"] for one in found if one["status"] == "running"}


def test_forks_go_on_with_the_processes_each_by_itself(caller: Caller, server: Server) -> None:
    parent, count = counter(caller)
    caller.post(f"/{parent}/execute_async", command=SERVE)
    caller.run(parent, "until (: < /dev/tcp/127.0.0.1/8000) 2> /dev/null; do sleep 0.05; done")
    children = [one["id"] for one in caller.post(f"/{parent}/fork", count=2, keep_memory="always")["devboxes"]]
    counts: dict[str, str] = {parent: count}
    for child in children:
        found = reaches(caller, child, "running")
        assert (found["memory_kept"], found["parent_id"]) == (True, parent)
        counts[child] = executions(caller, child)[count]
    assert len(set(counts.values())) == 3
    for kill in (False, True):
        if kill:
            server.kill9()
            server.start()
        for devbox_id, execution_id in counts.items():
            counts_on(caller, devbox_id, execution_id)
    seen = [caller.run(devbox_id, WHO).split() for devbox_id in counts]
    assert [one[-1] for one in seen] == ["200"] * 3
    assert len({one[0] for one in seen}) == len({one[1] for one in seen}) == 3
    # The entrypoint goes on too, and was not begun again; a fork ends with its own.
    assert caller.run(children[0], "cat log; pkill sleep") == "once\n"
    assert reaches(caller, children[0], "shutdown", "failure")["reason"] == "entrypoint_exit"
    counts_on(caller, parent, count)
    # Nobody gets memory who does not ask for it.
    plain = caller.post(f"/{parent}/fork")["devboxes"][0]["id"]
    assert "memory_kept" not in reaches(caller, plain, "running")
    assert caller.run(plain, "pgrep -x python3 || echo none") == "none\n"
    for devbox_id in (*counts, plain):
        caller.post(f"/{devbox_id}/shutdown")
    deadline = time.monotonic() + LIMIT_S
    while list((server.data / "memory").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_suspended_devbox_goes_on_in_forks_and_as_itself(caller: Caller, server: Server) -> None:
    parent, count = counter(caller, keep_memory="always")
    caller.post(f"/{parent}/suspend")
    assert reaches(caller, parent, "suspended")["memory_kept"]
    forked = caller.post(f"/{parent}/fork", count=2, keep_memory="always")["devboxes"]
    counts = {}
    for child in (one["id"] for one in forked):
        assert reaches(caller, child, "running")["memory_kept"]
        counts[child] = executions(caller, child)[count]
        counts_on(caller, child, counts[child])
    assert reaches(caller, parent, "suspended")["memory_kept"]
    caller.post(f"/{parent}/resume")
    reaches(caller, parent, "running")
    for devbox_id, execution_id in {**counts, parent: count}.items():
        counts_on(caller, devbox_id, execution_id)
        caller.post(f"/{devbox_id}/shutdown")
    deadline = time.monotonic() + LIMIT_S
    while list((server.data / "memory").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.6])
def test_a_killed_server_leaves_a_devbox_running_or_suspended(caller: Caller, server: Server, delay: float) -> None:
    devbox_id, execution_id = counter(caller, keep_memory="always")
    caller.post(f"/{devbox_id}/suspend")
    time.sleep(delay)
    server.kill9()
    server.start()
    found = reaches(caller, devbox_id, "suspended")
    assert found["memory_kept"] is True
    caller.post(f"/{devbox_id}/resume")
    time.sleep(delay)
    server.kill9()
    server.start()
    assert reaches(caller, devbox_id, "running")["memory_kept"] is True
    counts_on(caller, devbox_id, execution_id)
    caller.post(f"/{devbox_id}/shutdown")
    deadline = time.monotonic() + LIMIT_S
    while (server.data / "memory" / copy_of(devbox_id)).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_where_memory_cannot_be_kept_the_devbox_says_so(tmp_path: Path) -> None:
    old = tmp_path / "bin" / "criu"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho Version: 3.17.1\n")
    old.chmod(0o755)
    env = {"CORRAL_CRIU": str(tmp_path), "PATH": f"{old.parent}:{os.environ['PATH']}"}
    with Server(tmp_path / "data", runtime="oci", env=env) as bare:
        caller = Caller(bare)
        with caller.http:
            devbox_id, execution_id = counter(caller)
            found = suspended(caller, devbox_id)
            assert found["memory_kept"] is False
            assert found["memory_message"].startswith(f"cannot keep memory of box {devbox_id}: criu 3.17.1 is too old")
            found = resumed(caller, devbox_id)
            assert found["memory_kept"] is False
            path = f"/v1/devboxes/{devbox_id}/executions/{execution_id}"
            assert caller.http.get(path).json()["status"] == "completed"
            strict, strict_execution = counter(caller, keep_memory="always")
            caller.post(f"/{strict}/suspend")
            time.sleep(0.1)
            found = reaches(caller, strict, "running")
            assert found["reason_message"].startswith("not suspended: cannot keep memory")
            counts_on(caller, strict, strict_execution)
            never, _ = counter(caller, keep_memory="never")
            found = suspended(caller, never)
            assert (found["memory_kept"], found["memory_message"]) == (False, "keep_memory is never")
