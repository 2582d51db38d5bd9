"""A suspended devbox has a disk and nothing else; resumed it goes on with it, whatever happens to the server."""

from __future__ import annotations

import asyncio

import pytest

from corral.core import errors
from corral.devboxes.model import DevboxRequest, ExecutionStatus, Observed, Reason, copy_of
from corral.images.model import SnapshotStatus, SnapshotWish
from corral.runtime.contract import BoxGone, HostExhausted, HostUnfit
from corral.runtime.fake import FakeHost
from tests.integration.devboxes.stack import ACCOUNT, Stack


async def suspended(stack: Stack, devbox_id: str) -> None:
    devbox = await stack.devboxes.suspend(ACCOUNT, devbox_id)
    assert devbox.observed is Observed.SUSPENDING
    await stack.reaches(devbox_id, Observed.SUSPENDED)


async def resumed(stack: Stack, devbox_id: str) -> None:
    devbox = await stack.devboxes.resume(ACCOUNT, devbox_id)
    assert devbox.observed is Observed.PROVISIONING
    await stack.reaches(devbox_id, Observed.RUNNING)


async def test_a_disk_outlives_its_box_and_nothing_else_does(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running(env={"A": "b"})
    await stack.run(devbox_id, "echo kept > file")
    running = await stack.executions.start(ACCOUNT, devbox_id, "sleep 600")
    await suspended(stack, devbox_id)
    assert not host.boxes
    ended = await stack.completed(running)
    assert (ended.status, ended.lost) == (ExecutionStatus.COMPLETED, True)
    with pytest.raises(errors.WrongState, match="it is suspended"):
        await stack.executions.start(ACCOUNT, devbox_id, "true")
    await resumed(stack, devbox_id)
    assert stack.stdout(await stack.run(devbox_id, "cat file; echo $A; echo more >> file")) == "kept\nb\n"
    await stack.until(lambda: host.snapshots() == [])
    await suspended(stack, devbox_id)
    await resumed(stack, devbox_id)
    assert stack.stdout(await stack.run(devbox_id, "cat file")) == "kept\nmore\n"


async def test_repeats_are_harmless_and_wrong_states_are_told(stack: Stack) -> None:
    devbox_id = await stack.running()
    with pytest.raises(errors.WrongState, match="cannot resume"):
        await stack.devboxes.resume(ACCOUNT, devbox_id)
    await suspended(stack, devbox_id)
    assert (await stack.devboxes.suspend(ACCOUNT, devbox_id)).observed is Observed.SUSPENDED
    await resumed(stack, devbox_id)
    assert (await stack.devboxes.resume(ACCOUNT, devbox_id)).observed is Observed.RUNNING
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    for wish in (stack.devboxes.suspend, stack.devboxes.resume):
        with pytest.raises(errors.WrongState, match="it is shutdown"):
            await wish(ACCOUNT, devbox_id)
        with pytest.raises(errors.NotFound):
            await wish("acc_other", devbox_id)


async def test_a_suspended_devbox_is_shut_down_with_all_that_it_has(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    await suspended(stack, devbox_id)
    assert host.snapshots() == [copy_of(devbox_id)]
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    await stack.until(lambda: host.snapshots() == [])


async def test_launch_commands_and_the_entrypoint_run_at_each_start(stack: Stack) -> None:
    devbox_id = await stack.running(
        launch_commands=("echo launch >> log",), entrypoint="echo entry >> log; sleep 600", files={"given": "first"}
    )
    await stack.until(lambda: _logged(stack, devbox_id, "launch\nentry\n"))
    await stack.run(devbox_id, "echo changed > given")
    await suspended(stack, devbox_id)
    await resumed(stack, devbox_id)
    await stack.until(lambda: _logged(stack, devbox_id, "launch\nentry\n" * 2))
    # A file that it was given once is its own.
    assert await stack.files.read_text(ACCOUNT, devbox_id, "given") == "changed\n"
    assert (await stack.devboxes.get(ACCOUNT, devbox_id)).observed is Observed.RUNNING


async def _logged(stack: Stack, devbox_id: str, text: str) -> bool:
    return await stack.files.read_text(ACCOUNT, devbox_id, "log") == text


async def test_last_commands_run_in_order_and_hold_nothing_up(stack: Stack) -> None:
    devbox_id = await stack.running(
        suspend_commands=("echo one >> log", "echo two >> log; exit 3", "echo three >> log"), suspend_limit_s=20
    )
    for times in (1, 2):
        await suspended(stack, devbox_id)
        await resumed(stack, devbox_id)
        assert await _logged(stack, devbox_id, "one\ntwo\nthree\n" * times)
    slow = await stack.running(suspend_commands=("sleep 600",), suspend_limit_s=0.3)
    await suspended(stack, slow)


async def test_an_idle_devbox_is_suspended_where_it_asked_for_that(stack: Stack) -> None:
    devbox_id = await stack.running(idle_s=1, idle_suspends=True)
    devbox = await stack.reaches(devbox_id, Observed.SUSPENDED)
    assert devbox.reason is Reason.IDLE
    await resumed(stack, devbox_id)


async def test_a_devbox_that_cannot_be_suspended_goes_on_and_says_why(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    host.fail("snapshot", HostExhausted("cannot snapshot box: the disk is full"))
    await stack.devboxes.suspend(ACCOUNT, devbox_id)
    devbox = await stack.reaches(devbox_id, Observed.RUNNING)
    assert devbox.message == "not suspended: cannot snapshot box: the disk is full"
    assert (await stack.run(devbox_id, "true")).exit_code == 0
    await suspended(stack, devbox_id)


async def test_a_devbox_that_cannot_be_resumed_keeps_its_disk(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    await stack.run(devbox_id, "echo kept > file")
    await suspended(stack, devbox_id)
    host.fail("create", HostUnfit("cannot create box: no more addresses", remedy="free some"))
    await stack.devboxes.resume(ACCOUNT, devbox_id)
    devbox = await stack.reaches(devbox_id, Observed.SUSPENDED)
    assert (devbox.reason, "no more addresses" in devbox.message) == (Reason.START_FAILED, True)
    await resumed(stack, devbox_id)
    assert await stack.files.read_text(ACCOUNT, devbox_id, "file") == "kept\n"


async def test_a_launch_that_fails_at_a_resume_costs_no_disk(stack: Stack) -> None:
    devbox_id = await stack.running(launch_commands=("test ! -e marker && touch marker",))
    await stack.run(devbox_id, "echo kept > file")
    await suspended(stack, devbox_id)
    await stack.devboxes.resume(ACCOUNT, devbox_id)
    devbox = await stack.reaches(devbox_id, Observed.SUSPENDED)
    assert (devbox.reason, "exited with code 1" in devbox.message) == (Reason.LAUNCH_FAILED, True)
    (child,) = await stack.devboxes.fork(ACCOUNT, devbox_id, 1)
    await stack.reaches(child.id, Observed.RUNNING)
    assert await stack.files.read_text(ACCOUNT, child.id, "file") == "kept\n"


@pytest.mark.parametrize("call", ["snapshot", "destroy"])
async def test_a_suspend_that_was_cut_off_is_done_by_the_next_server(cold: Stack, host: FakeHost, call: str) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    await stack.run(devbox_id, "echo kept > file")
    with host.held(call):
        await stack.devboxes.suspend(ACCOUNT, devbox_id)
        await asyncio.sleep(0.2)
        await stack.stop()
    stack = await cold.start()
    await stack.reaches(devbox_id, Observed.SUSPENDED)
    await stack.stop()
    stack = await cold.start()
    await stack.copies.resync()
    assert (host.snapshots(), list(host.boxes)) == ([copy_of(devbox_id)], [])
    await resumed(stack, devbox_id)
    assert await stack.files.read_text(ACCOUNT, devbox_id, "file") == "kept\n"
    await stack.stop()


@pytest.mark.parametrize("whole", [True, False])
async def test_a_server_that_dies_while_it_removes_the_box_loses_nothing(
    cold: Stack, host: FakeHost, *, whole: bool
) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    await stack.run(devbox_id, "echo kept > file")
    with host.held("destroy"):
        await stack.devboxes.suspend(ACCOUNT, devbox_id)
        await stack.until(lambda: host.snapshots() == [copy_of(devbox_id)])
        await asyncio.sleep(0.1)
        await stack.stop()
    if whole:
        host.remove(devbox_id)
    else:  # what is left of it has no disk any more
        host.kill_box(devbox_id)
        host.fail("snapshot", BoxGone("cannot snapshot it: it has no disk"))
    stack = await cold.start()
    await stack.reaches(devbox_id, Observed.SUSPENDED)
    assert devbox_id not in host.boxes
    await resumed(stack, devbox_id)
    assert await stack.files.read_text(ACCOUNT, devbox_id, "file") == "kept\n"
    await stack.stop()


async def test_a_fork_of_a_resumed_devbox_has_its_disk(stack: Stack) -> None:
    parent = await stack.devboxes.create(ACCOUNT, DevboxRequest(launch_commands=("true",)))
    await stack.reaches(parent.id, Observed.RUNNING)
    await stack.run(parent.id, "echo kept > file")
    await suspended(stack, parent.id)
    await resumed(stack, parent.id)
    (child,) = await stack.devboxes.fork(ACCOUNT, parent.id, 1)
    await stack.reaches(child.id, Observed.RUNNING)
    assert await stack.files.read_text(ACCOUNT, child.id, "file") == "kept\n"


async def test_a_suspended_devbox_is_snapshotted_and_forked_as_it_is(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.run(devbox_id, "echo kept > file")
    await suspended(stack, devbox_id)
    snapshot = await stack.snapshots.take(ACCOUNT, devbox_id, SnapshotWish())
    snapshot = await stack.snapshots.wait(ACCOUNT, snapshot.id, 10)
    assert (snapshot.status, snapshot.size > 0, snapshot.still_ms) == (SnapshotStatus.COMPLETE, True, 0)
    (child,) = await stack.devboxes.fork(ACCOUNT, devbox_id, 1)
    copy = await stack.running(snapshot_id=snapshot.id)
    for each in (child.id, copy):
        await stack.reaches(each, Observed.RUNNING)
        assert await stack.files.read_text(ACCOUNT, each, "file") == "kept\n"
    await resumed(stack, devbox_id)
    assert await stack.files.read_text(ACCOUNT, devbox_id, "file") == "kept\n"
