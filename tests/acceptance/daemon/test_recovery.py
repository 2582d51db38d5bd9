"""A machine is lost: what was copied to the object store begins devboxes on another one, to the byte."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral_sdk import Corral, errors
from tests.harness.cli import Cli
from tests.harness.server import Server

pytestmark = [pytest.mark.root, pytest.mark.image, pytest.mark.timeout(240)]

#: A tree with all that a disk can hold, and what is listed of one.
MAKE = r"""
set -e
mkdir -p ~/tree/deep && cd ~/tree
head -c 3000000 /dev/urandom > big && ln big hard && ln -s ../tree/big soft && mkfifo pipe
truncate -s 50M sparse && echo end >> sparse && touch -d 2001-02-03T04:05:06.123456789 old && chmod 2750 deep
sudo -n sh -c 'cd /opt && mkdir made && echo root > made/file && chown 1234:5678 made/file && chmod 4711 made/file'
sudo -n python3 -c "import os; os.setxattr('/opt/made/file', 'user.mark', b'kept')"
sudo -n rm -rf /usr/share/doc/bash
"""
LIST = r"""
cd / && sudo -n find home/user/tree opt/made usr/share/doc/ba* -xdev -printf '%p %y %m %u %g %T@ %n %s %l\n' | sort
cd ~/tree && find . -type f -exec sha256sum {} + | sort; test big -ef hard && echo linked
test $(stat -c %b sparse) -lt 1000 && echo sparse; echo $WHOSE
sudo -n python3 -c "import os; print(os.getxattr('/opt/made/file', 'user.mark'))"
"""


@dataclass
class Node:
    """A server on a data folder of its own, and its client."""

    server: Server
    corral: Corral
    cli: Cli

    @property
    def account(self) -> str:
        return str(httpx.get(f"{self.server.url}/v1/accounts/me", headers=self.server.headers).json()["id"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all servers' object store, which has the layers after the first of them, and of their key."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "key").write_text("k" * 43)
    return folder


@pytest.fixture
def node(tmp_path: Path, shared: Path) -> Iterator[Callable[..., Node]]:
    """Start a server by name, with more settings."""
    running: list[Node] = []

    def start(name: str, **settings: str) -> Node:
        env = {"CORRAL_OBJECTS": str(shared / "objects"), "CORRAL_REMOTE_KEY": str(shared / "key"), **settings}
        server = Server(tmp_path / name / "data", runtime="oci", env=env)
        (tmp_path / name).mkdir()
        server.start()
        one = Node(server, Corral(server.url, server.key), Cli(server, tmp_path / name))
        running.append(one)
        return one

    yield start
    for one in running:
        one.corral.close()
        one.server.close()


def until(holds: Callable[[], Any], within_s: float = 60) -> Any:
    """What `holds` gives once it is true."""
    end = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


def test_a_lost_machines_devbox_goes_on_at_another_one(node: Callable[..., Node]) -> None:
    first = node("first")
    lost = first.corral.devboxes.create(
        name="worker", env={"WHOSE": "mine"}, cpu=0.5, memory=1, disk=2, metadata={"a": "b"}
    )
    assert lost.exec(MAKE).exit_code == 0
    whole = first.cli.out("snapshot", "push", lost.id).strip()
    lost.exec("head -c 20000000 /dev/urandom > ~/tree/deep/more; rm ~/tree/soft; mv ~/tree/big ~/tree/deep/")
    lost.exec("ln ~/tree/deep/big ~/tree/big")
    part = first.corral.snapshots.push(lost.snapshot().id)
    assert part.parent_id == whole
    assert part.stored is not None
    assert 20_000_000 < part.stored < 22_000_000
    wanted = lost.exec(LIST).stdout
    assert "linked\nsparse\nmine\nb'kept'" in wanted

    second = node("second", CORRAL_REMOTE_RECOVERS=first.account)
    first.server.kill9()
    assert part.id in second.cli.out("snapshot", "list", "--remote")
    restored = second.cli.out("devbox", "restore", lost.id).strip()
    devbox = second.corral.devboxes.get(restored)
    assert devbox.exec(LIST).stdout == wanted
    assert (devbox.info.name, dict(devbox.info.metadata)) == ("worker", {"a": "b"})
    assert devbox.info.launch_parameters["custom_disk_size"] == 2
    # What was received can be sent from here, and the copy that others need stays until they go.
    again = second.corral.snapshots.push(devbox.snapshot().id)
    assert again.parent_id is None
    with pytest.raises(errors.Conflict, match="a difference from it"):
        second.corral.snapshots.delete_remote(whole)
    for copy in (part.id, whole):
        second.corral.snapshots.delete_remote(copy)
    assert [info.id for info in second.corral.snapshots.remote()] == [again.id]
    first.server.start()


def test_a_copy_that_was_changed_is_not_believed(node: Callable[..., Node], shared: Path) -> None:
    one = node("one")
    devbox = one.corral.devboxes.create()
    devbox.exec("head -c 10000000 /dev/urandom > ~/file")
    snapshot = devbox.snapshot()
    shown = json.loads(one.cli.out("snapshot", "push", snapshot.id, "--json"))
    (copy,) = one.corral.snapshots.remote()
    assert (copy.id, copy.status, copy.devbox_id) == (shown["id"], "complete", devbox.id)
    folder = shared / "objects" / "remote" / one.account / copy.id
    stream, manifest = folder / "stream", folder / "manifest"
    kept = stream.read_bytes()
    harms: dict[str, Callable[[], object]] = {
        "part 1 is not what was sent": lambda: stream.write_bytes(kept[:5_000_000] + b"\0" + kept[5_000_001:]),
        "its stream was cut": lambda: stream.write_bytes(kept[: 4 * 1024 * 1024]),
        "its stream is gone": stream.unlink,
    }
    for message, harm in harms.items():
        harm()
        with pytest.raises(errors.WrongState, match=message):
            one.corral.snapshots.pull(copy.id)
        stream.write_bytes(kept)
    told = manifest.read_bytes()
    manifest.write_bytes(told[:40] + bytes([told[40] ^ 1]) + told[41:])
    with pytest.raises(errors.WrongState, match="is not signed with this server's remote key"):
        one.corral.snapshots.pull(copy.id)
    other = folder.with_name(copy.id[:-3] + "abc")
    manifest.write_bytes(told)
    shutil.copytree(folder, other)
    with pytest.raises(errors.WrongState, match="its manifest is of another one"):
        one.corral.snapshots.pull(other.name)
    # Nothing of it is on the host, and what was not changed is received.
    pool = one.server.data / "pool"
    assert [path.name for path in (pool / ".snapshots").iterdir()] == [snapshot.id]
    assert list((pool / ".receiving").iterdir()) == []
    assert one.corral.snapshots.pull(copy.id).status == "complete"


def test_a_devbox_that_asks_for_it_is_copied_again_and_again(node: Callable[..., Node]) -> None:
    one = node("one")
    devbox = one.corral.devboxes.create(snapshot_every=10)
    devbox.exec("echo kept > ~/file")
    # The second is a difference from the first; of snapshots there is one at a time, or two.
    until(lambda: any(info.parent_id and info.status == "complete" for info in one.corral.snapshots.remote()), 120)
    assert len([*one.corral.snapshots.list()]) <= 2
    one.server.kill9()
    one.server.start()
    devbox.shutdown()
    until(lambda: not [*one.corral.snapshots.list()])
    devbox = one.corral.devboxes.get(one.cli.out("devbox", "restore", devbox.id).strip())
    assert devbox.exec("cat ~/file").stdout == "kept\n"


def test_a_killed_server_ends_what_it_began(node: Callable[..., Node], shared: Path) -> None:
    one = node("one")
    devbox = one.corral.devboxes.create()
    devbox.exec("head -c 200000000 /dev/urandom > ~/file; sha256sum ~/file > ~/sum")
    snapshot = devbox.snapshot()
    copy = one.corral.snapshots.push(snapshot.id, wait=False)
    until(lambda: [*(shared / "objects" / "remote").rglob(f"{copy.id}/stream#*")])
    one.server.kill9()
    one.server.start()
    assert one.corral.snapshots.push(snapshot.id).id == copy.id
    assert [*(shared / "objects").rglob("*#*")] == []
    pulled = one.corral.snapshots.pull(copy.id, wait=False)
    until(lambda: [*(one.server.data / "pool" / ".receiving").glob("*/*")])
    one.server.kill9()
    one.server.start()
    assert one.corral.snapshots.get(pulled.id).status == "complete"
    assert [*(one.server.data / "pool" / ".receiving").iterdir()] == []
    again = one.corral.devboxes.create(snapshot=pulled.id)
    assert again.exec("sha256sum -c ~/sum").stdout.endswith("OK\n")


def test_a_server_without_a_place_for_copies_says_so(tmp_path: Path) -> None:
    with Server(tmp_path / "data", runtime="fake") as server, Corral(server.url, server.key) as corral:
        with pytest.raises(errors.NotOffered, match="snapshot_every"):
            corral.devboxes.create(snapshot_every=60)
        with pytest.raises(errors.NotOffered, match="CORRAL_OBJECTS"):
            corral.snapshots.remote()
