"""Devboxes whose disk is full: what they are told, and that all of it can still be kept, copied and mended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.caller import Caller
from tests.harness.cli import Cli
from tests.harness.server import Server

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(120)]

#: 2 GiB of disk.
SMALL = {
    "resource_size_request": "CUSTOM_SIZE",
    "custom_cpu_cores": 0.5,
    "custom_gb_memory": 1,
    "custom_disk_size": 2,
}
#: Takes all but a little, then fails in writing the rest.
FILL = "i=0; while fallocate -l 64M part$i 2>/dev/null; do i=$((i+1)); done; head -c 80M /dev/zero > last"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("full-disks")
    with Server(folder / "data", runtime="oci", env={"CORRAL_ALERTS_S": "0.3"}) as one:
        yield one


@pytest.fixture(scope="module")
def caller(server: Server) -> Iterator[Caller]:
    made = Caller(server)
    with made.http:
        yield made


@pytest.fixture(scope="module")
def full(caller: Caller) -> str:
    """A devbox whose disk is full."""
    devbox_id = caller.create(launch_parameters=SMALL)
    filled = caller.post(f"/{devbox_id}/execute_sync", command=FILL)
    assert filled["exit_status"] == 1, filled
    return devbox_id


def test_a_command_that_fails_for_want_of_disk_is_told_so(caller: Caller, full: str, tmp_path: Path) -> None:
    body = {"command": "echo x > more", "optimistic_timeout": 20}
    done = caller.post(f"/{full}/execute", **body)
    assert done["exit_status"] == 1, done
    assert "disk was full; remove files in the box" in done["message"]
    assert caller.logged(full, "while the box's disk was full")["source"] == "exec"
    assert caller.logged(full, "out of disk: ")["level"] == "error"
    shown = Cli(caller.server, tmp_path).run("devbox", "exec", full, "--", "echo x > more")
    assert (shown.returncode, b"disk was full" in shown.stderr) == (1, True), shown.stderr
    # Whatever does not fail has nothing to be told.
    fine = caller.post(f"/{full}/execute", command="echo fine", optimistic_timeout=20)
    assert (fine["stdout"], fine.get("message")) == ("fine\n", None)


def test_a_file_that_finds_no_room_is_refused_with_a_kind_of_its_own(caller: Caller, full: str) -> None:
    for path in ("more", "deep/er/more"):
        body = {"file_path": path, "contents": "x" * 100_000}
        answer = caller.http.post(f"/v1/devboxes/{full}/write_file_contents", json=body)
        assert (answer.status_code, answer.json()["kind"]) == (413, "out-of-disk"), answer.text
    upload = {"file": ("more", b"x" * 100_000)}
    answer = caller.http.post(f"/v1/devboxes/{full}/upload_file", data={"path": "more"}, files=upload)
    assert (answer.status_code, answer.json()["kind"]) == (413, "out-of-disk"), answer.text
    assert caller.run(full, "ls -d more* deep* || :") == ""


def test_a_full_disk_is_kept_copied_and_mended(caller: Caller, full: str) -> None:
    mark = "ls -s part0 part1 last"
    there = caller.run(full, mark)
    snapshot = caller.snapshot(full)
    assert snapshot["status"] == "complete"
    child = caller.post(f"/{full}/fork", count=1)["devboxes"][0]["id"]
    caller.reach(child, "running")
    copy = caller.create(snapshot_id=snapshot["id"], launch_parameters=SMALL)
    assert caller.run(copy, mark) == caller.run(child, mark) == there
    caller.post(f"/{copy}/shutdown")
    caller.post(f"/{child}/suspend")
    caller.reach(child, "suspended")
    caller.post(f"/{child}/resume")
    caller.reach(child, "running")
    assert caller.run(child, f"{mark} && hostname && rm part* last && sync && echo x > more") != ""
    assert caller.run(child, "cat more") == "x\n"
    caller.post(f"/{child}/shutdown")
    caller.post(f"/disk_snapshots/{snapshot['id']}/delete")


def test_a_launch_that_fills_the_disk_fails_with_that_reason(caller: Caller) -> None:
    devbox_id = caller.post("", launch_parameters={**SMALL, "launch_commands": [FILL]})["id"]
    view = caller.reach(devbox_id, "failure")
    assert (view["reason"], view["failure_reason"]) == ("out_of_disk", "out_of_disk")
    assert "launch command 1 exited with code 1 while the disk was full" in view["reason_message"]


def test_a_launch_that_fills_the_disk_at_a_resume_leaves_it_suspended(caller: Caller) -> None:
    once = f"if [ -e mark ]; then {FILL}; else touch mark; fi"
    devbox_id = caller.create(launch_parameters={**SMALL, "launch_commands": [once], "keep_memory": "never"})
    caller.post(f"/{devbox_id}/suspend")
    caller.reach(devbox_id, "suspended")
    caller.post(f"/{devbox_id}/resume")
    view = caller.reach(devbox_id, "suspended")
    assert view["reason"] == "out_of_disk", view
    caller.post(f"/{devbox_id}/shutdown")


def test_a_devbox_has_exactly_the_size_that_it_asks_for(caller: Caller) -> None:
    """As Harbor's tasks do, whose sizes no price list has rounded: 3 cores, and 1 GiB for each."""
    odd = {"custom_cpu_cores": 3, "custom_gb_memory": 3, "custom_disk_size": 1}
    devbox_id = caller.create(launch_parameters={"resource_size_request": "CUSTOM_SIZE", **odd})
    view = caller.http.get(f"/v1/devboxes/{devbox_id}").json()
    assert odd.items() <= view["launch_parameters"].items()
    limits = caller.http.get(f"/v1/devboxes/{devbox_id}/usage").json()["now"]["limits"]
    assert (limits["cpu"], limits["memory_bytes"], limits["disk_bytes"]) == (3, 3 << 30, 1 << 30)
    caller.run(devbox_id, "fallocate -l 900M most")
    over = caller.post(f"/{devbox_id}/execute_sync", command="fallocate -l 200M more")
    assert (over["exit_status"], "quota exceeded" in over["stderr"].lower() or "No space" in over["stderr"]) == (
        1,
        True,
    )
    caller.post(f"/{devbox_id}/shutdown")
