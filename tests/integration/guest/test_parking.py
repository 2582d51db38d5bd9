"""A parked guest: nothing of the host is connected to it, its commands go on, and it wakes on another socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from corral.runtime.contract import BoxExhausted, BoxUnresponsive, ExecSpec, NoSuchExecution, Stream
from corral.runtime.guest import GuestClient
from tests.integration.guest import raw
from tests.integration.guest.box import Box


async def test_a_parked_guest_hears_only_of_its_end(box: Box) -> None:
    spool = box.spool("count")
    out, err, status = spool.fds
    argv = ("sh", "-c", "while :; do echo x; sleep 0.01; done")
    following = await box.client.execute(ExecSpec("count", argv), (out, err, status))
    attached = await box.client.attach("count", stream=Stream.STDOUT)
    await box.client.park()
    await box.client.park()
    await box.client.hello()
    with pytest.raises(BoxExhausted):
        await box.client.executions()
    while await attached.read():
        pass
    with pytest.raises(BoxUnresponsive):
        async for _ in following.events():
            pass
    await following.close()
    await attached.close()
    before = len(spool.stdout)
    while len(spool.stdout) == before:
        await box.client.hello()
    await box.client.wake()
    async with await box.client.wait("count"):
        await box.client.signal("count", 9)


async def test_a_copy_of_a_guest_has_its_commands_under_other_ids(box: Box) -> None:
    for name in ("count", "ended"):
        out, err, status = box.spool(name).fds
        argv = ("sleep", "600" if name == "count" else "0")
        async with await box.client.execute(ExecSpec(name, argv), (out, err, status)) as following:
            if name == "ended":
                async for _ in following.events():
                    pass
    await box.client.park()
    await box.client.wake(renamed={"count": "copied"})
    assert [row.id for row in await box.client.executions()] == ["copied"]
    with pytest.raises(NoSuchExecution):
        await box.client.signal("count", 9)
    await box.client.signal("copied", 9)


async def test_a_guest_is_woken_on_another_socket(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        await box.client.wake(listener.fileno())
    assert (await GuestClient(path).hello()).protocol == 1


def test_what_does_not_listen_wakes_nobody(box: Box) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        null = os.open("/dev/null", os.O_RDONLY)
        for fds in ((silent.fileno(),), (null,), (null, null)):
            assert raw.error_of(raw.exchange(box, raw.request(op="wake"), fds)) == "bad-request"
        os.close(null)
    assert raw.frames_of(raw.exchange(box, raw.request(op="wake")))[0][0] == 2
