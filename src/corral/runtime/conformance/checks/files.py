"""Promises about reading and writing files."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from corral.runtime.conformance.suite import Bench, Broken, Group, expect, expect_equal, problem, read_all
from corral.runtime.contract import MIB, FileInfo, FileKind
from corral.runtime.contract import FileProblemKind as Kind

GROUP = Group()
_CHUNK_LIMIT = 256 * 1024


async def _info(bench: Bench, box: str, folder: str, name: str) -> FileInfo:
    found = [info for info in await bench.runtime.list_files(box, folder) if info.path.endswith(f"/{name}")]
    expect(found, f"{name} is not in {folder}")
    return found[0]


@GROUP.check
async def files_come_back_as_written(bench: Bench) -> None:
    """What is written is read back: nothing, text, any bytes; the count and the size are right."""
    box = await bench.box()
    for name, data in (("empty", b""), ("text", "é🐎\n".encode()), ("bytes", bytes(range(256)) * 5000)):
        expect_equal(await bench.write(box, f"~/{name}", data), len(data), f"the count of {name}")
        reader = await bench.runtime.read_file(box, f"~/{name}")
        expect_equal((reader.info.size, reader.info.kind), (len(data), FileKind.FILE), f"the info of {name}")
        expect(await read_all(reader) == data, f"{name} came back different")


@GROUP.check
async def sixty_four_mib_come_back(bench: Bench) -> None:
    """64 MiB go in and come out by chunks of at most 256 KiB, unchanged."""
    box = await bench.box()
    block = hashlib.shake_128(b"corral").digest(MIB)
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def source() -> AsyncIterator[bytes]:
        for number in range(64):
            piece = number.to_bytes(8, "big") + block[8:]
            sent.update(piece)
            yield piece

    expect_equal(await bench.runtime.write_file(box, "~/large", source()), 64 * MIB, "the count")
    ran = await bench.sh(box, "sha256sum < ~/large")
    expect_equal(ran.text.split()[0], sent.hexdigest(), "the digest in the box")
    reader = await bench.runtime.read_file(box, "~/large")
    async for chunk in reader:
        expect(0 < len(chunk) <= _CHUNK_LIMIT, f"a chunk of {len(chunk)} bytes")
        received.update(chunk)
    await reader.close()
    expect_equal(received.hexdigest(), sent.hexdigest(), "the digest that came back")


@GROUP.check
async def pieces_may_have_any_size(bench: Bench) -> None:
    """The pieces of a write may be empty, tiny, or 8 MiB at once."""
    box = await bench.box()
    pieces = [b"", b"a", b"", b"b" * (8 * MIB), b"c", b""]

    async def source() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    expect_equal(await bench.runtime.write_file(box, "~/pieces", source()), 8 * MIB + 2, "the count")
    expect(await bench.read(box, "~/pieces") == b"".join(pieces), "the file came back different")


@GROUP.check
async def paths_have_three_forms(bench: Bench) -> None:
    """`~/x`, `x` and the absolute path of a file in the home are the same file, which commands see too."""
    box = await bench.box()
    await bench.write(box, "~/dir/a file é", b"content")
    absolute = (await _info(bench, box, "~/dir", "a file é")).path
    expect(absolute.startswith("/"), f"{absolute} is not absolute")
    for path in ("dir/a file é", absolute, "~/dir/../dir//./a file é"):
        expect_equal(await bench.read(box, path), b"content", f"read of {path}")
    expect_equal((await bench.sh(box, 'cat "$HOME/dir/a file é"')).text, "content", "what a command reads")
    await bench.sh(box, "echo by command > ~/dir/made")
    expect_equal(await bench.read(box, "~/dir/made"), b"by command\n", "what a command wrote")


@GROUP.check
async def parents_are_made(bench: Bench) -> None:
    """`write_file` makes the directories above the file, which the user owns."""
    box = await bench.box()
    await bench.write(box, "~/a/b/c/file", b"x")
    ran = await bench.sh(box, "touch ~/a/b/c/other ~/a/b/other ~/a/other && cat ~/a/b/c/file")
    expect_equal((ran.result.exit_code, ran.text), (0, "x"), "a command that uses them")


@GROUP.check
async def modes_and_owners_are_right(bench: Bench) -> None:
    """A new file has 0644 and belongs to the user; `mode` is taken as it is; a replaced file keeps its mode."""
    box = await bench.box()
    user = bench.factory("dbx").user
    await bench.write(box, "~/plain", b"x")
    await bench.write(box, "~/script", b"#!/bin/sh\necho ran\n", mode=0o755)
    await bench.write(box, "~/secret", b"x", mode=0o600)
    for name, mode in (("plain", 0o644), ("script", 0o755), ("secret", 0o600)):
        info = await _info(bench, box, "~", name)
        expect_equal(
            (oct(info.mode), info.uid, info.gid), (oct(mode), user.uid, user.gid), f"mode and owner of {name}"
        )
    expect_equal((await bench.sh(box, "~/script")).text, "ran", "the script")
    await bench.write(box, "~/script", b"#!/bin/sh\necho again\n")
    expect_equal((await bench.sh(box, "~/script")).text, "again", "the replaced script")


@GROUP.check
async def a_replaced_file_is_whole_for_its_readers(bench: Bench) -> None:
    """Who opened a file before it was replaced reads the old content to the end; who opens it after, the new."""
    box = await bench.box()
    old, new = b"old." * 300_000, b"new" * 100
    await bench.write(box, "~/file", old)
    reader = await bench.runtime.read_file(box, "~/file")
    pieces = aiter(reader)
    first = await anext(pieces)
    await bench.write(box, "~/file", new)
    rest = b"".join([piece async for piece in pieces])
    await reader.close()
    expect(first + rest == old, "the old reader did not get the old content")
    expect_equal(await bench.read(box, "~/file"), new, "the new content")


class _GivenUp(Exception):
    pass


@GROUP.check
async def a_failed_write_changes_nothing(bench: Bench) -> None:
    """When the source of a write raises, the error comes through, the old content stays, nothing is left behind."""
    box = await bench.box()
    await bench.write(box, "~/dir/file", b"old")

    async def source() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        raise _GivenUp

    try:
        await bench.runtime.write_file(box, "~/dir/file", source())
    except _GivenUp:
        pass
    else:
        raise Broken("the error of the source did not come through")
    await _expect_old(bench, box)


@GROUP.check
async def a_cancelled_write_changes_nothing(bench: Bench) -> None:
    """A cancelled write leaves the old content and nothing else, also for a file that was not there."""
    box = await bench.box()
    await bench.write(box, "~/dir/file", b"old")
    for name in ("file", "new"):
        sent = asyncio.Event()

        async def source(sent: asyncio.Event = sent) -> AsyncIterator[bytes]:
            yield b"x" * MIB
            sent.set()
            await asyncio.Event().wait()

        task = asyncio.ensure_future(bench.runtime.write_file(box, f"~/dir/{name}", source()))
        await asyncio.wait_for(sent.wait(), 10)
        task.cancel()
        await asyncio.wait([task])
        expect(task.cancelled(), "the write was not cancelled")
    await _expect_old(bench, box)


async def _expect_old(bench: Bench, box: str) -> None:
    async def alone() -> bool:
        names = [info.path.rpartition("/")[2] for info in await bench.runtime.list_files(box, "~/dir")]
        return names == ["file"]

    await bench.until(alone, "only the old file is in its directory", 5)
    expect_equal(await bench.read(box, "~/dir/file"), b"old", "the old content")


@GROUP.check
async def a_reader_may_leave(bench: Bench) -> None:
    """A reader can be closed early and twice; others are not disturbed."""
    box = await bench.box()
    await bench.write(box, "~/large", b"x" * (16 * MIB))
    for _ in range(20):
        reader = await bench.runtime.read_file(box, "~/large")
        await anext(aiter(reader))
        await reader.close()
        await reader.close()
    expect_equal(len(await bench.read(box, "~/large")), 16 * MIB, "the size that a patient reader gets")


@GROUP.check
async def files_move_at_once(bench: Bench) -> None:
    """Twenty writes and reads at once each get their own content."""
    box = await bench.box()

    async def one(number: int) -> None:
        data = bytes([number]) * 500_000
        await bench.write(box, f"~/many/{number}", data)
        expect(await bench.read(box, f"~/many/{number}") == data, f"file {number} came back different")

    await asyncio.gather(*[one(number) for number in range(20)])


@GROUP.check
async def writes_of_one_file_do_not_mix(bench: Bench) -> None:
    """Of several writes of one file at once, one wins whole."""
    box = await bench.box()
    contents = [bytes([number]) * MIB for number in range(6)]
    await asyncio.gather(*[bench.write(box, "~/one", content) for content in contents])
    expect(await bench.read(box, "~/one") in contents, "the file is a mixture")
    names = [info.path.rpartition("/")[2] for info in await bench.runtime.list_files(box, "~")]
    expect([name for name in names if "one" in name] == ["one"], f"leftovers: {names}")


@GROUP.check
async def links_are_followed(bench: Bench) -> None:
    """Reading and writing through a link reaches its target, and the link stays one."""
    box = await bench.box()
    await bench.write(box, "~/target", b"target")
    await bench.sh(box, "cd && ln -s target link && ln -s nowhere dangling && mkdir d && ln -s d dirlink")
    expect_equal(await bench.read(box, "~/link"), b"target", "read through the link")
    await bench.write(box, "~/link", b"written")
    expect_equal(await bench.read(box, "~/target"), b"written", "the target")
    expect_equal((await _info(bench, box, "~", "link")).kind, FileKind.SYMLINK, "the kind of the link")
    await bench.write(box, "~/dirlink/inner", b"inner")
    expect_equal(await bench.read(box, "~/d/inner"), b"inner", "a file under a linked directory")
    with problem(Kind.NOT_FOUND, what="read of a dangling link"):
        await bench.read(box, "~/dangling")


# ---------------------------------------------------------------- what fails


@GROUP.check
async def missing_files_are_not_found(bench: Bench) -> None:
    """Reading what is not there is NOT_FOUND."""
    box = await bench.box()
    for path in ("~/none", "/none/none", "none"):
        with problem(Kind.NOT_FOUND, what=f"read of {path}"):
            await bench.read(box, path)


@GROUP.check
async def directories_are_no_files(bench: Bench) -> None:
    """Reading or writing a directory is IS_DIRECTORY; passing through a file is NOT_DIRECTORY."""
    box = await bench.box()
    await bench.write(box, "~/dir/file", b"x")
    for path in ("~/dir", "~", "/"):
        with problem(Kind.IS_DIRECTORY, what=f"read of {path}"):
            await bench.read(box, path)
        with problem(Kind.IS_DIRECTORY, what=f"write of {path}"):
            await bench.write(box, path, b"x")
    with problem(Kind.NOT_DIRECTORY, what="read through a file"):
        await bench.read(box, "~/dir/file/below")
    with problem(Kind.NOT_DIRECTORY, what="write through a file"):
        await bench.write(box, "~/dir/file/below", b"x")
    expect_equal(await bench.read(box, "~/dir/file"), b"x", "the file")


@GROUP.check
async def the_users_rights_hold(bench: Bench) -> None:
    """File calls have the rights of their user: DENIED where the user may not, and root may."""
    box = await bench.box()
    await bench.write(box, "~/closed", b"x", mode=0)
    with problem(Kind.DENIED, what="read of a file of mode 0"):
        await bench.read(box, "~/closed")
    with problem(Kind.DENIED, what="write in /etc"):
        await bench.write(box, "/etc/corral-check", b"x")
    with problem(Kind.DENIED, what="a new directory in /"):
        await bench.write(box, "/corral-check/file", b"x")
    closed = (await _info(bench, box, "~", "closed")).path
    expect_equal(await bench.read(box, closed, user="root"), b"x", "read by root")
    await bench.write(box, "~/mine", b"root's", user="root")
    expect_equal(await bench.read(box, "/root/mine", user="root"), b"root's", "a file in root's home")
    with problem(Kind.DENIED, what="read in root's home"):
        await bench.read(box, "/root/mine")
    await bench.write(box, "/etc/corral-check", b"by root", user="root")
    expect_equal((await _info(bench, box, "/etc", "corral-check")).uid, 0, "the owner of root's file")
    expect_equal(await bench.read(box, "/etc/corral-check"), b"by root", "read of root's file")


@GROUP.check
async def bad_paths_are_refused(bench: Bench) -> None:
    """Empty, with NUL, too long, or an endless loop of links: BAD_PATH."""
    box = await bench.box()
    await bench.sh(box, "cd && ln -s loop2 loop1 && ln -s loop1 loop2")
    for path in ("", "a\0b", "~/" + "n" * 300, "~/" + "deep/" * 1500 + "x", "~/loop1"):
        with problem(Kind.BAD_PATH, what=f"read of {path[:20]!r}"):
            await bench.read(box, path)
    for path in ("", "a\0b", "~/" + "n" * 300):
        with problem(Kind.BAD_PATH, what=f"write of {path[:20]!r}"):
            await bench.write(box, path, b"x")


@GROUP.check
async def special_files_do_not_hang(bench: Bench) -> None:
    """Reading a named pipe or a device is BAD_PATH at once; the box still answers."""
    box = await bench.box()
    await bench.sh(box, "mkfifo ~/pipe")
    with problem(Kind.BAD_PATH, what="read of a named pipe"):
        async with asyncio.timeout(5):
            await bench.read(box, "~/pipe")
    with problem(Kind.BAD_PATH, what="read of a device"):
        async with asyncio.timeout(5):
            await bench.read(box, "/dev/zero")
    expect_equal((await bench.sh(box, "echo alive")).text, "alive", "the box")


@GROUP.check
async def a_path_cannot_leave_the_box(bench: Bench) -> None:
    """`..` ends at the box's root."""
    box = await bench.box()
    await bench.write(box, "../../../../../../../../../tmp/corral-up", b"inside")
    expect_equal(await bench.read(box, "/tmp/corral-up"), b"inside", "the file")  # noqa: S108 - a path in the box
    expect_equal(await bench.read(box, "/../../tmp/corral-up"), b"inside", "the file by another way")


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * MIB


@GROUP.check
async def a_bad_write_does_not_hang(bench: Bench) -> None:
    """A write that fails at once reports its problem and stops reading its source, which may be endless."""
    box = await bench.box()
    with problem(Kind.BAD_PATH, what="write of an empty path"):
        await bench.runtime.write_file(box, "", _endless())
    with problem(Kind.DENIED, what="a large write in /etc"):
        async with asyncio.timeout(20):
            await bench.runtime.write_file(box, "/etc/corral-large", _endless())
