"""Files: what is read, written, listed, refused, and by whom."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.runtime.contract import BoxExhausted, FileKind, FileProblem, FileProblemKind, User
from tests.integration.guest.box import Box, soon

Kind = FileProblemKind


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(box: Box, path: str, **options: object) -> bytes:
    reader = await box.client.read_file(path, **options)  # type: ignore[arg-type] # forwarded
    return b"".join([chunk async for chunk in reader])


def problem(kind: FileProblemKind):  # type: ignore[no-untyped-def] # pytest's own context manager
    return pytest.raises(FileProblem, check=lambda error: error.kind is kind)


@pytest.mark.parametrize("size", [0, 1, 4096, 262_144, 262_145, 5_000_000])
async def test_what_is_written_is_read_back(box: Box, size: int) -> None:
    data = os.urandom(size)
    assert await box.client.write_file("/tmp/f", chunks(data[: size // 3], b"", data[size // 3 :])) == size
    assert await read(box, "/tmp/f") == data
    assert await read(box, "/tmp/f", offset=size // 2) == data[size // 2 :]
    assert await read(box, "/tmp/f", offset=1, limit=2) == data[1:3]


async def test_a_reader_knows_the_file_and_can_be_closed_early(box: Box) -> None:
    await box.sh("head -c 50000000 /dev/zero > /home/user/f; chown user:users /home/user/f; chmod 640 /home/user/f")
    reader = await box.client.read_file("~/f", user="user")
    info = reader.info
    assert (info.path, info.kind, info.size, info.mode) == ("/home/user/f", FileKind.FILE, 50_000_000, 0o640)
    assert (info.uid, info.gid) == (1000, 100)
    async for chunk in reader:
        assert 0 < len(chunk) <= 262_144
        break
    await reader.close()
    await reader.close()
    assert await soon(lambda: box.threads() == 1)


async def test_paths_are_taken_from_the_users_home(box: Box) -> None:
    await box.client.claim(user=User())
    for path in ("~/one", "two", "/home/user/three", "deep/er/four"):
        await box.client.write_file(path, chunks(b"x"))
    names = [entry.path for entry in await box.client.list_files("~")]
    assert names == ["/home/user/deep", "/home/user/one", "/home/user/three", "/home/user/two"]
    done = await box.sh("stat -c '%U:%G %a %n' * deep/er deep/er/four")
    assert done.stdout.decode().splitlines() == [
        "user:user 755 deep",
        "user:user 644 one",
        "user:user 644 three",
        "user:user 644 two",
        "user:user 755 deep/er",
        "user:user 644 deep/er/four",
    ]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/nowhere/f", Kind.NOT_FOUND),
        ("/root/secret", Kind.DENIED),
        ("/etc", Kind.IS_DIRECTORY),
        ("/etc/passwd/f", Kind.NOT_DIRECTORY),
        ("/tmp/fifo", Kind.BAD_PATH),
        ("/dev/zero", Kind.BAD_PATH),
        ("/tmp/ring", Kind.BAD_PATH),
        ("", Kind.BAD_PATH),
        ("a\0b", Kind.BAD_PATH),
        ("\ud800", Kind.BAD_PATH),
        ("/" + "x" * 5000, Kind.BAD_PATH),
        ("/" + "x" * 300, Kind.BAD_PATH),
    ],
)
async def test_what_cannot_be_read_says_why(box: Box, path: str, kind: FileProblemKind) -> None:
    await box.sh("chmod 700 /root; echo x > /root/secret; mkfifo /tmp/fifo; ln -s ring /tmp/ring; chmod 666 /tmp/fifo")
    with problem(kind):
        await box.client.read_file(path, user="user")
    if kind is not Kind.IS_DIRECTORY:
        with problem(Kind.NOT_DIRECTORY if path in {"/dev/zero", "/tmp/fifo"} else kind):
            await box.client.list_files(path, user="user")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/root/new", Kind.DENIED),
        ("/etc/passwd", Kind.DENIED),
        ("/home/other/new", Kind.DENIED),
        ("/home/user", Kind.IS_DIRECTORY),
        ("/home/user/new/", Kind.IS_DIRECTORY),
        ("/etc/passwd/f", Kind.NOT_DIRECTORY),
        ("/etc/passwd/f/g", Kind.NOT_DIRECTORY),
        ("/tmp/fifo", Kind.BAD_PATH),
        ("/dev/null", Kind.BAD_PATH),
        ("/dev/nowhere", Kind.DENIED),
        ("/home/user/ring", Kind.BAD_PATH),
    ],
)
async def test_what_cannot_be_written_says_why_and_leaves_nothing(box: Box, path: str, kind: FileProblemKind) -> None:
    await box.sh("chmod 700 /root; mkfifo -m 666 /tmp/fifo; ln -s ring /home/user/ring")
    before = (await box.sh("find /home /root /tmp /etc | sort")).stdout
    with problem(kind):
        await box.client.write_file(path, chunks(*([b"x" * 200_000] * 20)), user="user")
    assert (await box.sh("find /home /root /tmp /etc | sort")).stdout == before


async def test_a_written_file_keeps_its_mode_owner_and_group(box: Box) -> None:
    await box.sh("echo old > /home/user/f; chown user:extra /home/user/f; chmod 4750 /home/user/f")
    await box.client.write_file("/home/user/f", chunks(b"by root"))
    assert (await box.sh("stat -c '%U:%G %a' /home/user/f")).stdout == b"user:extra 4750\n"
    await box.client.write_file("/home/user/f", chunks(b"by user"), user="user", mode=0o600)
    assert (await box.sh("stat -c '%U:%G %a' /home/user/f; cat /home/user/f")).stdout == b"user:extra 600\nby user"


async def test_another_users_file_is_written_in_place_if_the_kernel_allows(box: Box) -> None:
    await box.sh("echo old > /tmp/shared; chown other /tmp/shared; chmod 666 /tmp/shared; echo old > /tmp/own")
    await box.client.write_file("/tmp/shared", chunks(b"new"), user="user")
    assert (await box.sh("stat -c '%U %a' /tmp/shared; cat /tmp/shared")).stdout == b"other 666\nnew"
    with problem(Kind.DENIED):
        await box.client.write_file("/tmp/own", chunks(b"new"), user="user")


async def test_a_mount_point_and_a_file_in_a_foreign_folder_are_written_in_place(box: Box) -> None:
    await box.sh("echo old > /etc/hosts; echo > /tmp/m; mount --bind /tmp/m /etc/hosts")
    await box.client.write_file("/etc/hosts", chunks(b"new hosts"))
    assert await read(box, "/tmp/m") == b"new hosts"
    await box.sh("mkdir /tmp/d; echo old > /tmp/d/f; chown user /tmp/d/f")
    await box.client.write_file("/tmp/d/f", chunks(b"mine"), user="user")
    assert await read(box, "/tmp/d/f") == b"mine"
    assert (await box.sh("ls -A /tmp/d /etc | grep -c corral-")).stdout == b"0\n"


async def test_a_symlink_is_written_through_and_stays(box: Box) -> None:
    await box.sh("ln -s real /tmp/link; ln -s /tmp/missing/real /tmp/dangling")
    await box.client.write_file("/tmp/link", chunks(b"a"))
    await box.client.write_file("/tmp/dangling", chunks(b"b"))
    assert (await box.sh("cat /tmp/real /tmp/missing/real; readlink /tmp/link /tmp/dangling")).stdout == (
        b"abreal\n/tmp/missing/real\n"
    )


async def test_a_broken_upload_leaves_the_old_content_and_no_other_file(box: Box) -> None:
    class Broken(Exception):
        pass

    async def breaks() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        raise Broken

    await box.client.write_file("/mnt/f", chunks(b"old"))
    with pytest.raises(Broken):
        await box.client.write_file("/mnt/f", breaks())

    async def hangs() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        await asyncio.Event().wait()

    task = asyncio.ensure_future(box.client.write_file("/mnt/f", hangs()))
    await asyncio.sleep(0.2)
    assert len(await box.client.list_files("/mnt")) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await box.sh("while [ $(ls -A /mnt | wc -l) != 1 ]; do sleep 0.02; done")
    assert await read(box, "/mnt/f") == b"old"


async def test_a_full_disk_is_told_in_the_middle_and_leaves_nothing(box: Box) -> None:
    await box.sh("mkdir /mnt/small; mount -t tmpfs -o size=1m tmpfs /mnt/small; echo old > /mnt/small/f")
    with problem(Kind.NO_SPACE):
        await box.client.write_file("/mnt/small/f", chunks(*([b"x" * 262_144] * 40)))
    assert (await box.sh("ls -A /mnt/small; cat /mnt/small/f")).stdout == b"f\nold\n"


async def test_a_program_that_runs_can_be_replaced(box: Box) -> None:
    await box.sh("cp /bin/sleep /tmp/sleeper")
    async with box.start_command("/tmp/sleeper", "30") as (name, _, _):
        await box.client.write_file("/tmp/sleeper", chunks(b"#!/bin/sh\necho new\n"))
        await box.client.signal(name, 9)
    assert (await box.run("/tmp/sleeper")).stdout == b"new\n"


async def test_a_listing_tells_what_each_entry_is_in_order(box: Box) -> None:
    await box.sh("cd /mnt; mkdir d; printf abc > f; ln -s f l; mkfifo p; touch -d @1700000000.5 f; printf x > 'b\nc'")
    await box.run("python3", "-c", "open(b'/mnt/\\xff', 'w')")
    entries = await box.client.list_files("/mnt")
    assert [(Path(entry.path).name, entry.kind) for entry in entries] == [
        ("b\nc", FileKind.FILE),
        ("d", FileKind.DIRECTORY),
        ("f", FileKind.FILE),
        ("l", FileKind.SYMLINK),
        ("p", FileKind.OTHER),
        ("�", FileKind.FILE),
    ]
    assert (entries[2].size, entries[2].mtime, entries[2].path) == (3, 1_700_000_000.5, "/mnt/f")
    assert (await box.client.list_files("/mnt/d")) == []
    assert (await box.client.stat("/mnt/l")).size == 3


async def test_a_huge_directory_is_listed_up_to_ten_thousand_names(box: Box) -> None:
    script = "import os\nfor n in range(12000): open(f'/mnt/{n:05}' + chr(1) * 200, 'w')"
    assert (await box.run("python3", "-c", script)).code == 0
    entries = await box.client.list_files("/mnt")
    assert [entry.path[5:10] for entry in entries] == [f"{n:05}" for n in range(10_000)]


async def test_files_in_proc_are_read_to_their_end(box: Box) -> None:
    assert b"tmpfs /etc" in await read(box, "/proc/self/mounts")


async def test_stalled_calls_are_bounded_and_leave_the_guest_able_to_answer(box: Box) -> None:
    await box.sh("head -c 50000000 /dev/zero > /tmp/big")
    readers = []
    for _ in range(32):
        readers.append(await box.client.read_file("/tmp/big"))  # noqa: PERF401 - closed below
    late = [asyncio.create_task(read(box, "/tmp/big")) for _ in range(3)]
    assert (await box.sh("echo fine")).stdout == b"fine\n"
    for outcome in await asyncio.gather(*late, return_exceptions=True):
        assert isinstance(outcome, BoxExhausted)
    waiting = [asyncio.create_task(read(box, "/tmp/big", limit=100_000)) for _ in range(40)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in waiting)
    await readers.pop().close()
    assert [len(data) for data in await asyncio.gather(*waiting)] == [100_000] * 40
    with pytest.raises(BoxExhausted):
        await box.client.park()
    for reader in readers:
        await reader.close()
    await box.client.park()
    assert box.threads() == 1
    await box.client.wake()
    assert len(await read(box, "/tmp/big")) == 50_000_000


async def test_a_guest_can_park_as_soon_as_a_call_is_answered(box: Box) -> None:
    for _ in range(100):
        await asyncio.gather(*(box.client.write_file(f"/tmp/{n}", chunks(b"x")) for n in range(8)))
        await box.client.park()
        assert box.threads() == 1
        await box.client.wake()
