from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa

from corral.core import errors
from corral.devboxes import deadlines, pulse, rows
from corral.devboxes.model import Desired, DevboxRequest, Observed, Reason
from corral.devboxes.pulse import Pace
from corral.images.sources import Image
from corral.runtime.contract import (
    BoxExhausted,
    BoxSpec,
    BoxUnresponsive,
    DeathReason,
    HostExhausted,
    HostUnfit,
    RuntimeFailure,
    Stream,
)
from corral.runtime.fake import FakeHost, FakeRuntime
from tests.integration.devboxes.stack import ACCOUNT, RULES, Stack


async def test_a_devbox_goes_from_its_wish_to_running(stack: Stack) -> None:
    made = await stack.devboxes.create(ACCOUNT, DevboxRequest(name="first", metadata={"a": "1"}))
    assert (made.observed, made.reason, made.desired) == (Observed.PROVISIONING, Reason.STARTING, Desired.RUNNING)
    devbox = await stack.reaches(made.id, Observed.RUNNING)
    assert devbox.reason is Reason.NONE
    assert devbox.request == made.request
    assert [one.status for one in devbox.transitions] == [
        Observed.PROVISIONING,
        Observed.INITIALIZING,
        Observed.RUNNING,
    ]
    assert await stack.boxes() == {devbox.id}


async def test_every_transition_has_its_event_and_every_event_its_transition(stack: Stack) -> None:
    devbox_id = await stack.running(launch_commands=("true",))
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    devbox = await stack.ends(devbox_id)
    told = [kind for kind in await stack.events(devbox_id) if kind.startswith("devbox.")]
    assert told == [f"devbox.{one.status.value}" for one in devbox.transitions]


async def test_of_two_moves_from_the_same_state_one_happens(stack: Stack) -> None:
    devbox_id = await stack.running()

    def end(connection: sa.Connection) -> object:
        step = rows.Step((Observed.FAILURE,), Reason.LOST, "x")
        return rows.transition(connection, devbox_id, frozenset({Observed.RUNNING}), step, 1)

    moved = await asyncio.gather(*(stack.store.write(end) for _ in range(5)))
    assert len([one for one in moved if one is not None]) == 1
    assert (await stack.events(devbox_id)).count("devbox.failure") == 1


async def test_a_move_whose_event_cannot_be_written_does_not_happen(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.sql("CREATE TRIGGER no_events BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(sa.exc.IntegrityError):
        await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    assert (await stack.devboxes.get(ACCOUNT, devbox_id)).observed is Observed.RUNNING
    await stack.sql("DROP TRIGGER no_events")


async def test_shutdown_holds_at_once_and_the_box_is_gone_soon_after(stack: Stack) -> None:
    devbox_id = await stack.running()
    devbox = await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    assert (devbox.observed, devbox.reason, devbox.desired) == (
        Observed.SHUTDOWN,
        Reason.API_SHUTDOWN,
        Desired.SHUTDOWN,
    )
    assert devbox.ended_at_ms is not None
    await stack.until(lambda: _is_empty(stack))
    assert await stack.devboxes.shutdown(ACCOUNT, devbox_id) == devbox


async def _is_empty(stack: Stack) -> bool:
    return not await stack.boxes()


@pytest.mark.parametrize("held", ["create", "write_file"])
async def test_shutdown_works_while_the_devbox_is_being_made(stack: Stack, host: FakeHost, held: str) -> None:
    with host.held(held):
        made = await stack.devboxes.create(ACCOUNT, DevboxRequest(files={"a": "b"}))
        if held == "write_file":
            await stack.reaches(made.id, Observed.INITIALIZING)
        await asyncio.sleep(0.05)
        ended = await stack.devboxes.shutdown(ACCOUNT, made.id)
        assert ended.observed is Observed.SHUTDOWN
        await stack.until(lambda: _is_empty(stack))
    await asyncio.sleep(0.05)
    assert await stack.boxes() == set()
    assert (await stack.devboxes.get(ACCOUNT, made.id)).observed is Observed.SHUTDOWN


async def test_a_box_that_cannot_be_removed_now_is_removed_later(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    host.fail("destroy", HostUnfit("cannot destroy box: busy", remedy="wait"), times=3)
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    await stack.until(lambda: _is_empty(stack))


# -- failures


@pytest.mark.parametrize(
    ("death", "reason"),
    [
        (DeathReason.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
        (DeathReason.KILLED, Reason.KILLED),
        (DeathReason.EXITED, Reason.EXITED),
        (DeathReason.HOST_RESTARTED, Reason.HOST_RESTARTED),
    ],
)
async def test_a_box_that_dies_is_a_failure_with_its_reason_within_the_second(
    stack: Stack, host: FakeHost, death: DeathReason, reason: Reason
) -> None:
    devbox_id = await stack.running()
    host.kill_box(devbox_id, death)
    devbox = await stack.ends(devbox_id, within_s=1)
    assert (devbox.observed, devbox.reason) == (Observed.FAILURE, reason)
    assert devbox.message
    await stack.until(lambda: _is_empty(stack))


async def test_a_box_that_is_gone_without_a_word_is_lost(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    host.remove(devbox_id)
    assert (await stack.ends(devbox_id)).reason is Reason.LOST


async def test_a_box_that_nobody_wished_for_is_removed(stack: Stack, host: FakeHost) -> None:
    kept = await stack.running()
    await FakeRuntime(host).create(BoxSpec("dbx_nobodys", (), "x"))
    await stack.until(lambda: _only(stack, kept))


async def _only(stack: Stack, devbox_id: str) -> bool:
    return await stack.boxes() == {devbox_id}


async def test_a_host_without_room_is_tried_again(stack: Stack, host: FakeHost) -> None:
    host.fail("create", HostExhausted("cannot create box: no more addresses"), times=2)
    devbox_id = await stack.running()
    assert (await stack.devboxes.get(ACCOUNT, devbox_id)).observed is Observed.RUNNING


async def test_a_host_that_stays_without_room_ends_provisioning_at_its_limit(cold: Stack, host: FakeHost) -> None:
    stack = await replace(cold, rules=replace(RULES, limits=deadlines.Limits(0.5, 30))).start()
    host.fail("create", HostExhausted("cannot create box: no more addresses"), times=1000)
    made = await stack.devboxes.create(ACCOUNT, DevboxRequest())
    devbox = await stack.ends(made.id)
    assert (devbox.observed, devbox.reason) == (Observed.FAILURE, Reason.START_FAILED)
    assert "no more addresses" in devbox.message
    await stack.stop()


async def test_a_create_that_hangs_ends_at_the_limit_of_provisioning(cold: Stack, host: FakeHost) -> None:
    stack = await replace(cold, rules=replace(RULES, limits=deadlines.Limits(0.2, 30))).start()
    with host.held("create"):
        made = await stack.devboxes.create(ACCOUNT, DevboxRequest())
        devbox = await stack.ends(made.id)
    assert (devbox.reason, devbox.message) == (Reason.START_FAILED, "no box was made within 0.2 s")
    await stack.stop()


async def test_an_unfit_host_fails_the_devbox_at_once_with_the_remedy(stack: Stack, host: FakeHost) -> None:
    host.fail("create", HostUnfit("cannot create box: no crun", remedy="install crun"))
    made = await stack.devboxes.create(ACCOUNT, DevboxRequest())
    devbox = await stack.ends(made.id)
    assert devbox.reason is Reason.START_FAILED
    assert devbox.message == "cannot create box: no crun; install crun"


async def test_an_unknown_image_fails_the_devbox(cold: Stack) -> None:
    class NoneThere:
        def resolve(self, name: str | None = None) -> Image:
            raise errors.NotFound(f"cannot use image {name}: it is not on this host")

        def names(self) -> list[str]:
            return []

    stack = await replace(cold, images=NoneThere()).start()
    made = await stack.devboxes.create(ACCOUNT, DevboxRequest(image="ghost"))
    assert (await stack.ends(made.id)).message == "cannot use image ghost: it is not on this host"
    await stack.stop()


async def test_a_guest_that_hangs_is_a_failure(cold: Stack, host: FakeHost) -> None:
    stack = await replace(cold, pace=Pace(every_s=60, limit_s=0.4)).start()
    devbox_id = await stack.running()
    host.stop_box(devbox_id)
    host.fail("read_file", BoxUnresponsive("cannot ask box: no answer"))
    with pytest.raises(errors.Unavailable, match="no answer"):
        await stack.files.read_text(ACCOUNT, devbox_id, "a")
    assert (await stack.ends(devbox_id)).reason is Reason.GUEST_UNRESPONSIVE
    await stack.until(lambda: not host.boxes)
    await stack.stop()


async def test_a_guest_that_hangs_unasked_is_a_failure(cold: Stack, host: FakeHost) -> None:
    stack = await replace(cold, pace=Pace(every_s=0.4, limit_s=0.4)).start()
    hung, well = await stack.running(), await stack.running()
    host.stop_box(hung)
    devbox = await stack.ends(hung)
    assert (devbox.observed, devbox.reason) == (Observed.FAILURE, Reason.GUEST_UNRESPONSIVE)
    assert (await stack.devboxes.get(ACCOUNT, well)).observed is Observed.RUNNING
    await stack.stop()


@pytest.mark.parametrize(
    "answers",
    [
        [BoxUnresponsive("cannot ask box: no answer")] * 3,  # and then one
        [BoxExhausted("cannot ask box: it leaves its guest no turn")] * 50,
    ],
)
async def test_a_guest_that_answers_late_or_has_no_turn_is_kept(
    cold: Stack, host: FakeHost, answers: list[RuntimeFailure]
) -> None:
    stack = await replace(cold, pace=Pace(every_s=0.1, limit_s=0.4)).start()
    devbox_id = await stack.running()
    for answer in answers:
        host.fail("ping", answer)
    await asyncio.sleep(1.2)
    assert (await stack.devboxes.get(ACCOUNT, devbox_id)).observed is Observed.RUNNING
    await stack.stop()


async def test_guests_are_asked_in_turn_and_no_faster_than_the_pace(
    cold: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "_PER_S", 20)
    asked: list[tuple[float, str]] = []

    class Counting(FakeRuntime):
        async def ping(self, box_id: str, limit_s: float = 5.0) -> None:
            asked.append((stack.clock.monotonic(), box_id))
            await super().ping(box_id, limit_s)

    stack = await replace(cold, pace=Pace(every_s=1, limit_s=1), runtime_class=Counting).start()
    devboxes = {await stack.running() for _ in range(30)}
    asked.clear()
    await asyncio.sleep(3.5)
    assert {devbox_id for _, devbox_id in asked} == devboxes
    times = [moment for moment, _ in asked]
    assert max(sum(0 <= other - moment < 1 for other in times) for moment in times) <= 22
    await stack.stop()


async def test_questions_do_not_keep_an_idle_devbox_alive(cold: Stack) -> None:
    stack = await replace(cold, pace=Pace(every_s=0.05, limit_s=0.4)).start()
    devbox_id = await stack.running(idle_s=1)
    assert (await stack.ends(devbox_id)).reason is Reason.IDLE
    await stack.stop()


# -- launch


async def test_files_then_launch_commands_then_entrypoint(stack: Stack) -> None:
    devbox_id = await stack.running(
        env={"WHO": "me"},
        files={"~/in/a.txt": "hello"},
        launch_commands=("cat ~/in/a.txt > out; echo $WHO >> out", "echo two >> out"),
        entrypoint="echo started > entry; sleep 100",
    )
    await stack.until(lambda: _reads(stack, devbox_id, "entry", "started\n"))
    assert await stack.files.read_text(ACCOUNT, devbox_id, "out") == "hellome\ntwo\n"
    sources = [one.source.value for one in (await stack.executions.list(ACCOUNT, devbox_id)).items]
    assert sources == ["entrypoint", "setup_commands", "setup_commands"]


async def _reads(stack: Stack, devbox_id: str, path: str, text: str) -> bool:
    try:
        return await stack.files.read_text(ACCOUNT, devbox_id, path) == text
    except errors.NotFound:
        return False


async def test_a_launch_command_that_fails_fails_the_devbox_and_says_why(stack: Stack) -> None:
    made = await stack.devboxes.create(
        ACCOUNT, DevboxRequest(launch_commands=("true", "echo broken >&2; exit 4", "touch never"))
    )
    devbox = await stack.ends(made.id)
    assert (devbox.observed, devbox.reason) == (Observed.FAILURE, Reason.LAUNCH_FAILED)
    assert devbox.message == "launch command 2 exited with code 4: broken"
    assert (await stack.executions.list(ACCOUNT, made.id)).total == 2


async def test_a_file_that_cannot_be_written_fails_the_devbox(stack: Stack) -> None:
    made = await stack.devboxes.create(ACCOUNT, DevboxRequest(files={"/etc/nothing-for-users": "x"}))
    devbox = await stack.ends(made.id)
    assert devbox.reason is Reason.LAUNCH_FAILED
    assert "/etc/nothing-for-users" in devbox.message


async def test_launch_commands_that_take_too_long_fail_the_devbox(cold: Stack) -> None:
    stack = await replace(cold, rules=replace(RULES, limits=deadlines.Limits(30, 0.3))).start()
    made = await stack.devboxes.create(ACCOUNT, DevboxRequest(launch_commands=("sleep 100",)))
    devbox = await stack.ends(made.id)
    assert (devbox.reason, devbox.message) == (Reason.LAUNCH_FAILED, "files and launch commands took over 0.3 s")
    await stack.stop()


async def test_the_end_of_the_entrypoint_shuts_the_devbox_down(stack: Stack) -> None:
    made = await stack.devboxes.create(ACCOUNT, DevboxRequest(entrypoint="sleep 0.2; exit 3"))
    devbox = await stack.ends(made.id)
    assert (devbox.observed, devbox.reason) == (Observed.SHUTDOWN, Reason.ENTRYPOINT_EXIT)
    assert devbox.message == "its entrypoint exited with code 3"


async def test_a_launch_goes_on_where_it_was_after_a_restart(cold: Stack) -> None:
    stack = await cold.start()
    made = await stack.devboxes.create(
        ACCOUNT, DevboxRequest(launch_commands=("echo one >> log; sleep 0.5", "echo two >> log"))
    )
    await stack.reaches(made.id, Observed.INITIALIZING)
    await asyncio.sleep(0.1)
    stack = await stack.again()
    await stack.reaches(made.id, Observed.RUNNING)
    assert await stack.files.read_text(ACCOUNT, made.id, "log") == "one\ntwo\n"
    await stack.stop()


# -- time


async def test_keep_alive_ends_a_devbox_when_its_time_is_over(stack: Stack) -> None:
    devbox_id = await stack.running(keep_alive_s=1)
    devbox = await stack.ends(devbox_id)
    assert (devbox.observed, devbox.reason) == (Observed.SHUTDOWN, Reason.KEEP_ALIVE_TIMEOUT)


async def test_an_idle_devbox_ends_and_an_asked_one_does_not(stack: Stack) -> None:
    idle, asked, busy = [await stack.running(idle_s=1) for _ in range(3)]
    command = await stack.executions.start(ACCOUNT, busy, "sleep 2")
    for _ in range(4):
        await asyncio.sleep(0.4)
        await stack.devboxes.keep_alive(ACCOUNT, asked)
    devbox = await stack.ends(idle, within_s=0.1)
    assert (devbox.observed, devbox.reason) == (Observed.SHUTDOWN, Reason.IDLE)
    for other in (asked, busy):
        assert (await stack.devboxes.get(ACCOUNT, other)).observed is Observed.RUNNING
    await stack.completed(command)
    assert (await stack.ends(busy)).reason is Reason.IDLE


async def test_a_wait_that_is_not_fulfilled_times_out(stack: Stack) -> None:
    devbox_id = await stack.running()
    with pytest.raises(errors.TimedOut, match="it is running after 0.05 s"):
        await stack.devboxes.wait(ACCOUNT, devbox_id, frozenset({Observed.SHUTDOWN}), 0.05)


# -- records


async def test_usage_logs_and_output_stay_readable_after_the_end(stack: Stack) -> None:
    devbox_id = await stack.running(launch_commands=("echo setting up",))
    execution = await stack.run(devbox_id, "echo hello; echo oops >&2; exit 2")
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    await stack.until(lambda: _is_empty(stack))
    entries = await stack.devboxes.logs(ACCOUNT, devbox_id)
    said = [(entry.source.value, entry.message) for entry in entries if entry.message]
    assert said == [
        ("setup_commands", "setting up"),
        ("setup_commands", "exited with code 0"),
        ("exec", "hello"),
        ("exec", "oops"),
        ("exec", "exited with code 2"),
    ]
    assert {entry.cmd_id for entry in await stack.devboxes.logs(ACCOUNT, devbox_id, execution_id=execution.id)} == {
        execution.id
    }
    assert (await stack.devboxes.usage(ACCOUNT, devbox_id)).end_time_ms is not None


async def test_output_is_forgotten_when_its_time_is_over(cold: Stack) -> None:
    stack = await replace(cold, keep_output_s=0.001).start()
    devbox_id = await stack.running()
    execution = await stack.run(devbox_id, "echo hello")
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    await stack.until(lambda: _is_empty(stack))
    await stack.controller.sweep()
    assert stack.executions.tail(execution, Stream.STDOUT, 10) == ("", False)
    assert (await stack.executions.get(ACCOUNT, devbox_id, execution.id)).exit_code == 0
    await stack.stop()


async def test_another_account_sees_nothing(stack: Stack) -> None:
    devbox_id = await stack.running()
    execution = await stack.run(devbox_id, "true")
    for call in (
        stack.devboxes.get("acc_other", devbox_id),
        stack.devboxes.shutdown("acc_other", devbox_id),
        stack.devboxes.logs("acc_other", devbox_id),
        stack.executions.start("acc_other", devbox_id, "true"),
        stack.executions.get("acc_other", devbox_id, execution.id),
        stack.files.read_text("acc_other", devbox_id, "a"),
    ):
        with pytest.raises(errors.NotFound):
            await call
    assert (await stack.devboxes.list("acc_other")).items == ()


async def test_nothing_of_an_ended_devbox_stays_in_memory(stack: Stack) -> None:
    for _ in range(20):
        devbox_id = await stack.running(launch_commands=("true",), keep_alive_s=3600)
        await stack.run(devbox_id, "true", shell_name="main")
        await stack.executions.start(ACCOUNT, devbox_id, "sleep 100")
        await stack.files.write_text(ACCOUNT, devbox_id, "a", "b")
        await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    await stack.until(lambda: _is_empty(stack))
    await stack.until(lambda: not stack.followers._live and not len(stack.followers._tasks))
    keys = stack.controller._keys
    await stack.until(lambda: not keys._running)
    assert (keys._queued, keys._failures, keys._due, keys._interrupted) == (set(), {}, {}, set())
    assert stack.vitals._seen == {}
    assert len(stack.feed._wakes) == 0
