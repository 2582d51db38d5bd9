"""Objects over HTTP: their life, their content by address, and what is refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from corral.runtime.contract import MIB
from tests.integration.api.stand import OBJECT_LIMIT, Stand

TEXT = {"name": "notes.txt", "content_type": "text"}


async def create(stand: Stand, **body: Any) -> dict[str, Any]:
    answer = await stand.client.post("/v1/objects", json={**TEXT, **body})
    assert answer.status_code == 200, answer.text
    view: dict[str, Any] = answer.json()
    return view


async def put(url: str, content: bytes | AsyncIterator[bytes]) -> httpx.Response:
    """What the dialect's clients do: no key, no content type."""
    async with httpx.AsyncClient(timeout=30) as stranger:
        return await stranger.put(url, content=content)


async def fetch(url: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30) as stranger:
        return await stranger.get(url, headers=headers)


async def whole(stand: Stand, content: bytes, **body: Any) -> str:
    """The id of an object with this content."""
    view = await create(stand, **body)
    assert (await put(view["upload_url"], content)).status_code == 200
    done = await stand.client.post(f"/v1/objects/{view['id']}/complete")
    assert (done.status_code, done.json()["state"]) == (200, "READ_ONLY")
    return str(view["id"])


async def address(stand: Stand, object_id: str, **query: Any) -> str:
    answer = await stand.client.get(f"/v1/objects/{object_id}/download", params=query)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["download_url"])


@pytest.mark.parametrize("size", [0, 1, 3 * MIB + 17])
async def test_content_goes_up_and_comes_down_whole(stand: Stand, size: int) -> None:
    content = os.urandom(size)
    view = await create(stand, metadata={"a": "b"})
    assert view["upload_url"].startswith(stand.url + "/")
    assert (view["state"], view["upload_headers"], "size_bytes" in view) == ("UPLOADING", {}, False)
    assert (await put(view["upload_url"], content)).status_code == 200
    done = (await stand.client.post(f"/v1/objects/{view['id']}/complete", json={})).json()
    assert (done["state"], done["size_bytes"], done["metadata"]) == ("READ_ONLY", size, {"a": "b"})
    assert "upload_url" not in done
    down = await fetch(await address(stand, view["id"]))
    assert down.content == content
    assert down.headers["content-length"] == str(size)


async def test_ranges_of_the_content_are_fetched(stand: Stand) -> None:
    content = os.urandom(MIB)
    url = await address(stand, await whole(stand, content))
    for asked, part in (("0-0", content[:1]), ("100-", content[100:]), ("-7", content[-7:])):
        answer = await fetch(url, Range=f"bytes={asked}")
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{MIB}")
    for asked, status in ((f"bytes={MIB}-", 416), ("bytes=x", 400)):
        refused = await fetch(url, Range=asked)
        assert (refused.status_code, refused.json()["kind"]) == (status, "invalid")


async def test_content_is_for_no_browser_to_show(stand: Stand) -> None:
    object_id = await whole(stand, b"<script>alert(1)</script>", name="../../<b>\u2028.html")
    headers = (await fetch(await address(stand, object_id))).headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''%3Cb%3E%E2%80%A8.html"
    assert headers["x-content-type-options"] == "nosniff"


async def test_a_later_upload_replaces_an_earlier_one_until_it_is_completed(stand: Stand) -> None:
    view = await create(stand)
    for content in (b"first", b"second"):
        assert (await put(view["upload_url"], content)).status_code == 200
    await stand.client.post(f"/v1/objects/{view['id']}/complete")
    late = await put(view["upload_url"], b"third")
    assert (late.status_code, late.json()["kind"]) == (409, "conflict")
    assert (await fetch(await address(stand, view["id"]))).content == b"second"
    again = await stand.client.post(f"/v1/objects/{view['id']}/complete")
    assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")


async def test_nothing_can_be_read_or_completed_before_there_is_something(stand: Stand) -> None:
    view = await create(stand)
    for ask in (
        stand.client.post(f"/v1/objects/{view['id']}/complete"),
        stand.client.get(f"/v1/objects/{view['id']}/download"),
    ):
        assert (await ask).json()["kind"] == "wrong-state"


async def test_a_deleted_object_stays_readable_as_deleted_and_its_content_goes(stand: Stand) -> None:
    object_id = await whole(stand, b"content")
    url = await address(stand, object_id)
    gone = (await stand.client.post(f"/v1/objects/{object_id}/delete", json={})).json()
    assert gone["state"] == "DELETED"
    assert (await stand.client.get(f"/v1/objects/{object_id}")).json()["state"] == "DELETED"
    assert (await fetch(url)).status_code == 400
    assert (await stand.client.get(f"/v1/objects/{object_id}/download")).status_code == 400
    assert (await stand.client.post(f"/v1/objects/{object_id}/delete")).json()["state"] == "DELETED"
    async with asyncio.timeout(10):
        while list((stand.folder / "objects").rglob(object_id)):
            await asyncio.sleep(0.02)
    listed = (await stand.client.get("/v1/objects")).json()
    assert (listed["objects"], listed["total_count"]) == ([], 0)
    deleted = (await stand.client.get("/v1/objects", params={"state": "DELETED"})).json()
    assert [one["id"] for one in deleted["objects"]] == [object_id]


async def test_addresses_hold_for_their_act_their_object_and_their_time_only(stand: Stand) -> None:
    first, second = await create(stand), await create(stand)
    object_id = await whole(stand, b"content")
    download, brief = await address(stand, object_id), await address(stand, object_id, duration_seconds=1)
    token = parse_qs(urlsplit(first["upload_url"]).query)["token"][0]
    wrong = [
        await put(first["upload_url"].replace(first["id"], second["id"]), b"x"),
        await put(first["upload_url"][:-2] + "xx", b"x"),
        await put(download, b"x"),
        await fetch(f"{stand.url}/v1/objects/{object_id}/content?token={token}"),
        await fetch(f"{stand.url}/v1/objects/{object_id}/content?token={'A' * 512}"),
    ]
    assert [(one.status_code, one.json()["kind"]) for one in wrong] == [(403, "forbidden")] * 5
    assert (await fetch(f"{stand.url}/v1/objects/{object_id}/content")).status_code == 400
    assert (await fetch(download)).content == b"content"
    await asyncio.sleep(1.1)
    assert "expired" in (await fetch(brief)).json()["message"]


async def test_an_object_is_its_accounts_alone(stand: Stand) -> None:
    object_id = await whole(stand, b"content", metadata={"a": "b"})
    stranger = {"authorization": f"Bearer {await stand.second_account()}"}
    for method, path in (
        ("GET", ""), ("GET", "/download"), ("POST", "/delete"), ("POST", "/complete"),
    ):  # fmt: skip
        answer = await stand.client.request(method, f"/v1/objects/{object_id}{path}", headers=stranger)
        assert (answer.status_code, answer.json()["kind"]) == (404, "not-found")
    assert (await stand.client.get("/v1/objects", headers=stranger)).json()["objects"] == []
    assert (await stand.client.get("/v1/objects/metadata/keys", headers=stranger)).json()["keys"] == []
    mounts = [{"type": "object_mount", "object_id": object_id, "object_path": "/home/user/x"}]
    create = await stand.client.post("/v1/devboxes", json={"mounts": mounts}, headers=stranger)
    assert create.status_code == 404
    reader = {"authorization": f"Bearer {await stand.restricted({'objects': 'read'})}"}
    assert (await stand.client.get(f"/v1/objects/{object_id}/download", headers=reader)).status_code == 200
    assert (await stand.client.post("/v1/objects", json=TEXT, headers=reader)).status_code == 403


async def test_lists_filter_and_page(stand: Stand) -> None:
    ids = [await whole(stand, b"x", name=f"file_{number}", content_type="binary") for number in range(3)]
    other = (await create(stand, name="100% of it", metadata={"k/1": "v"}))["id"]
    every: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = (await stand.client.get("/v1/objects", params=query)).json()
        every += [one["id"] for one in page["objects"]]
        assert page["total_count"] == 4
        if not page["has_more"]:
            break
        query["starting_after"] = every[-1]
    assert every == [other, *reversed(ids)]
    for filters, wanted in (
        ({"content_type": "binary"}, ids[::-1]), ({"name": "file_1"}, [ids[1]]), ({"name": "%"}, [other]),
        ({"search": ids[2]}, [ids[2]]), ({"search": "_"}, ids[::-1]), ({"state": "UPLOADING"}, [other]),
    ):  # fmt: skip
        found = (await stand.client.get("/v1/objects", params=filters)).json()
        assert ([one["id"] for one in found["objects"]], found["total_count"]) == (wanted, len(wanted)), filters
    assert (await stand.client.get("/v1/objects/metadata/keys")).json() == {"keys": ["k/1"]}
    values = await stand.client.get("/v1/objects/metadata/keys/k/1/values")
    assert values.json() == {"key": "k/1", "values": ["v"]}
    assert (await stand.client.get("/v1/objects/list_public")).json()["objects"] == []


async def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(stand: Stand) -> None:
    view = await create(stand)

    async def too_much() -> AsyncIterator[bytes]:
        for _ in range(OBJECT_LIMIT // MIB + 2):
            yield bytes(MIB)

    for content in (bytes(OBJECT_LIMIT + 1), too_much()):
        answer = await put(view["upload_url"], content)
        assert (answer.status_code, answer.json()["kind"]) == (413, "too-large")
    assert not [path for path in (stand.folder / "objects").rglob("*") if view["id"] in path.name]


async def test_an_upload_that_breaks_off_leaves_nothing(stand: Stand) -> None:
    view = await create(stand)
    parts = urlsplit(view["upload_url"])
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {4 * MIB}\r\n\r\n"
    writer.write(head.encode() + bytes(2 * MIB))
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.transport.abort()
    async with asyncio.timeout(10):
        while stand.waits() or list((stand.folder / "objects").rglob(f"{view['id']}*")):
            await asyncio.sleep(0.02)
    assert (await stand.client.post(f"/v1/objects/{view['id']}/complete")).status_code == 400


async def test_the_same_request_makes_one_object(stand: Stand) -> None:
    headers = {"x-request-id": "one"}
    answers = [(await stand.client.post("/v1/objects", json=TEXT, headers=headers)).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert (await stand.client.get("/v1/objects")).json()["total_count"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""}, {"name": "a\nb"}, {"name": "x" * 257}, {"content_type": "html"}, {"ttl_ms": 0},
        {"ttl_ms": 2**60}, {"metadata": {"": "x"}}, {"other": 1},
    ],
)  # fmt: skip
async def test_what_an_object_cannot_be_is_refused_by_field(stand: Stand, body: dict[str, Any]) -> None:
    answer = await stand.client.post("/v1/objects", json={**TEXT, **body})
    assert answer.status_code == 400
    assert next(iter(body)) in answer.json()["message"]


async def test_an_address_is_told_as_the_setting_has_it(stand: Stand) -> None:
    host = await stand.client.post("/v1/objects", json=TEXT, headers={"host": "api.example.test:99"})
    assert host.json()["upload_url"].startswith("http://api.example.test:99/v1/objects/")
