"""File calls in the log of their devbox: one line each, and not more than are kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from corral.core import errors
from corral.devboxes import file_calls, files
from corral.devboxes.model import LogSource
from corral.devboxes.tables import FILE_CALLS
from tests.integration.devboxes.stack import ACCOUNT, Stack


async def told(stack: Stack, devbox_id: str) -> list[tuple[str, str]]:
    """Levels and messages of the log's lines about files."""
    entries = await stack.devboxes.logs(ACCOUNT, devbox_id)
    return [(entry.level.value, entry.message or "") for entry in entries if entry.source is LogSource.FILES]


async def test_every_file_call_is_a_line_with_path_size_and_user(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.files.write_text(ACCOUNT, devbox_id, "a.txt", "grüße\n")
    await stack.files.read_text(ACCOUNT, devbox_id, "~/a.txt")
    await stack.files.upload(ACCOUNT, devbox_id, "blob", files.pieces(b"x" * 300_000))
    reader = await stack.files.download(ACCOUNT, devbox_id, "blob")
    assert sum([len(chunk) async for chunk in reader]) == 300_000
    await reader.close()
    assert await told(stack, devbox_id) == [
        ("info", "write a.txt as user: 8 bytes"),
        ("info", "read ~/a.txt as user: 8 bytes"),
        ("info", "upload blob as user: 300000 bytes"),
        ("info", "download blob as user: 300000 bytes"),
    ]


async def test_a_file_call_that_fails_is_a_line_with_its_cause(stack: Stack) -> None:
    devbox_id = await stack.running()

    async def broken() -> AsyncIterator[bytes]:
        yield b"new"
        raise ConnectionResetError

    with pytest.raises(errors.NotFound):
        await stack.files.read_text(ACCOUNT, devbox_id, "missing\nfake line")
    with pytest.raises(errors.NotFound):
        await stack.files.download(ACCOUNT, devbox_id, "missing")
    with pytest.raises(ConnectionResetError):
        await stack.files.upload(ACCOUNT, devbox_id, "a", broken())
    await stack.files.upload(ACCOUNT, devbox_id, "b", files.pieces(b"\xff" * 1_000_000))
    with pytest.raises(errors.Invalid):
        await stack.files.read_text(ACCOUNT, devbox_id, "b")
    reader = await stack.files.download(ACCOUNT, devbox_id, "b")
    first = len(await anext(aiter(reader)))
    await reader.close()
    lines = await told(stack, devbox_id)
    assert [level for level, _ in lines] == ["error", "error", "error", "info", "error", "error"]
    assert all("\n" not in message for _, message in lines)
    assert lines[0][1].startswith("read missing\\nfake line as user failed: cannot read ")
    assert lines[2][1] == f"upload a as user failed: {files.BROKEN_OFF}"
    assert "is not UTF-8" in lines[4][1]
    assert lines[5][1] == f"download b as user failed: {files.BROKEN_OFF} after {first} of 1000000 bytes"


async def test_a_call_that_is_refused_before_the_box_is_no_line(stack: Stack) -> None:
    devbox_id = await stack.running()
    with pytest.raises(errors.NotFound):
        await stack.files.read_text("acc_other", devbox_id, "a")
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    with pytest.raises(errors.WrongState):
        await stack.files.read_text(ACCOUNT, devbox_id, "a")
    assert await told(stack, devbox_id) == []


async def test_a_busy_devbox_keeps_its_newest_file_calls_and_no_more(stack: Stack) -> None:
    devbox_id, other = await stack.running(), await stack.running()
    await stack.files.write_text(ACCOUNT, other, "a", "kept")
    for number in range(file_calls.KEPT + 50):
        problem = "p" * 10_000 if number % 2 else ""
        await stack.calls.record(devbox_id, file_calls.FileVerb.READ, f"{number}/" + "n" * 4096, problem=problem)
    lines = await told(stack, devbox_id)
    assert len(lines) == file_calls.KEPT
    assert lines[0][1].startswith("read 50/nnn")
    assert max(len(message) for _, message in lines) < file_calls.PATH_CHARS + file_calls.PROBLEM_CHARS + 50
    assert len(await told(stack, other)) == 1


async def test_file_calls_are_forgotten_with_the_output(cold: Stack) -> None:
    stack = await replace(cold, keep_output_s=0.001).start()
    devbox_id = await stack.running()
    await stack.files.write_text(ACCOUNT, devbox_id, "a", "text")
    assert len(await told(stack, devbox_id)) == 1
    await stack.devboxes.shutdown(ACCOUNT, devbox_id)
    await stack.until(lambda: _is_empty(stack))
    await stack.controller.sweep()
    count = sa.select(sa.func.count()).select_from(FILE_CALLS)
    assert await stack.store.read(lambda connection: connection.execute(count).scalar()) == 0
    await stack.stop()


async def test_a_file_call_stands_when_its_line_cannot_be_kept(stack: Stack) -> None:
    devbox_id = await stack.running()
    await stack.sql("PRAGMA max_page_count = 1")  # the database may not grow any more
    for number in range(100):
        await stack.calls.record(devbox_id, file_calls.FileVerb.READ, f"{number}/" + "n" * 4096)
    assert len(await told(stack, devbox_id)) < 100
    await stack.files.write_text(ACCOUNT, devbox_id, "a", "text")
    assert await stack.files.read_text(ACCOUNT, devbox_id, "a") == "text"
    await stack.sql("PRAGMA max_page_count = 1000000")


async def _is_empty(stack: Stack) -> bool:
    return not await stack.boxes()
