from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from corral.core import errors
from corral.devboxes import files
from corral.runtime.contract import BoxGone, FileKind
from corral.runtime.fake import FakeHost
from tests.integration.devboxes.stack import ACCOUNT, Stack


async def test_text_is_read_back_from_every_form_of_path(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.files.write_text(ACCOUNT, devbox_id, "notes/a.txt", "grüße\n")
    for path in ("notes/a.txt", "~/notes/a.txt", "/home/user/notes/a.txt"):
        assert await stack.files.read_text(ACCOUNT, devbox_id, path) == "grüße\n"


async def test_bytes_go_up_and_come_down_as_they_are(stack: Stack) -> None:
    devbox_id = await stack.running()
    data = bytes(range(256)) * 4096

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    assert await stack.files.upload(ACCOUNT, devbox_id, "blob", chunks()) == len(data)
    reader = await stack.files.download(ACCOUNT, devbox_id, "blob")
    assert reader.info.size == len(data)
    assert b"".join([chunk async for chunk in reader]) == data
    await reader.close()


async def test_an_upload_that_breaks_off_leaves_the_old_content(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.files.write_text(ACCOUNT, devbox_id, "a", "old")

    async def broken() -> AsyncIterator[bytes]:
        yield b"new"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await stack.files.upload(ACCOUNT, devbox_id, "a", broken())
    assert await stack.files.read_text(ACCOUNT, devbox_id, "a") == "old"


@pytest.mark.parametrize(
    ("path", "error"),
    [("missing", errors.NotFound), ("/etc", errors.Invalid), ("", errors.Invalid), ("a\0b", errors.Invalid)],
)
async def test_a_bad_path_is_told(stack: Stack, path: str, error: type[errors.CorralError]) -> None:
    with pytest.raises(error, match="cannot read"):
        await stack.files.read_text(ACCOUNT, await stack.running(), path)


async def test_a_file_that_is_not_text_is_refused_as_text(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.files.upload(ACCOUNT, devbox_id, "a", files.pieces(b"ab\xff"))
    with pytest.raises(errors.Invalid, match="byte 2 is not UTF-8"):
        await stack.files.read_text(ACCOUNT, devbox_id, "a")


async def test_a_file_over_100_mib_is_refused_as_text(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    with host.boxes[devbox_id].tree.at("/home/user/big").open("wb") as big:
        big.truncate(files.TEXT_LIMIT + 1)
    with pytest.raises(errors.TooLarge, match="download it"):
        await stack.files.read_text(ACCOUNT, devbox_id, "big")
    with pytest.raises(errors.TooLarge, match="upload it"):
        await stack.files.write_text(ACCOUNT, devbox_id, "b", "x" * (files.TEXT_LIMIT + 1))


async def test_a_directory_is_listed(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.files.write_text(ACCOUNT, devbox_id, "d/b", "bb")
    await stack.files.write_text(ACCOUNT, devbox_id, "d/a/x", "")
    found = await stack.files.list(ACCOUNT, devbox_id, "d")
    assert [(one.path, one.kind, one.size) for one in found if one.kind is FileKind.FILE] == [
        ("/home/user/d/b", FileKind.FILE, 2)
    ]
    assert len(found) == 2


async def test_files_need_a_running_devbox_and_a_dead_box_is_noticed(stack: Stack, host: FakeHost) -> None:
    devbox_id = await stack.running()
    host.fail("read_file", BoxGone("cannot read a: box is gone"))
    with pytest.raises(errors.WrongState, match="box is gone"):
        await stack.files.read_text(ACCOUNT, devbox_id, "a")
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    with pytest.raises(errors.WrongState, match="not running"):
        await stack.files.list(ACCOUNT, devbox_id, "/")
