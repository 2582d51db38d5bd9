"""What a devbox says of its memory when it is suspended and resumed, and what is done where that cannot be kept."""

from __future__ import annotations

import pytest

from corral.core import errors
from corral.devboxes.model import KeepMemory, Observed, Reason, copy_of
from corral.runtime.contract import Box, BoxSpec, BoxStatus, Copied, MemoryNotKept
from corral.runtime.fake import FakeHost
from tests.integration.devboxes.stack import ACCOUNT, Stack


async def suspended(stack: Stack, devbox_id: str) -> None:
    await stack.devboxes.suspend(ACCOUNT, devbox_id)
    await stack.reaches(devbox_id, Observed.SUSPENDED)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [(KeepMemory.AUTO, "its processes are this machine's own"), (KeepMemory.NEVER, "keep_memory is never")],
)
async def test_what_becomes_of_memory_is_told(stack: Stack, wanted: KeepMemory, message: str) -> None:
    devbox_id = await stack.running(keep_memory=wanted)
    assert (await stack.devboxes.get(ACCOUNT, devbox_id)).memory is None
    await suspended(stack, devbox_id)
    memory = (await stack.devboxes.get(ACCOUNT, devbox_id)).memory
    assert memory is not None
    assert (memory.kept, memory.message.endswith(message)) == (False, True)
    await stack.devboxes.resume(ACCOUNT, devbox_id)
    resumed = (await stack.reaches(devbox_id, Observed.RUNNING)).memory
    assert resumed is not None
    assert (resumed.kept, resumed.message) == (False, memory.message)


async def test_a_fork_that_gets_no_memory_begins_as_the_disk_and_says_why(stack: Stack) -> None:
    parent = await stack.running()
    for wanted in KeepMemory:
        (fork,) = await stack.devboxes.fork(ACCOUNT, parent, 1, keep_memory=wanted)
        if wanted is KeepMemory.ALWAYS:
            failed = await stack.reaches(fork.id, Observed.FAILURE)
            assert failed.reason is Reason.START_FAILED
            assert failed.message.endswith("its processes are this machine's own")
            continue
        memory = (await stack.reaches(fork.id, Observed.RUNNING)).memory
        if wanted is KeepMemory.NEVER:
            assert memory is None
        else:
            assert memory is not None
            assert (memory.kept, memory.message) == (
                False, f"cannot keep memory of box {parent}: its processes are this machine's own",
            )  # fmt: skip
    await suspended(stack, parent)
    with pytest.raises(errors.WrongState, match="with its memory: it is suspended without it"):
        await stack.devboxes.fork(ACCOUNT, parent, 1, keep_memory=KeepMemory.ALWAYS)
    (fork,) = await stack.devboxes.fork(ACCOUNT, parent, 1, keep_memory=KeepMemory.AUTO)
    memory = (await stack.reaches(fork.id, Observed.RUNNING)).memory
    assert memory is not None
    assert memory.message == f"cannot keep memory of box {parent}: it is suspended without it"


async def test_who_always_wants_memory_kept_goes_on_without(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running(keep_memory=KeepMemory.ALWAYS)
    await stack.devboxes.suspend(ACCOUNT, devbox_id)
    devbox = await stack.reaches(devbox_id, Observed.RUNNING)
    assert devbox.message.startswith("not suspended: cannot keep memory of box ")
    assert host.snapshots() == []


@pytest.mark.parametrize("wanted", [KeepMemory.AUTO, KeepMemory.ALWAYS])
async def test_memory_that_does_not_come_back_is_given_up_or_waited_for(
    stack: Stack, host: FakeHost, monkeypatch: pytest.MonkeyPatch, wanted: KeepMemory
) -> None:
    """With a runtime that says that it has kept a memory, and cannot bring it back until told otherwise."""
    runtime, comes_back = stack.runtime, False
    create, snapshot = runtime.create, runtime.snapshot

    async def checkpoint(box_id: str, name: str) -> Copied:
        return await snapshot(box_id, name)

    async def restore(spec: BoxSpec) -> Box:
        if spec.memory and not comes_back:
            raise MemoryNotKept("cannot bring back memory: it is broken")
        made = await create(spec)
        return Box(made.id, BoxStatus.RUNNING, made.pid, restored=spec.memory)

    monkeypatch.setattr(runtime, "checkpoint", checkpoint)
    monkeypatch.setattr(runtime, "create", restore)
    devbox_id = await stack.running(keep_memory=wanted, launch_commands=("echo launch >> log",))
    await suspended(stack, devbox_id)
    await stack.devboxes.resume(ACCOUNT, devbox_id)
    if wanted is KeepMemory.AUTO:
        devbox = await stack.reaches(devbox_id, Observed.RUNNING)
        assert devbox.memory is not None
        assert (devbox.memory.kept, devbox.memory.message) == (False, "cannot bring back memory: it is broken")
        assert await stack.files.read_text(ACCOUNT, devbox_id, "log") == "launch\nlaunch\n"
        return
    devbox = await stack.reaches(devbox_id, Observed.SUSPENDED)
    assert (devbox.reason, host.snapshots()) == (Reason.START_FAILED, [copy_of(devbox_id)])
    comes_back = True
    await stack.devboxes.resume(ACCOUNT, devbox_id)
    devbox = await stack.reaches(devbox_id, Observed.RUNNING)
    assert devbox.memory is not None
    assert (devbox.memory.kept, devbox.start, devbox.launch) == (True, 2, 0)
    assert await stack.files.read_text(ACCOUNT, devbox_id, "log") == "launch\n"
