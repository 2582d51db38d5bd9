"""What ends objects, what removes their contents, and what a crash may leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.core import errors
from corral.storage.controller import AWAIT_MS
from corral.storage.model import ContentType, ObjectFilter, ObjectState, ObjectWish
from tests.integration.devboxes.stack import ACCOUNT, Stack

TEXT = ObjectWish("notes", ContentType.TEXT)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def files(stack: Stack) -> set[str]:
    """Contents in the object store, but for the marker."""
    root = stack.folder / "objects"
    return {path.name for path in root.rglob("*") if path.is_file() and path.name != "marker"}


async def whole(stack: Stack, wish: ObjectWish = TEXT) -> str:
    return (await stack.objects.put_internal(ACCOUNT, wish, chunks(b"con", b"tent"))).id


async def read(stack: Stack, object_id: str) -> bytes:
    opened = await stack.objects.open(ACCOUNT, object_id)
    data = b"".join([part async for part in opened.content])
    assert opened.size == len(data)
    return data


async def test_every_change_of_state_has_its_event(stack: Stack) -> None:
    object_id = await whole(stack)
    await stack.objects.delete(ACCOUNT, object_id)
    await stack.objects.delete(ACCOUNT, object_id)
    assert await stack.events(object_id) == ["object.uploading", "object.read_only", "object.deleted"]


async def test_an_object_goes_when_its_time_is_over(stack: Stack) -> None:
    stays = await whole(stack)
    goes = await whole(stack, ObjectWish("brief", ttl_ms=50))
    awaited = (await stack.objects.create(ACCOUNT, ObjectWish("never", ttl_ms=50))).id
    await asyncio.sleep(0.06)
    with pytest.raises(errors.WrongState, match="its time is over"):
        await stack.objects.open(ACCOUNT, goes)
    await stack.keeper.sweep()
    assert {(await stack.objects.get(ACCOUNT, each)).state for each in (goes, awaited)} == {ObjectState.DELETED}
    await stack.until(lambda: files(stack) == {stays})
    assert await read(stack, stays) == b"content"


async def test_an_upload_that_is_never_completed_is_given_up(stack: Stack) -> None:
    object_id = (await stack.objects.create(ACCOUNT, TEXT)).id
    token = (await stack.objects.upload_url(object_id, "")).split("token=")[1]
    await stack.objects.receive(object_id, token, chunks(b"half"))
    assert files(stack) == {object_id}
    past = {"at": stack.clock.now_ms() - AWAIT_MS - 1, "id": object_id}
    await stack.sql("UPDATE objects SET created_at_ms = :at WHERE id = :id", **past)
    await stack.keeper.sweep()
    found = await stack.objects.get(ACCOUNT, object_id)
    assert (found.state, found.message) == (ObjectState.ERROR, "it was not completed within 24 hours")
    await stack.until(lambda: files(stack) == set())


async def test_a_stream_that_fails_leaves_no_content_and_an_object_that_says_so(stack: Stack) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(9_000_000)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await stack.objects.put_internal(ACCOUNT, TEXT, broken())
    (found,) = (await stack.objects.list(ACCOUNT, ObjectFilter())).items
    assert (found.state, found.size) == (ObjectState.ERROR, None)
    await stack.until(lambda: files(stack) == set())


async def test_what_a_killed_server_leaves_is_removed_and_what_was_acknowledged_stays(stack: Stack) -> None:
    stays, gone = await whole(stack), await whole(stack)
    node = next((stack.folder / "objects" / "nodes").iterdir())
    # Killed between the row and the removal, in the middle of an upload, and by hand.
    await stack.sql("UPDATE objects SET state = 'DELETED' WHERE id = :id", id=gone)
    (node / "uploads").mkdir(exist_ok=True)
    (node / "uploads" / f"{stays}#1").write_bytes(b"half")
    for stray in (node / "objects" / "obj_stray", node / "uploads" / "obj_stray", node / "uploads" / stays):
        stray.write_bytes(b"stray")
    again = await stack.again()
    await again.until(lambda: files(again) == {stays})
    assert await read(again, stays) == b"content"
    await again.stop()
    await stack.start()


async def test_contents_of_another_server_in_the_same_store_are_left_alone(stack: Stack) -> None:
    other = stack.folder / "objects" / "nodes" / "node_other" / "objects"
    other.mkdir(parents=True)
    (other / "obj_other").write_bytes(b"theirs")
    await stack.keeper.compare()
    assert (other / "obj_other").read_bytes() == b"theirs"


async def test_a_server_does_not_start_on_another_object_store_than_its_own(stack: Stack, tmp_path: Path) -> None:
    await whole(stack)
    (stack.folder / "objects").rename(tmp_path / "elsewhere")
    with pytest.raises(errors.Unavailable, match="are in another one; set CORRAL_OBJECTS"):
        await stack.keeper.open()
    (tmp_path / "elsewhere").rename(stack.folder / "objects")
    await stack.keeper.open()


async def test_an_object_whose_content_was_lost_says_so(stack: Stack) -> None:
    object_id = await whole(stack)
    next((stack.folder / "objects").rglob(object_id)).unlink()
    with pytest.raises(errors.NotFound, match="its content is gone"):
        await stack.objects.open(ACCOUNT, object_id)
    found = await stack.objects.get(ACCOUNT, object_id)
    assert (found.state, found.message) == (ObjectState.ERROR, "its content is not in the object store any more")


async def test_of_two_completions_at_once_one_counts(stack: Stack) -> None:
    object_id = (await stack.objects.create(ACCOUNT, TEXT)).id
    token = (await stack.objects.upload_url(object_id, "")).split("token=")[1]
    await stack.objects.receive(object_id, token, chunks(b"content"))
    ends = await asyncio.gather(
        *(stack.objects.complete(ACCOUNT, object_id) for _ in range(8)), return_exceptions=True
    )
    assert sum(isinstance(end, errors.Conflict) for end in ends) == 7
    assert await read(stack, object_id) == b"content"


async def test_the_store_and_its_key_are_the_owners_alone(stack: Stack) -> None:
    assert (stack.folder / "objects").stat().st_mode & 0o777 == 0o700
    assert (stack.folder / "object-key").stat().st_mode & 0o777 == 0o600
