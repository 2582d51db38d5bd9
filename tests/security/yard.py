"""Two boxes of one real driver, a hostile one and its neighbour, and short ways to attack from inside."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from corral.runtime.contract import MIB, ExecResult, ExecSpec, Limits, Stream
from corral.runtime.oci import record
from corral.runtime.oci.settings import OciSettings
from tests.integration.oci.conftest import GUEST, IMAGES, Bench, Ran

MARKS: Final = [
    pytest.mark.root,
    pytest.mark.image,
    pytest.mark.timeout(60),
    pytest.mark.asyncio(loop_scope="session"),
]
HOSTILE: Final = "hostile"
NESTED: Final = "nested"
NEIGHBOUR: Final = "neighbour"
#: For a test of what holds in a plain box and in a nested one: `yard.hostile` is each of them in turn.
BOTH: Final = pytest.mark.parametrize("yard", [HOSTILE, NESTED], indirect=True, ids=["plain", "nested"])
#: For a test of a nested box alone.
IN_NESTED: Final = pytest.mark.parametrize("yard", [NESTED], indirect=True, ids=["nested"])
#: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT SETFCAP
CAPABILITIES: Final = 0x8004_25FB
#: NET_ADMIN SYS_PTRACE SYS_ADMIN MKNOD AUDIT_WRITE
NESTED_CAPABILITIES: Final = 0x2828_1000
LIMITS: Final = Limits(memory=256 * MIB, disk=128 * MIB, pids=200)
#: The longest that a neighbour may wait for an answer while another box misbehaves.
ANSWER_S: Final = 2.0
COMMAND_S: Final = 30.0

#: Before each program that a box runs: it tells its findings as JSON in its last line.
PRELUDE: Final = """
import ctypes, errno, json, mmap, os, signal, socket, stat, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
def name(number):
    return errno.errorcode.get(number, str(number))
def call(number, *arguments):
    ctypes.set_errno(0)
    wrapped = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    return name(ctypes.get_errno()) if libc.syscall(ctypes.c_long(number), *wrapped) == -1 else "done"
def attempt(do, *arguments):
    try:
        do(*arguments)
    except OSError as error:
        return name(error.errno)
    return "done"
def content(path):
    with open(path, "rb") as file:
        return file.read(4096)
def tell(found):
    print(json.dumps(found), flush=True)
"""


class Yard(Bench):
    """A driver with its boxes. `hostile` is the one that attacks now."""

    def __init__(self, settings: OciSettings) -> None:
        super().__init__(settings)
        self.hostile = HOSTILE
        self._turns = itertools.count(1)

    @property
    def capabilities(self) -> int:
        """The capabilities of the root of the box that attacks, as a mask."""
        return CAPABILITIES | NESTED_CAPABILITIES if self.hostile == NESTED else CAPABILITIES

    async def run(self, box: str, *argv: str, user: str = "root", limit: int = 1 << 20) -> Ran:
        """A command to its end. TimeoutError after COMMAND_S."""
        name = f"s{next(self._turns)}"
        async with asyncio.timeout(COMMAND_S):
            await self.runtime.execute(box, ExecSpec(name, argv, user=user, output_limit=limit))
            result: ExecResult | None = None
            async for progress in self.runtime.follow(box, name):
                result = progress.result
        assert result is not None
        out, err = (self.runtime.read_output(box, name, s, 0, limit) for s in (Stream.STDOUT, Stream.STDERR))
        return Ran(result, out.decode(errors="replace"), err.decode(errors="replace"))

    async def probe(self, program: str, *, box: str | None = None, user: str = "root") -> Any:
        """What a Python program in the box told."""
        ran = await self.run(box or self.hostile, "python3", "-I", "-c", PRELUDE + program, user=user)
        assert ran.code == 0, ran
        return json.loads(ran.stdout.splitlines()[-1])

    async def hold(self, program: str, *, box: str | None = None, user: str = "root") -> Any:
        """Start a Python program that tells something and goes on; what it told."""
        box = box or self.hostile
        name = f"s{next(self._turns)}"
        await self.runtime.execute(box, ExecSpec(name, ("python3", "-I", "-c", PRELUDE + program), user=user))
        async with asyncio.timeout(COMMAND_S):
            while not (told := self.runtime.read_output(box, name, Stream.STDOUT, 0, 1 << 20)).endswith(b"\n"):
                await asyncio.sleep(0.02)
        return json.loads(told.splitlines()[-1])

    async def answers(self, box: str = NEIGHBOUR) -> None:
        """The box runs a command in time."""
        began = time.monotonic()
        ran = await self.run(box, "echo", "fine", user="user")
        assert ran.stdout == "fine\n"
        assert time.monotonic() - began < ANSWER_S

    @contextlib.asynccontextmanager
    async def victim(self, box: str, limits: Limits = LIMITS) -> AsyncIterator[str]:
        """A box to ruin. The neighbour answers while it is ruined, and it can be removed."""
        await self.box(box, limits)
        try:
            yield box
            await self.answers()
        finally:
            async with asyncio.timeout(15):
                await self.runtime.destroy(box)
        await self.answers()

    def id_base(self, box: str) -> int:
        """The host id of the box's root."""
        found = record.read(self.places.box(box))
        assert found is not None
        return self._plan_of(found.slot)

    def _plan_of(self, slot: int) -> int:
        return self.runtime._host.shared.plan.wish(slot).id_base

    def link(self, box: str) -> str:
        """The host's end of the box's pair of interfaces."""
        found = record.read(self.places.box(box))
        assert found is not None
        return self.runtime._host.shared.plan.wish(found.slot).link

    def address(self, box: str) -> str:
        """The box's address."""
        found = record.read(self.places.box(box))
        assert found is not None
        return self.runtime._host.shared.plan.wish(found.slot).address

    @property
    def gateway(self) -> str:
        """The host's address, as the boxes see it."""
        found = record.read(self.places.box(HOSTILE))
        assert found is not None
        return self.runtime._host.shared.plan.wish(found.slot).gateway

    def upper(self, box: str) -> Path:
        """On the host, what the box wrote."""
        return self.runtime._host.pool.folder(box) / "upper"


def settings(data: Path) -> OciSettings:
    """A driver of a test's own."""
    return OciSettings(data=data, guest=GUEST, layer_roots=(IMAGES,), slots_ready=2)
