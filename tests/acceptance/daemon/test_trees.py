"""A disk is the same to the byte in all that is made of it: snapshots, forks, suspended and resumed devboxes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from corral.runtime.contract import GIB, Limits
from corral.runtime.oci.settings import OciSettings
from tests.harness import trees
from tests.harness.caller import Caller
from tests.harness.server import Server
from tests.integration.oci.conftest import GUEST, IMAGES, Bench

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(180)]

#: The folder is on another disk, which no copy has.
LISTING = "/dev/shm/listing"
#: Reads root's file with the capability of the program alone.
CAPABLE = "/srv/tree/attributes/reader /srv/tree/attributes/roots"


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    with Server(tmp_path_factory.mktemp("trees") / "data", runtime="oci") as server:
        made = Caller(server)
        with made.http:
            yield made


def listed(caller: Caller, devbox_id: str) -> list[str]:
    """All that is on the devbox's disk, a line each."""
    caller.post(f"/{devbox_id}/write_file_contents", file_path="/dev/shm/list.py", contents=trees.LIST)
    caller.run(devbox_id, f"sudo python3 -IB /dev/shm/list.py {LISTING}")
    answer = caller.http.post(f"/v1/devboxes/{devbox_id}/download_file", json={"path": LISTING})
    assert answer.status_code == 200, answer.text
    return answer.text.splitlines()


def difference(before: list[str], after: list[str]) -> list[str]:
    """What is not the same, a few lines of it."""
    return [line[:500] for line in difflib.unified_diff(before, after, lineterm="", n=0)][:20]


def test_every_copy_of_a_disk_is_the_disk_to_the_byte(caller: Caller) -> None:
    first = caller.create()
    caller.post(f"/{first}/write_file_contents", file_path="/dev/shm/build.py", contents=trees.BUILD)
    caller.run(first, "sudo python3 -IB /dev/shm/build.py")
    # A file that is open and has no name any more: no copy has it, and who has it open goes on.
    opened = "exec 3<> gone; echo still > gone; rm gone; until [ -e /dev/shm/go ]; do sleep 0.05; done; cat /dev/fd/3"
    reading = caller.post(f"/{first}/execute_async", command=opened)["execution_id"]
    caller.run(first, "until [ -e /proc/$(pgrep -of 'exec 3<> gone')/fd/3 ] && [ ! -e gone ]; do sleep 0.05; done")
    there = listed(caller, first)
    assert len(there) > 20_000
    for part in ("security.capability", "posix_acl_access", "posix_acl_default", r"\xff\xfe", r"two\n", "(80740352, "):
        assert any(part in line for line in there), part
    snapshot = caller.snapshot(first)["id"]
    forked = caller.post(f"/{first}/fork", count=1)["devboxes"][0]["id"]
    caller.reach(forked, "running")
    assert difference(there, listed(caller, first)) == []
    caller.run(first, "touch /dev/shm/go")
    done = caller.post(f"/{first}/executions/{reading}/wait_for_status", statuses=["completed"], timeout_seconds=20)
    assert done["stdout"] == "still\n"

    copy = caller.create(snapshot_id=snapshot)
    for each in (forked, copy):
        assert difference(there, listed(caller, each)) == []
        assert caller.run(each, CAPABLE) == "for root alone"
    # A copy of the copy, and one of it asleep; the first has gone meanwhile.
    caller.post(f"/{first}/shutdown")
    # It keeps no memory: what is compared are disks, and /run and /tmp of a box that goes on have been used.
    second = caller.create(snapshot_id=caller.snapshot(copy)["id"], launch_parameters={"keep_memory": "never"})
    caller.post(f"/{second}/suspend")
    caller.reach(second, "suspended")
    third = caller.create(snapshot_id=caller.snapshot(second)["id"])
    caller.post(f"/{second}/resume")
    caller.reach(second, "running")
    for each in (second, third):
        assert difference(there, listed(caller, each)) == []
        assert caller.run(each, CAPABLE) == "for root alone"
    # And one that is not the same is seen not to be: by a nanosecond, by a bit.
    caller.run(third, "cd /srv/tree && sudo touch -md @0.000000002 times/1 && sudo chmod g+x modes/755 modes/644")
    told = difference(there, listed(caller, third))
    changed = [line.split(",")[0] for line in told if line.startswith("+[")]
    assert changed == ["+[b'/srv/tree/modes/644'", "+[b'/srv/tree/times/1'"], told


async def test_a_copy_of_a_disk_in_a_file_is_the_disk_to_the_byte(tmp_path: Path) -> None:
    bench = Bench(OciSettings(data=tmp_path / "data", guest=GUEST, layer_roots=(IMAGES,), slots_ready=2, disk="image"))
    await bench.runtime.start()
    try:
        await bench.box("first", Limits(disk=GIB))
        script = f"cat > /dev/shm/build.py <<'END'\n{trees.BUILD}\nEND\npython3 -IB /dev/shm/build.py"
        built = await bench.sh("first", script, "root")
        assert built.code == 0, built.stderr
        listing = f"cat > /dev/shm/list.py <<'END'\n{trees.LIST}\nEND\npython3 -IB /dev/shm/list.py {LISTING}"
        listing += f" && sha256sum < {LISTING} && wc -l < {LISTING}"
        there = (await bench.sh("first", listing, "root")).stdout
        assert int(there.split()[2]) > 20_000
        await bench.runtime.snapshot("first", "snp_one")
        await bench.runtime.create(replace(bench.spec("copy", Limits(disk=GIB)), origin="snp_one"))
        assert (await bench.sh("copy", listing, "root")).stdout == there
        assert (await bench.sh("copy", CAPABLE)).stdout == "for root alone"
    finally:
        await bench.clear()
        await bench.runtime.close()
