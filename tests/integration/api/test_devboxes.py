"""Devboxes over HTTP: their life, lists and waits."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import quote

import httpx
import pytest

from tests.integration.api.stand import Stand


async def test_a_devbox_is_created_runs_and_is_shut_down(stand: Stand) -> None:
    answer = await stand.client.post("/v1/devboxes", json={"name": "one", "metadata": {"a": "b"}})
    assert answer.status_code == 200
    view = answer.json()
    assert view["status"] in {"provisioning", "initializing", "running"}
    assert (view["name"], view["metadata"], view["capabilities"]) == ("one", {"a": "b"}, [])
    assert "tunnel" not in view
    waited = await stand.client.post(
        f"/v1/devboxes/{view['id']}/wait_for_status",
        json={"statuses": ["running", "failure"], "timeout_seconds": 20.0},
    )
    assert waited.json()["status"] == "running"
    assert [step["status"] for step in waited.json()["state_transitions"]][:1] == ["provisioning"]
    ended = await stand.client.post(f"/v1/devboxes/{view['id']}/shutdown")
    assert (ended.json()["status"], ended.json()["shutdown_reason"]) == ("shutdown", "api_shutdown")
    again = await stand.client.post(f"/v1/devboxes/{view['id']}/shutdown", json={})
    assert again.json() == ended.json()
    assert (await stand.client.get(f"/v1/devboxes/{view['id']}")).json() == ended.json()


async def test_create_and_await_running_answers_when_the_devbox_runs(stand: Stand) -> None:
    assert await stand.devbox()


@pytest.mark.slow
async def test_create_and_await_running_answers_with_the_booting_view_after_its_hold(stand: Stand) -> None:
    with stand.host.held("create"):
        begun = time.monotonic()
        answer = await stand.client.post("/v1/devboxes/create_and_await_running", json={})
        assert 18 < time.monotonic() - begun < 25
        assert (answer.status_code, answer.json()["status"]) == (200, "provisioning")


async def test_a_wait_answers_408_after_its_time_and_never_with_another_status(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    begun = time.monotonic()
    answer = await stand.client.post(
        f"/v1/devboxes/{devbox_id}/wait_for_status",
        json={"statuses": ["suspended", "failure"], "timeout_seconds": 0.5},
    )
    assert 0.4 < time.monotonic() - begun < 5
    assert answer.status_code == 408
    assert answer.json()["kind"] == "timed-out"
    assert answer.headers["x-should-retry"] == "true"


async def test_a_wait_ends_when_the_devbox_ends(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"statuses": ["shutdown", "failure"], "timeout_seconds": 20}
    waiting = asyncio.create_task(stand.client.post(f"/v1/devboxes/{devbox_id}/wait_for_status", json=body))
    await asyncio.sleep(0.1)
    await stand.client.post(f"/v1/devboxes/{devbox_id}/shutdown")
    assert (await waiting).json()["status"] == "shutdown"


async def test_a_client_that_leaves_a_wait_leaves_nothing_behind(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    await stand.client.get("/healthz")
    before = len(asyncio.all_tasks())
    body = {"statuses": ["failure"], "timeout_seconds": 25}
    waiting = [
        asyncio.create_task(stand.client.post(f"/v1/devboxes/{devbox_id}/wait_for_status", json=body))
        for _ in range(5)
    ]
    await asyncio.sleep(0.2)
    assert stand.waits() == 5
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for _ in range(100):
        await asyncio.sleep(0.02)
        if stand.waits() == 0 and len(asyncio.all_tasks()) <= before:
            return
    raise AssertionError([task.get_name() for task in asyncio.all_tasks()])


async def test_lists_are_pages_newest_first(stand: Stand) -> None:
    ids = [(await stand.client.post("/v1/devboxes", json={"name": f"n{n % 2}"})).json()["id"] for n in range(5)]
    ids.reverse()
    first = (await stand.client.get("/v1/devboxes", params={"limit": 2})).json()
    assert [one["id"] for one in first["devboxes"]] == ids[:2]
    assert (first["has_more"], first["total_count"]) == (True, 5)
    rest = await stand.client.get(
        "/v1/devboxes", params={"limit": 3, "starting_after": ids[1], "include_total_count": "false"}
    )
    assert [one["id"] for one in rest.json()["devboxes"]] == ids[2:]
    assert rest.json()["has_more"] is False
    assert "total_count" not in rest.json()
    named = (await stand.client.get("/v1/devboxes", params={"name": "n1"})).json()
    assert [one["id"] for one in named["devboxes"]] == [ids[1], ids[3]]


async def test_lists_are_filtered_by_status_and_metadata(stand: Stand) -> None:
    ids = [
        (await stand.client.post("/v1/devboxes", json={"metadata": {"team": team, "n": "1"}})).json()["id"]
        for team in ("red", "blue", "green")
    ]

    async def found(query: str) -> list[str]:
        answer = await stand.client.get(f"/v1/devboxes?{query}")
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["devboxes"]]

    assert await found("metadata[team]=red") == [ids[0]]
    assert await found("metadata%5Bteam%5D=red&metadata[n]=1") == [ids[0]]
    assert await found("metadata[team][in]=red,blue") == [ids[1], ids[0]]
    assert await found("metadata[team]=none") == []
    assert await found("status=suspended") == []
    await stand.client.post(f"/v1/devboxes/{ids[0]}/shutdown")
    assert await found("status=shutdown") == [ids[0]]


async def test_an_update_changes_what_is_sent_and_clears_what_is_empty(stand: Stand) -> None:
    devbox_id = (await stand.client.post("/v1/devboxes", json={"name": "a", "metadata": {"k": "v"}})).json()["id"]
    renamed = (await stand.client.post(f"/v1/devboxes/{devbox_id}", json={"name": "b"})).json()
    assert (renamed["name"], renamed["metadata"]) == ("b", {"k": "v"})
    cleared = (await stand.client.post(f"/v1/devboxes/{devbox_id}", json={"name": "", "metadata": {}})).json()
    assert cleared["metadata"] == {}
    assert "name" not in cleared


async def test_usage_logs_and_keep_alive_answer(stand: Stand) -> None:
    devbox_id = await stand.devbox(launch_parameters={"resource_size_request": "X_SMALL"})
    await stand.run(devbox_id, "echo from-the-command")
    usage = (await stand.client.get(f"/v1/devboxes/{devbox_id}/usage")).json()
    assert (usage["id"], usage["status"]) == (devbox_id, "running")
    assert {"total_elapsed_seconds", "total_active_seconds", "vcpu_seconds", "disk_gb_seconds"} <= usage.keys()
    logs = (await stand.client.get(f"/v1/devboxes/{devbox_id}/logs")).json()["logs"]
    assert any("from-the-command" in line.get("message", "") and line["source"] == "exec" for line in logs)
    assert (await stand.client.post(f"/v1/devboxes/{devbox_id}/keep_alive")).json() == {}


async def test_the_eviction_stream_is_open_and_silent(stand: Stand) -> None:
    async with stand.client.stream("GET", "/v1/devboxes/evictions/watch") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            assert line.startswith(":")
            break


async def test_another_account_sees_nothing_of_this_one(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    key = await stand.second_account()
    other = {"authorization": f"Bearer {key}"}
    assert (await stand.client.get("/v1/devboxes", headers=other)).json()["devboxes"] == []
    assert (await stand.client.get(f"/v1/devboxes/{devbox_id}", headers=other)).status_code == 404
    body = {"command": "true"}
    denied = await stand.client.post(f"/v1/devboxes/{devbox_id}/execute", json=body, headers=other)
    assert denied.status_code == 404
    assert (await stand.client.post(f"/v1/devboxes/{devbox_id}/shutdown", headers=other)).status_code == 404
    assert (await stand.client.get(f"/v1/devboxes/{devbox_id}")).json()["status"] == "running"


async def test_metadata_keys_and_values_are_listed_for_their_account_only(stand: Stand) -> None:
    for metadata in ({"team": "b", "env": "ci"}, {"team": "a"}, {"team": "a", "sp ace é": "1"}):
        await stand.devbox(metadata=metadata)
    keys = await stand.client.get("/v1/devboxes/metadata/keys")
    assert keys.json() == {"keys": ["env", "sp ace é", "team"], "has_more": False}
    values = await stand.client.get("/v1/devboxes/metadata/keys/team/values")
    assert values.json() == {"key": "team", "values": ["a", "b"], "has_more": False}
    odd = await stand.client.get("/v1/devboxes/metadata/keys/sp%20ace%20%C3%A9/values")
    assert odd.json() == {"key": "sp ace é", "values": ["1"], "has_more": False}
    assert (await stand.client.get("/v1/devboxes/metadata/keys/none/values")).json()["values"] == []
    other = {"authorization": f"Bearer {await stand.second_account()}"}
    assert (await stand.client.get("/v1/devboxes/metadata/keys", headers=other)).json() == {
        "keys": [],
        "has_more": False,
    }


@pytest.mark.parametrize("key", ["a/b", "/a", "a/", "/", "a//b", "a/values", "values/values", "app.io/na me%2F?#"])
async def test_the_values_of_a_metadata_key_with_slashes_are_listed(stand: Stand, key: str) -> None:
    await stand.devbox(metadata={key: "1", "a": "other", "b": "other"})
    spellings = [quote(key, safe=""), quote(key, safe="/")]
    for spelling in spellings:
        answer = await stand.client.get(httpx.URL(stand.url + f"/v1/devboxes/metadata/keys/{spelling}/values"))
        assert (answer.status_code, answer.json()) == (200, {"key": key, "values": ["1"], "has_more": False}), spelling
    assert key in (await stand.client.get("/v1/devboxes/metadata/keys")).json()["keys"]


async def test_an_empty_metadata_key_is_no_key(stand: Stand) -> None:
    for path in ("keys//values", "keys/values"):
        assert (await stand.client.get(f"/v1/devboxes/metadata/{path}")).status_code == 404


async def test_metadata_keys_and_values_are_listed_in_pages(stand: Stand) -> None:
    keys = [f"k{number:03}" for number in range(250)]
    await stand.devbox(metadata=dict.fromkeys(keys, "v"))
    for number in range(5):
        await stand.devbox(metadata={"k000": str(number)})

    async def pages(path: str, plural: str, limit: int) -> list[list[str]]:
        query, found = {"limit": str(limit)}, []
        while True:
            answer = (await stand.client.get(path, params=query)).json()
            found.append(answer[plural])
            if not answer["has_more"]:
                return found
            query["starting_after"] = answer[plural][-1]

    found = await pages("/v1/devboxes/metadata/keys", "keys", 100)
    assert [len(page) for page in found] == [100, 100, 50]
    assert [key for page in found for key in page] == keys
    assert await pages("/v1/devboxes/metadata/keys/k000/values", "values", 3) == [["0", "1", "2"], ["3", "4", "v"]]
    for bad in ("0", "5001", "x"):
        assert (await stand.client.get("/v1/devboxes/metadata/keys", params={"limit": bad})).status_code == 400
