"""The same objects in a bucket of a real S3 server: contents go there and come from there without passing here."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.core import errors
from corral.storage.service import ObjectStore, open_store
from tests.harness import s3
from tests.harness.server import Server

MIB = 1024 * 1024

pytestmark = pytest.mark.timeout(s3.BUILD_LIMIT_S)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    try:
        with s3.serving(tmp_path_factory.mktemp("s3") / "s3") as one:
            yield one
    except s3.NotBuildable as problem:
        pytest.skip(f"no S3 server: {problem}")


@pytest.fixture
def contents(bucket: s3.S3Server, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{s3.BUCKET}/parts", endpoint=bucket.endpoint)


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize("size", [0, 1, 20 * MIB + 1])
async def test_a_stream_is_stored_and_read_whole(contents: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    assert await contents.put("a/one", stream(*(data[at : at + 100_000] for at in range(0, size, 100_000)))) == size
    assert await contents.move("a/one", "b/two")
    assert (await contents.size("a/one"), await contents.size("b/two")) == (None, size)
    assert not await contents.move("a/one", "b/two")
    content = await contents.read("b/two")
    assert content is not None
    assert b"".join([part async for part in content]) == data
    assert [key async for key in contents.keys("b/")] == ["b/two"]
    await contents.remove(["a/one", "b/two"])
    assert await contents.read("b/two") is None


async def test_a_stream_that_breaks_off_stores_nothing(contents: ObjectStore, bucket: s3.S3Server) -> None:
    async def broken() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(MIB)
        raise errors.TooLarge("cannot upload: broken")

    with pytest.raises(errors.TooLarge, match="broken"):
        await contents.put("a/broken", broken())
    assert await contents.size("a/broken") is None
    assert [path for path in bucket.folder.rglob("*") if path.is_file() and path.stat().st_size > MIB] == []


async def test_what_the_bucket_refuses_is_told(bucket: s3.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "corral")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(errors.Unavailable, match="refuses"):
        await open_store(f"s3://{s3.BUCKET}", endpoint=bucket.endpoint).size("x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.env["AWS_SECRET_ACCESS_KEY"])
    with pytest.raises(errors.Unavailable, match="no such bucket"):
        await open_store("s3://none", endpoint=bucket.endpoint).put_bytes("x", b"x")


def test_objects_of_a_server_are_in_its_bucket(bucket: s3.S3Server, tmp_path: Path) -> None:
    with (
        Server(tmp_path / "data", env={**bucket.settings, "CORRAL_OBJECT_LIMIT": "1000000"}) as server,
        httpx.Client(base_url=server.url, headers=server.headers, timeout=30) as caller,
        httpx.Client(timeout=30) as stranger,
    ):

        def post(path: str, **body: Any) -> httpx.Response:
            return caller.post(f"/v1/objects{path}", json=body)

        view = post("", name="notes", content_type="text").json()
        assert view["upload_url"].startswith(bucket.endpoint)
        assert stranger.put(view["upload_url"], content=b"content").status_code == 200
        assert post(f"/{view['id']}/complete").json()["size_bytes"] == 7
        # Whoever still has the address cannot change what was completed.
        assert stranger.put(view["upload_url"], content=b"changed").status_code == 200
        url = caller.get(f"/v1/objects/{view['id']}/download").json()["download_url"]
        assert url.startswith(bucket.endpoint)
        assert stranger.get(url).content == b"content"
        assert stranger.get(url, headers={"range": "bytes=-3"}).content == b"ent"

        large = post("", name="large", content_type="binary").json()
        assert stranger.put(large["upload_url"], content=bytes(1_000_001)).status_code == 200
        refused = post(f"/{large['id']}/complete")
        assert (refused.status_code, refused.json()["kind"]) == (413, "too-large")
        assert caller.get(f"/v1/objects/{large['id']}").json()["state"] == "ERROR"

        mounts = [{"type": "object_mount", "object_id": view["id"], "object_path": "notes"}]
        box = caller.post("/v1/devboxes/create_and_await_running", json={"mounts": mounts}).json()
        read = caller.post(f"/v1/devboxes/{box['id']}/read_file_contents", json={"file_path": "notes"})
        assert read.text == "content"
        server.restart()  # finds its objects again, and removes what came after the completion
        assert caller.get(f"/v1/objects/{view['id']}").json()["state"] == "READ_ONLY"
    kept = {path.name for path in (bucket.folder / s3.BUCKET / "some").rglob("*") if path.is_file()}
    assert kept == {view["id"], "marker"}
    assert not (server.data / "objects").exists()
