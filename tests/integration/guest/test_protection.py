"""What root in the box can do to the guest, which is nothing that the kernel lets it not do."""

from __future__ import annotations

import pytest

from tests.harness import guest_reach
from tests.integration.guest.box import Box

TRACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for request in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
    print(libc.ptrace(request, 1, 0, 0), os.strerror(ctypes.get_errno()))
print(libc.syscall(310, 1, 0, 0, 0, 0, 0), os.strerror(ctypes.get_errno()))  # process_vm_readv
"""


@pytest.mark.parametrize("path", ["fd", "fd/3", "mem", "environ", "exe", "root", "cwd", "ns/net", "map_files"])
async def test_root_cannot_look_into_the_guest(box: Box, path: str) -> None:
    done = await box.sh(
        f"ls -l /proc/1/{path} && cat /proc/1/{path}; readlink -v /proc/1/{path} && ls -L /proc/1/{path}/."
    )
    assert b"denied" in done.stderr
    assert done.code != 0


async def test_root_cannot_trace_the_guest(box: Box) -> None:
    done = await box.run("python3", "-c", TRACE)
    lines = done.stdout.decode().splitlines()
    assert lines[:2] == ["-1 Operation not permitted"] * 2
    assert lines[2].startswith(("-1", "0"))


async def test_signals_from_inside_do_not_end_or_stop_the_guest(box: Box) -> None:
    await box.sh("for n in $(seq 1 64); do kill -$n 1; done; kill -9 1; kill -STOP 1; kill -SEGV 1")
    assert (await box.sh("echo well")).stdout == b"well\n"


async def test_removing_everything_leaves_a_guest_that_answers(box: Box) -> None:
    await box.sh("rm -rf /etc/* /home/* /root/* /tmp/* /run/* 2>/dev/null; umount -l /dev/pts; umount -l /proc; true")
    done = await box.run("/bin/sh", "-c", "echo well; id -u")
    assert done.stdout == b"well\n0\n"
    await box.client.hello()


@pytest.mark.parametrize("user", ["root", "user"])
async def test_no_process_of_the_box_can_speak_to_the_guest(box: Box, user: str) -> None:
    await box.sh("head -c 10000000 /dev/zero > /tmp/large; chmod 644 /tmp/large")
    # A file call that waits: a thread of process 1 that has become the very user.
    reader = await box.client.read_file("/tmp/large", user=user)
    done = await box.run("python3", "-c", guest_reach.PROGRAM, user=user)
    await reader.close()
    tasks, tried = done.stdout.decode().splitlines()
    assert tasks == "tasks 2"
    assert int(tried.split()[1]) > 64
    assert (await box.sh("echo well")).stdout == b"well\n"
