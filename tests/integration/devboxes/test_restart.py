"""What the next server makes of what the last one left: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa

from corral.core import errors
from corral.core.store.store import Store
from corral.devboxes.model import DevboxRequest, ExecutionStatus, Observed, Reason
from corral.runtime.contract import Stream
from corral.runtime.fake import FakeHost
from tests.integration.devboxes.stack import ACCOUNT, Stack


async def test_a_running_command_is_followed_to_its_end(cold: Stack) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "echo one; sleep 0.6; echo two; exit 4")
    stack = await stack.again()
    assert (await stack.executions.get(ACCOUNT, devbox_id, execution.id)).status is ExecutionStatus.RUNNING
    chunks = [chunk async for chunk, _ in stack.executions.stream(execution, Stream.STDOUT, 0)]
    done = await stack.completed(execution)
    assert (done.exit_code, done.lost, b"".join(chunks)) == (4, False, b"one\ntwo\n")
    await stack.stop()


async def test_a_command_that_ended_meanwhile_has_its_exit_code(cold: Stack) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "sleep 0.2; echo late; exit 5")
    await stack.stop()
    await asyncio.sleep(0.5)
    stack = await cold.start()
    done = await stack.completed(execution)
    assert (done.exit_code, stack.stdout(done)) == (5, "late\n")
    await stack.stop()


async def test_a_command_that_was_committed_and_not_started_is_started_once(cold: Stack) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    kept = await stack.run(devbox_id, "echo x >> count")
    await stack.stop()
    # As a server leaves it that dies between the commit and the start: a row that no box knows.
    stack = await cold.start(control=False)
    await stack.sql(
        "INSERT INTO executions SELECT NULL, 'exe_unstarted', devbox_id, NULL, command, source, 'running', shell_name,"
        " attach_stdin, terminal, user, NULL, 0, 0, 0, '', created_at_ms, NULL, NULL FROM executions WHERE id = :id",
        id=kept.id,
    )
    stack = await stack.again()
    await stack.until(lambda: _ended(stack, devbox_id, "exe_unstarted"))
    assert await stack.files.read_text(ACCOUNT, devbox_id, "count") == "x\nx\n"
    stack = await stack.again()
    assert await stack.files.read_text(ACCOUNT, devbox_id, "count") == "x\nx\n"
    await stack.stop()


async def _ended(stack: Stack, devbox_id: str, execution_id: str) -> bool:
    return (await stack.executions.get(ACCOUNT, devbox_id, execution_id)).ended_at_ms is not None


async def test_queued_commands_of_a_shell_get_their_turn(cold: Stack) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    many = [
        await stack.executions.start(ACCOUNT, devbox_id, f"sleep 0.3; echo {n} >> log", shell_name="main")
        for n in range(3)
    ]
    await stack.stop()
    await asyncio.sleep(0.5)
    stack = await cold.start()
    for one in many:
        assert (await stack.completed(one)).exit_code == 0
    assert await stack.files.read_text(ACCOUNT, devbox_id, "log") == "0\n1\n2\n"
    await stack.stop()


async def test_a_devbox_that_was_acknowledged_and_not_made_is_made(cold: Stack) -> None:
    stack = await cold.start(control=False)
    made = await stack.devboxes.create(ACCOUNT, DevboxRequest())
    stack = await stack.again()
    await stack.stop()
    stack = await cold.start()
    assert (await stack.reaches(made.id, Observed.RUNNING)).id == made.id
    await stack.stop()


async def test_a_box_that_was_made_and_not_recorded_is_kept(cold: Stack, host: FakeHost) -> None:
    class Dies(Store):
        """Commits nothing from the moment in which a box is on the host."""

        def commit(self, connection: sa.Connection) -> None:
            if host.boxes:
                raise errors.Unavailable("cannot write the store: the server is dead")
            super().commit(connection)

    stack = await replace(cold, store_class=Dies).start()
    made = await stack.devboxes.create(ACCOUNT, DevboxRequest())
    await stack.until(lambda: bool(host.boxes))
    await asyncio.sleep(0.1)
    tree = host.boxes[made.id].tree
    stack = await stack.again(store_class=Store)
    await stack.reaches(made.id, Observed.RUNNING)
    assert host.boxes[made.id].tree is tree
    await stack.stop()


async def test_what_died_while_nobody_watched_is_told_with_its_reason(cold: Stack, host: FakeHost) -> None:
    stack = await cold.start()
    killed, gone, kept = [await stack.running() for _ in range(3)]
    lost = await stack.executions.start(ACCOUNT, killed, "echo kept; sleep 100")
    await stack.until(lambda: stack.stdout(lost) == "kept\n")
    await stack.stop()
    host.kill_box(killed)
    host.remove(gone)
    stack = await cold.start()
    assert (await stack.ends(killed)).reason is Reason.KILLED
    assert (await stack.ends(gone)).reason is Reason.LOST
    done = await stack.completed(lost)
    assert (done.exit_code, done.lost, stack.stdout(done)) == (137, True, "kept\n")
    assert (await stack.devboxes.get(ACCOUNT, kept)).observed is Observed.RUNNING
    await stack.until(lambda: _only(stack, kept))
    await stack.stop()


async def _only(stack: Stack, devbox_id: str) -> bool:
    return await stack.boxes() == {devbox_id}


async def test_boxes_that_a_reboot_took_are_told_so(cold: Stack, host: FakeHost) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    devbox = await stack.devboxes.get(ACCOUNT, devbox_id)
    await stack.stop()
    host.remove(devbox_id)
    stack = await replace(cold, rules=replace(cold.rules, booted_at_ms=devbox.observed_at_ms + 1)).start()
    assert (await stack.ends(devbox_id)).reason is Reason.HOST_RESTARTED
    await stack.stop()


async def test_a_box_whose_shutdown_was_acknowledged_is_removed(cold: Stack) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    await stack.stop()
    stack = await cold.start(control=False)
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    stack = await stack.again()
    await stack.until(lambda: _empty(stack))
    assert (await stack.devboxes.get(ACCOUNT, devbox_id)).reason is Reason.API_SHUTDOWN
    await stack.stop()


async def _empty(stack: Stack) -> bool:
    return await stack.boxes() == set()


async def test_keep_alive_goes_on_over_a_restart(cold: Stack) -> None:
    stack = await cold.start()
    devbox_id = await stack.running(keep_alive_s=1)
    stack = await stack.again()
    assert (await stack.ends(devbox_id, within_s=3)).reason is Reason.KEEP_ALIVE_TIMEOUT
    await stack.stop()


async def test_a_stop_ends_those_who_wait_for_output(cold: Stack) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "sleep 100")

    async def follow() -> None:
        async for _ in stack.executions.stream(execution, Stream.STDOUT, 0):
            pass

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0.1)
    await stack.stop()
    await asyncio.wait_for(following, 2)


async def test_a_stop_tells_those_whose_command_is_being_started(cold: Stack, host: FakeHost) -> None:
    stack = await cold.start()
    devbox_id = await stack.running()
    with host.held("execute"):
        starting = asyncio.ensure_future(stack.executions.start(ACCOUNT, devbox_id, "echo once", command_id="c"))
        await asyncio.sleep(0.1)
        await stack.stop()
        with pytest.raises(errors.Unavailable, match="the server is stopping; ask again"):
            await asyncio.wait_for(starting, 2)
    stack = await cold.start()
    again = await stack.executions.start(ACCOUNT, devbox_id, "echo once", command_id="c")
    assert stack.stdout(await stack.completed(again)) == "once\n"
    await stack.stop()


async def test_a_full_disk_delays_the_end_of_a_command_and_loses_nothing(cold: Stack) -> None:
    class Full(Store):
        full = False

        def commit(self, connection: sa.Connection) -> None:
            if Full.full:
                raise errors.Unavailable("cannot write the store: database or disk is full")
            super().commit(connection)

    stack = await replace(cold, store_class=Full).start()
    devbox_id = await stack.running()
    execution = await stack.executions.start(ACCOUNT, devbox_id, "sleep 0.1; echo said; exit 6")
    Full.full = True
    await asyncio.sleep(0.4)
    with pytest.raises(errors.TimedOut):
        await stack.completed(execution, within_s=0.1)
    Full.full = False
    done = await stack.completed(execution)
    assert (done.exit_code, stack.stdout(done)) == (6, "said\n")
    await stack.stop()
