"""`corral snapshot` and `corral devbox fork|tree|suspend|resume`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from corral_sdk import Corral, errors
from tests.harness.cli import Cli
from tests.harness.server import Server


@pytest.fixture
def corral(server: Server) -> Iterator[Corral]:
    with Corral(server.url, server.key) as client:
        yield client


def test_a_snapshot_is_made_listed_begun_as_and_deleted(cli: Cli, box: str) -> None:
    cli.out("devbox", "exec", box, "--", "echo kept > file")
    snapshot_id = cli.out("snapshot", "create", box, "--name", "prepared", "--message", "why").strip()
    assert snapshot_id.startswith("snp_")
    listed = cli.out("snapshot", "list", "--devbox", box)
    assert snapshot_id in listed
    assert "prepared" in listed
    copy = cli.out("devbox", "create", "--snapshot", snapshot_id).strip()
    assert cli.out("devbox", "exec", copy, "--", "cat file") == "kept\n"
    assert cli.out("snapshot", "delete", snapshot_id).strip() == snapshot_id
    assert json.loads(cli.out("snapshot", "list", "--devbox", box, "--json")) == []
    done = cli.run("devbox", "create", "--snapshot", snapshot_id)
    assert done.returncode == 1
    assert b"it is deleted" in done.stderr
    cli.out("devbox", "shutdown", copy)


def test_forks_and_their_tree(cli: Cli, box: str) -> None:
    cli.out("devbox", "exec", box, "--", "echo kept > file")
    children = cli.out("devbox", "fork", box, "--count", "2", "--name", "attempt").split()
    assert len(children) == 2
    for child in children:
        assert cli.out("devbox", "exec", child, "--", "cat file") == "kept\n"
    done = cli.run("devbox", "fork", children[0], "--keep-memory", "auto")
    leaf = done.stdout.decode().strip()
    without = f"{leaf} began as the disk alone: cannot keep memory of box {children[0]}: ".encode()
    assert (without in done.stderr) != cli.json("devbox", "show", leaf)["memory_kept"]
    lines = cli.out("devbox", "tree", leaf).splitlines()
    assert [line.split()[1] for line in lines] == [box, children[0], leaf, children[1]]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 2, 4, 2]
    assert lines[2].split()[0] == "*"
    assert [line.split()[3:] for line in lines[1:3]] == [["attempt"], ["attempt-fork"]]
    cli.out("devbox", "shutdown", leaf, *children)


def test_a_devbox_is_suspended_and_resumed(cli: Cli, box: str) -> None:
    cli.out("devbox", "exec", box, "--", "echo kept > file")
    assert cli.out("devbox", "suspend", box).strip() == box
    assert cli.json("devbox", "show", box)["status"] == "suspended"
    for these in ((), ("--status", "suspended")):
        assert box in cli.out("devbox", "list", *these)
    done = cli.run("devbox", "exec", box, "--", "true")
    assert done.returncode != 0
    assert b"it is suspended" in done.stderr
    assert cli.out("devbox", "resume", box).strip() == box
    assert cli.out("devbox", "exec", box, "--", "cat file") == "kept\n"


def test_a_resume_that_fails_is_told_with_its_reason(cli: Cli) -> None:
    command = ["--launch-command", "test ! -e marker && touch marker", "--keep-memory", "never"]
    box = cli.out("devbox", "create", *command).strip()
    cli.out("devbox", "suspend", box)
    done = cli.run("devbox", "resume", box)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"exited with code 1; its disk is kept" in done.stderr
    assert cli.json("devbox", "show", box)["reason"] == "launch_failed"
    cli.out("devbox", "shutdown", box)


def test_the_library_makes_snapshots_and_forks(corral: Corral) -> None:
    devbox = corral.devboxes.create()
    devbox.files.write("file", b"kept")
    snapshot = devbox.snapshot(name="one", metadata={"a": "b"})
    assert (snapshot.name, snapshot.status, snapshot.metadata, snapshot.devbox_id) == (
        *("one", "complete"),
        {"a": "b"},
        devbox.id,
    )
    assert [one.id for one in corral.snapshots.list(devbox_id=devbox.id)] == [snapshot.id]
    (child,) = devbox.fork()
    child.wait()
    copy = corral.devboxes.create(snapshot=snapshot.id)
    assert (child.files.read("file"), copy.files.read("file")) == (b"kept", b"kept")
    assert [(one.id, one.parent_id) for one in child.lineage()] == [
        (devbox.id, None),
        (child.id, devbox.id),
        (copy.id, devbox.id),
    ]
    corral.snapshots.delete(snapshot.id)
    with pytest.raises(errors.NotFound):
        corral.snapshots.delete("snp_none00000000000000000")
    for one in (child, copy, devbox):
        one.shutdown()
    with pytest.raises(errors.WrongState):
        devbox.snapshot()
