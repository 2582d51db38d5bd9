"""Snapshots as records: their states, who may use them, and what a killed server leaves of them."""

from __future__ import annotations

import asyncio

import pytest

from corral.core import errors
from corral.devboxes.model import DevboxRequest, Observed, Reason
from corral.images.model import Snapshot, SnapshotStatus, SnapshotWish
from corral.runtime.contract import HostExhausted
from corral.runtime.fake import FakeHost
from tests.integration.devboxes.stack import ACCOUNT, Stack

OTHER = "acc_other"


async def taken(stack: Stack, devbox_id: str, **wish: object) -> Snapshot:
    snapshot = await stack.snapshots.take(ACCOUNT, devbox_id, SnapshotWish(**wish))  # type: ignore[arg-type]
    assert snapshot.status is SnapshotStatus.IN_PROGRESS
    return await stack.snapshots.wait(ACCOUNT, snapshot.id, 10)


async def test_a_devbox_begins_as_a_snapshot_of_another(stack: Stack) -> None:
    first = await stack.running()
    await stack.run(first, "echo kept > file")
    snapshot = await taken(stack, first, name="one", commit_message="why", metadata={"a": "b"})
    assert (snapshot.status, snapshot.message) == (SnapshotStatus.COMPLETE, "")
    assert snapshot.wish == SnapshotWish("one", "why", {"a": "b"})
    assert snapshot.size > 0
    await stack.devboxes.shutdown(ACCOUNT, first)
    second = await stack.running(snapshot_id=snapshot.id)
    assert stack.stdout(await stack.run(second, "cat file")) == "kept\n"
    again = await taken(stack, second)
    third = await stack.running(snapshot_id=again.id)
    assert stack.stdout(await stack.run(third, "cat file")) == "kept\n"


async def test_what_cannot_be_used_is_refused(stack: Stack) -> None:
    devbox_id = await stack.running()
    snapshot = await taken(stack, devbox_id)
    for account, snapshot_id in ((ACCOUNT, "snp_none"), (OTHER, snapshot.id)):
        with pytest.raises(errors.NotFound):
            await stack.devboxes.create(account, DevboxRequest(snapshot_id=snapshot_id))
        with pytest.raises(errors.NotFound):
            await stack.snapshots.get(account, snapshot_id)
        with pytest.raises(errors.NotFound):
            await stack.snapshots.delete(account, snapshot_id)
    with pytest.raises(errors.NotFound):
        await stack.snapshots.take(OTHER, devbox_id, SnapshotWish())
    await stack.snapshots.delete(ACCOUNT, snapshot.id)
    with pytest.raises(errors.WrongState, match="it is deleted"):
        await stack.devboxes.create(ACCOUNT, DevboxRequest(snapshot_id=snapshot.id))
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    with pytest.raises(errors.WrongState, match="not running"):
        await stack.snapshots.take(ACCOUNT, devbox_id, SnapshotWish())


async def test_a_deleted_snapshot_leaves_the_host_and_the_lists(stack: Stack) -> None:
    devbox_id = await stack.running()
    snapshots = [await taken(stack, devbox_id, metadata={"n": str(number)}) for number in range(3)]
    copy = await stack.running(snapshot_id=snapshots[1].id)
    await stack.snapshots.delete(ACCOUNT, snapshots[1].id)
    await stack.snapshots.delete(ACCOUNT, snapshots[1].id)
    await stack.until(lambda: set(stack.host.snapshots()) == {snapshots[0].id, snapshots[2].id})
    page = await stack.snapshots.list(ACCOUNT)
    assert [one.id for one in page.items] == [snapshots[2].id, snapshots[0].id]
    assert (await stack.snapshots.get(ACCOUNT, snapshots[1].id)).status is SnapshotStatus.DELETED
    assert (await stack.run(copy, "true")).exit_code == 0


async def test_lists_are_filtered_and_paged(stack: Stack) -> None:
    boxes = [await stack.running(), await stack.running()]
    made = [await taken(stack, boxes[number % 2], metadata={"n": str(number)}) for number in range(5)]
    newest = [one.id for one in reversed(made)]
    first = await stack.snapshots.list(ACCOUNT, limit=2)
    assert ([one.id for one in first.items], first.has_more, first.total) == (newest[:2], True, 5)
    rest = await stack.snapshots.list(ACCOUNT, limit=5, starting_after=newest[1], count=False)
    assert ([one.id for one in rest.items], rest.has_more, rest.total) == (newest[2:], False, None)
    of_one = await stack.snapshots.list(ACCOUNT, devbox_id=boxes[1])
    assert [one.id for one in of_one.items] == [made[3].id, made[1].id]
    some = await stack.snapshots.list(ACCOUNT, metadata={"n": ["0", "4", "9"]})
    assert [one.id for one in some.items] == [made[4].id, made[0].id]
    assert await stack.snapshots.metadata_keys(ACCOUNT) == ["n"]
    assert await stack.snapshots.metadata_values(ACCOUNT, "n") == ["0", "1", "2", "3", "4"]
    await stack.snapshots.update(ACCOUNT, made[0].id, {"metadata": {"m": "x"}, "name": "new"})
    assert (await stack.snapshots.get(ACCOUNT, made[0].id)).wish == SnapshotWish("new", None, {"m": "x"})
    assert await stack.snapshots.metadata_values(ACCOUNT, "n") == ["1", "2", "3", "4"]


async def test_a_copy_that_fails_says_why_and_leaves_nothing(stack: Stack) -> None:
    devbox_id = await stack.running()
    stack.host.fail("snapshot", HostExhausted("cannot snapshot box: the disk is full"))
    snapshot = await taken(stack, devbox_id)
    assert (snapshot.status, snapshot.message) == (
        SnapshotStatus.ERROR,
        "cannot snapshot box: the disk is full",
    )
    assert (await stack.snapshots.list(ACCOUNT)).items == ()
    with pytest.raises(errors.Conflict, match="it is error"):
        await stack.snapshots.delete(ACCOUNT, snapshot.id)
    assert (await taken(stack, devbox_id)).status is SnapshotStatus.COMPLETE


async def test_a_devbox_that_is_copied_is_shut_down_only_by_force(stack: Stack) -> None:
    devbox_id = await stack.running()
    with stack.host.held("snapshot"):
        snapshot = await stack.snapshots.take(ACCOUNT, devbox_id, SnapshotWish())
        with pytest.raises(errors.Conflict, match="force"):
            await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    assert (await stack.snapshots.wait(ACCOUNT, snapshot.id, 10)).status is SnapshotStatus.COMPLETE
    with stack.host.held("snapshot"):
        await stack.snapshots.take(ACCOUNT, devbox_id, SnapshotWish())
        assert (await stack.devboxes.shutdown(ACCOUNT, devbox_id, force=True)).observed is Observed.SHUTDOWN


async def test_a_snapshot_that_was_cut_off_is_made_by_the_next_server(cold: Stack) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    await stack.run(devbox_id, "echo kept > file")
    with stack.host.held("snapshot"):
        snapshot = await stack.snapshots.take(ACCOUNT, devbox_id, SnapshotWish())
        await asyncio.sleep(0.1)
        await stack.stop()
    # As a server leaves it that dies between the copy and the row.
    cold.host.snapshot(devbox_id, snapshot.id)
    stack = await cold.start()
    assert (await stack.snapshots.wait(ACCOUNT, snapshot.id, 10)).status is SnapshotStatus.COMPLETE
    copy = await stack.running(snapshot_id=snapshot.id)
    assert stack.stdout(await stack.run(copy, "cat file")) == "kept\n"
    await stack.stop()


async def test_a_copy_of_no_row_and_one_of_a_deleted_row_are_removed(cold: Stack, host: FakeHost) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    snapshot = await taken(stack, devbox_id)
    with host.held("forget_snapshot"):
        await stack.snapshots.delete(ACCOUNT, snapshot.id)
        await asyncio.sleep(0.1)
        await stack.stop()
    host.snapshot(devbox_id, "snp_nobodys")
    stack = await cold.start()
    await stack.until(lambda: host.snapshots() == [])
    await stack.stop()


async def test_a_devbox_whose_snapshot_is_gone_fails_at_once(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    snapshot = await taken(stack, devbox_id)
    host.forget_snapshot(snapshot.id)
    devbox = await stack.devboxes.create(ACCOUNT, DevboxRequest(snapshot_id=snapshot.id))
    ended = await stack.reaches(devbox.id, Observed.FAILURE)
    assert ended.reason is Reason.START_FAILED
    assert "there is none" in ended.message


async def test_forks_begin_as_their_parents_disk_and_are_their_own(stack: Stack, host: FakeHost) -> None:
    parent = await stack.running(
        name="parent", metadata={"a": "b"}, env={"WHOSE": "parent"}, launch_commands=("echo launched >> log",)
    )
    await stack.run(parent, "echo kept > file")
    children = await stack.devboxes.fork(ACCOUNT, parent, 3)
    assert {(one.request.name, one.parent_id) for one in children} == {("parent", parent)}
    for child in children:
        await stack.reaches(child.id, Observed.RUNNING)
        done = await stack.run(child.id, "cat file log; echo $WHOSE; echo mine > file")
        assert stack.stdout(done) == "kept\nlaunched\nparent\n"
    assert stack.stdout(await stack.run(parent, "cat file")) == "kept\n"
    # What they were copied from is nobody's business, and goes.
    assert (await stack.snapshots.list(ACCOUNT)).items == ()
    await stack.until(lambda: host.snapshots() == [])


async def test_a_fork_of_what_does_not_run_is_refused_and_makes_nothing(stack: Stack) -> None:
    devbox_id = await stack.running()
    with pytest.raises(errors.NotFound):
        await stack.devboxes.fork(OTHER, devbox_id, 1)
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    with pytest.raises(errors.WrongState, match="cannot fork"):
        await stack.devboxes.fork(ACCOUNT, devbox_id, 1)
    assert (await stack.devboxes.list(ACCOUNT)).total == 1


async def test_a_fork_whose_copy_fails_says_why(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    host.fail("snapshot", HostExhausted("cannot snapshot box: the disk is full"))
    for child in await stack.devboxes.fork(ACCOUNT, devbox_id, 2):
        ended = await stack.reaches(child.id, Observed.FAILURE)
        assert (ended.reason, "the disk is full" in ended.message) == (Reason.START_FAILED, True)


async def test_a_fork_that_was_cut_off_goes_on_with_the_next_server(cold: Stack, host: FakeHost) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    await stack.run(devbox_id, "echo kept > file")
    with host.held("snapshot"):
        children = await stack.devboxes.fork(ACCOUNT, devbox_id, 2)
        await asyncio.sleep(0.1)
        await stack.stop()
    stack = await cold.start()
    for child in children:
        await stack.reaches(child.id, Observed.RUNNING)
        assert stack.stdout(await stack.run(child.id, "cat file")) == "kept\n"
    await stack.until(lambda: host.snapshots() == [])
    await stack.stop()


async def test_the_tree_of_forks_is_listed_from_any_of_them(stack: Stack) -> None:
    root = await stack.running(name="root")
    one, two = [child.id for child in await stack.devboxes.fork(ACCOUNT, root, 2, name="child")]
    await stack.reaches(one, Observed.RUNNING)
    leaf = (await stack.devboxes.fork(ACCOUNT, one, 1, name="leaf"))[0].id
    await stack.reaches(leaf, Observed.RUNNING)
    snapshot = await taken(stack, leaf)
    last = await stack.running(snapshot_id=snapshot.id)
    expected = [(root, None), (one, root), (two, root), (leaf, one), (last, leaf)]
    for devbox_id in (root, two, last):
        found = await stack.devboxes.lineage(ACCOUNT, devbox_id)
        assert [(each.id, each.parent_id) for each in found] == expected
    with pytest.raises(errors.NotFound):
        await stack.devboxes.lineage(OTHER, root)
