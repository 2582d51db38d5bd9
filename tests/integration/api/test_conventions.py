"""What holds on every route: keys, errors, request ids, bodies, parameters, and the document that describes it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from corral.api import later, replay
from corral.api.routing import Route
from corral.runtime.contract import HostExhausted
from corral.runtime.fake import FakeHost
from tests.integration.api.stand import Stand, standing

UNKNOWN = "dbx_" + "0" * 21
COMMAND = {"command": "true"}


def told(answer: httpx.Response, status: int, kind: str, text: str) -> None:
    """The answer is an error of the one shape, with this status, kind and text."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"code", "message", "kind"}
    assert (body["code"], body["kind"]) == (status, kind)
    assert text in body["message"], body["message"]


# -- keys


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (None, "there is no Authorization header"),
        ("", "there is no Authorization header"),
        ("Basic YTpi", "is not `Bearer <key>`"),
        ("Bearer", "is not `Bearer <key>`"),
        ("Bearer ak_wrong", "unknown or was revoked"),
        ("Bearer k\u00e9y", "unknown or was revoked"),
    ],
)
async def test_without_a_valid_key_nothing_is_answered(stand: Stand, header: str | None, text: str) -> None:
    headers = {} if header is None else {b"authorization": header.encode()}
    async with httpx.AsyncClient(base_url=stand.url) as stranger:
        for path in ("/v1/devboxes", f"/v1/devboxes/{UNKNOWN}", "/v1/accounts/me", "/v1/blueprints"):
            answer = await stranger.get(path, headers=headers)
            told(answer, 401, "unauthenticated", text)
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_new_keys_work_until_they_expire(stand: Stand) -> None:
    made = (await stand.client.post("/v1/apikeys", json={"name": "ci"})).json()
    assert made["name"] == "ci"
    assert re.fullmatch(r"ak_[0-9A-Za-z]{43}", made["key_secret"])
    headers = {"authorization": f"Bearer {made['key_secret']}"}
    assert (await stand.client.get("/v1/accounts/me", headers=headers)).status_code == 200
    past = await stand.client.post("/v1/apikeys", json={"expires_at_ms": 1})
    told(past, 400, "invalid", "expires_at_ms: is in the past")


async def test_health_and_description_need_no_key(stand: Stand) -> None:
    async with httpx.AsyncClient(base_url=stand.url) as stranger:
        assert (await stranger.get("/healthz")).json()["status"] == "ok"
        assert (await stranger.get("/openapi.json")).json()["openapi"].startswith("3.")


async def test_health_is_503_with_the_reasons_when_no_box_can_be_created(stand: Stand) -> None:
    stand.reasons.append("cannot mount the pool: no loop device; load the module loop")
    answer = await stand.client.get("/healthz")
    assert answer.status_code == 503
    assert (answer.json()["status"], answer.json()["reasons"]) == ("unhealthy", stand.reasons)


async def test_a_restricted_key_does_what_its_scopes_allow_and_no_more(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    key = await stand.restricted({"devboxes": "read"})
    headers = {"authorization": f"Bearer {key}"}
    assert (await stand.client.get(f"/v1/devboxes/{devbox_id}", headers=headers)).status_code == 200
    for path in (f"/v1/devboxes/{devbox_id}/execute", f"/v1/devboxes/{devbox_id}/upload_file", "/v1/devboxes"):
        denied = await stand.client.post(path, json=COMMAND, headers=headers)
        told(denied, 403, "forbidden", "this key has no right to write devboxes")
    told(await stand.client.get("/v1/accounts/me", headers=headers), 403, "forbidden", "no right to read account")


DEVBOXES_READ = {"resource_type": "RESOURCE_TYPE_DEVBOXES", "access_level": "ACCESS_LEVEL_READ"}
ACCOUNT_WRITE = {"resource_type": "RESOURCE_TYPE_ACCOUNT", "access_level": "ACCESS_LEVEL_WRITE"}


async def make_restricted(stand: Stand, scopes: object, **headers: str) -> httpx.Response:
    body = {"name": "ci", "scopes": scopes}
    return await stand.client.post("/v1/restricted_keys", json=body, headers=headers)


async def test_a_restricted_key_is_made_with_its_scopes(stand: Stand) -> None:
    made = (await make_restricted(stand, [DEVBOXES_READ])).json()
    assert (made["name"], made["scopes"]) == ("ci", [DEVBOXES_READ])
    assert re.fullmatch(r"rk_[0-9A-Za-z]{43}", made["key_secret"])
    headers = {"authorization": f"Bearer {made['key_secret']}"}
    assert (await stand.client.get("/v1/devboxes", headers=headers)).status_code == 200
    denied = await stand.client.post("/v1/devboxes", json={}, headers=headers)
    told(denied, 403, "forbidden", "this key has no right to write devboxes")


@pytest.mark.parametrize(
    ("scopes", "text"),
    [
        ([], "scopes"),
        (None, "scopes"),
        ([{"resource_type": "RESOURCE_TYPE_MOON", "access_level": "ACCESS_LEVEL_READ"}], "resource_type"),
        ([{"resource_type": "RESOURCE_TYPE_DEVBOXES", "access_level": "ACCESS_LEVEL_ADMIN"}], "access_level"),
        ([DEVBOXES_READ, DEVBOXES_READ], "more than once"),
    ],
)
async def test_bad_scopes_are_refused(stand: Stand, scopes: object, text: str) -> None:
    told(await make_restricted(stand, scopes), 400, "invalid", text)


async def test_a_restricted_key_gives_no_more_than_it_has(stand: Stand) -> None:
    made = (await make_restricted(stand, [DEVBOXES_READ, ACCOUNT_WRITE])).json()
    headers = {"authorization": f"Bearer {made['key_secret']}"}
    further = {**DEVBOXES_READ, "access_level": "ACCESS_LEVEL_WRITE"}
    told(await make_restricted(stand, [further], **headers), 403, "forbidden", "write devboxes that it could give")
    assert (await make_restricted(stand, [DEVBOXES_READ], **headers)).status_code == 200
    heir = (await stand.client.post("/v1/apikeys", json={}, headers=headers)).json()["key_secret"]
    assert heir.startswith("rk_")
    denied = await stand.client.post("/v1/devboxes", json={}, headers={"authorization": f"Bearer {heir}"})
    told(denied, 403, "forbidden", "this key has no right to write devboxes")


async def test_a_key_that_an_ending_key_makes_ends_with_it(stand: Stand) -> None:
    ends = round(time.time() * 1000) + 60_000
    made = (await stand.client.post("/v1/apikeys", json={"expires_at_ms": ends})).json()
    headers = {"authorization": f"Bearer {made['key_secret']}"}
    for asked in (None, ends + 1000):
        heir = await stand.client.post("/v1/apikeys", json={"expires_at_ms": asked}, headers=headers)
        assert heir.json()["expires_at_ms"] == ends
    sooner = await stand.client.post("/v1/apikeys", json={"expires_at_ms": ends - 1000}, headers=headers)
    assert sooner.json()["expires_at_ms"] == ends - 1000


async def test_another_key_does_not_get_the_answer_of_a_repeated_request(stand: Stand) -> None:
    other = (await stand.client.post("/v1/apikeys", json={})).json()["key_secret"]
    ids = set()
    for authorization in (f"Bearer {stand.key}", f"Bearer {other}"):
        headers = {"authorization": authorization, "x-request-id": "the-same"}
        ids.add((await stand.client.post("/v1/devboxes", json={}, headers=headers)).json()["id"])
    assert len(ids) == 2


# -- routes and ids


async def test_unknown_routes_and_methods_are_told_apart(stand: Stand) -> None:
    for path in ("/", "/v1", "/v1/devbox", "/v1/devboxes/", f"/v1/devboxes/{UNKNOWN}/nothing", "/v1//devboxes"):
        told(await stand.client.get(path), 404, "not-found", "there is no such route")
    refused = await stand.client.delete(f"/v1/devboxes/{UNKNOWN}")
    told(refused, 405, "method-not-allowed", "this route takes GET, POST")
    assert refused.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("devbox_id", ["dbx_nonexistent12345", "x", "dbx_", UNKNOWN + "0", "dbx_" + "-" * 21, "%00"])
async def test_a_malformed_id_is_400_and_a_well_formed_unknown_one_404(stand: Stand, devbox_id: str) -> None:
    answer = await stand.client.get(f"/v1/devboxes/{devbox_id}")
    told(answer, 400, "invalid", "cannot show devbox: devbox_id: is malformed")
    told(await stand.client.get(f"/v1/devboxes/{UNKNOWN}"), 404, "not-found", UNKNOWN)


async def test_an_unknown_execution_is_404(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    told(await stand.client.get(f"/v1/devboxes/{devbox_id}/executions/none"), 404, "not-found", "execution none")
    told(
        await stand.client.get(f"/v1/devboxes/{devbox_id}/executions/a%20b"),
        400,
        "invalid",
        "execution_id: is malformed",
    )
    path = f"/v1/devboxes/{devbox_id}/executions/none/stream_stdout_updates"
    told(await stand.client.get(path), 404, "not-found", "execution none")


async def test_every_route_of_later_work_answers_501_and_asks_for_no_retry(stand: Stand) -> None:
    rows = list(later.rows())
    assert rows
    for row in rows:
        path = re.sub(r"{\w+}", "x1", row.path)
        answer = await stand.client.request(row.method, path)
        told(answer, 501, "not-offered", "this server does not offer")
        assert answer.headers["x-should-retry"] == "false"


# -- bodies and parameters


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        (b"{", "application/json", "the body is not JSON"),
        (b"\xff", "application/json", "cannot create devbox"),
        (b"[" * 100_000, "application/json", "cannot create devbox"),
        (b"[]", "application/json", "must be an object"),
        (b"1", "application/json", "must be an object"),
        (b"null", "application/json", "cannot create devbox"),
        (b'{"name": ' + b"9" * 5000 + b"}", "application/json", "cannot create devbox"),
        (b"{}", "text/plain", "content-type must be application/json, not text/plain"),
        (b"name=x", "application/x-www-form-urlencoded", "content-type must be application/json"),
    ],
)
async def test_a_body_that_is_no_json_object_is_400(stand: Stand, content: bytes, kind: str, text: str) -> None:
    answer = await stand.client.post("/v1/devboxes", content=content, headers={"content-type": kind})
    told(answer, 400, "invalid", text)


async def test_every_problem_of_a_body_is_told_at_once(stand: Stand) -> None:
    body = {"nmae": "x", "metadata": {"a": 1}, "launch_parameters": {"keep_alive_time_seconds": "60"}}
    answer = await stand.client.post("/v1/devboxes", json=body)
    told(answer, 400, "invalid", "cannot create devbox: ")
    for text in (
        "nmae: is not a field of this body",
        "metadata.a: must be a string",
        "launch_parameters.keep_alive_time_seconds: must be a whole number",
    ):
        assert text in answer.json()["message"]


async def test_a_body_over_the_limit_is_413_with_the_limit(stand: Stand) -> None:
    path = f"/v1/devboxes/{UNKNOWN}/execute"
    big = json.dumps({"command": "x" * (1024 * 1024)}).encode()
    headers = {"content-type": "application/json"}
    told(
        await stand.client.post(path, content=big, headers=headers),
        413,
        "too-large",
        "the body is over 1048576 bytes",
    )

    async def unannounced() -> Any:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    told(
        await stand.client.post(path, content=unannounced(), headers=headers),
        413,
        "too-large",
        "over 1048576 bytes",
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "command: is missing"),
        ({"command": ""}, "command: must not be blank"),
        ({"command": 1}, "command: must be a string"),
        ({"command": "a\0b"}, "command: must not hold a NUL character"),
        ({"command": "x" * 131_072}, "command: must be at most 131071 bytes, not 131072: write a script"),
        ({"command": "true", "command_id": "1"}, "command_id: must be a UUID"),
        ({"command": "true", "optimistic_timeout": 26}, "optimistic_timeout: must be at most 25, not 26"),
        ({"command": "true", "optimistic_timeout": -1}, "optimistic_timeout: must be at least 0, not -1"),
        ({"command": "true", "attach_stdin": True}, "attach_stdin: must be False"),
        ({"command": "true", "shell_name": ""}, "shell_name: must be 1 to 256 printable characters"),
        ({"command": "true", "cwd": "/"}, "cwd: is not a field of this body"),
    ],
)
async def test_a_bad_execute_body_is_told_field_by_field(stand: Stand, body: dict[str, Any], text: str) -> None:
    told(await stand.client.post(f"/v1/devboxes/{UNKNOWN}/execute", json=body), 400, "invalid", text)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("limit=0", "limit: must be at least 1, not '0'"),
        ("limit=5001", "limit: must be at most 5000"),
        ("limit=x", "limit: must be a whole number"),
        ("status=asleep", "status: must be 'scheduled', "),
        (f"starting_after={UNKNOWN}", UNKNOWN),
        ("include_total_count=perhaps", "include_total_count: must be true or false"),
        (
            "stauts=running",
            "stauts: is not a query parameter of this route; it takes status, name, metadata[key], limit",
        ),
        ("metadata[a][not]=b", "write metadata[key]=value"),
        ("metadata[a]=b&metadata[a]=c", "a: is there twice"),
        ("metadata[a][in]=" + "b," * 100, "metadata[a][in]: must be at most 100 values"),
        ("metadata=b", "metadata: is not a query parameter"),
        ("name=" + "x" * 17_000, "is over 16384 bytes"),
    ],
)
async def test_bad_query_parameters_are_refused_and_not_ignored(stand: Stand, query: str, text: str) -> None:
    answer = await stand.client.get(f"/v1/devboxes?{query}")
    assert answer.status_code in {400, 413}
    assert text in answer.json()["message"]


async def test_a_wait_for_an_unknown_status_is_400(stand: Stand) -> None:
    for path in ("", "/executions/x"):
        answer = await stand.client.post(
            f"/v1/devboxes/{UNKNOWN}{path}/wait_for_status", json={"statuses": ["asleep"]}
        )
        told(answer, 400, "invalid", "statuses[0]: must be ")
        answer = await stand.client.post(f"/v1/devboxes/{UNKNOWN}{path}/wait_for_status", json={"statuses": []})
        told(answer, 400, "invalid", "statuses: must have at least 1 entries")


# -- repeats


async def test_a_repeated_create_gets_the_first_answer(stand: Stand) -> None:
    headers = {"x-request-id": "stainless-node-retry-1"}
    for path in ("/v1/devboxes", "/v1/devboxes/create_and_await_running"):
        answers = await asyncio.gather(
            *(stand.client.post(path, json={"name": "a"}, headers=headers) for _ in range(5))
        )
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sorted(answer.headers.get("x-corral-replayed", "") for answer in answers) == ["", *["true"] * 4]
    assert (await stand.client.get("/v1/devboxes")).json()["total_count"] == 2


async def test_another_body_account_or_path_is_another_request(stand: Stand) -> None:
    headers = {"x-request-id": "same"}
    other = headers | {"authorization": f"Bearer {await stand.second_account()}"}
    made = {
        (await stand.client.post("/v1/devboxes", json=body, headers=which)).json()["id"]
        for body, which in (({}, headers), ({"name": "b"}, headers), ({}, other))
    }
    assert len(made) == 3


async def test_a_repeat_gets_its_answer_after_a_restart(tmp_path: Path) -> None:
    headers = {"x-request-id": "before-the-restart"}
    with FakeHost(tmp_path / "host") as host:
        async with standing(tmp_path, host) as first:
            made = await first.client.post("/v1/devboxes", json={}, headers=headers)
        async with standing(tmp_path, host) as second:
            again = await second.client.post("/v1/devboxes", json={}, headers=headers)
            assert (again.json(), again.headers["x-corral-replayed"]) == (made.json(), "true")
            assert (await second.client.get("/v1/devboxes")).json()["total_count"] == 1


async def test_a_refused_create_is_repeated_as_refused(stand: Stand) -> None:
    headers = {"x-request-id": "bad"}
    for _ in range(2):
        answer = await stand.client.post("/v1/devboxes", json={"blueprint_name": "none"}, headers=headers)
        told(answer, 400, "invalid", "there is no blueprint")


@pytest.mark.parametrize(
    ("status", "kept"),
    [(200, True), (400, True), (404, True), (408, False), (409, False), (429, False), (500, False), (503, False)],
)
def test_only_finished_answers_are_kept(status: int, kept: bool) -> None:
    assert replay.Answer(status, b"").keepable is kept


async def test_a_client_that_leaves_a_create_finds_its_devbox_by_asking_again(stand: Stand) -> None:
    headers = {"x-request-id": "left"}
    with stand.host.held("create"), pytest.raises(httpx.ReadTimeout):
        await stand.client.post("/v1/devboxes/create_and_await_running", json={}, headers=headers, timeout=0.3)
    again = await stand.client.post("/v1/devboxes/create_and_await_running", json={}, headers=headers)
    page = (await stand.client.get("/v1/devboxes")).json()
    assert [one["id"] for one in page["devboxes"]] == [again.json()["id"]]


# -- what goes wrong below


async def test_a_command_that_the_host_cannot_start_says_so(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    stand.host.fail("execute", HostExhausted("cannot start command: the pids limit of the box is reached"))
    answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/execute", json=COMMAND)
    told(answer, 429, "exhausted", "the pids limit of the box is reached")


async def test_a_fault_of_corral_is_500_and_tells_nothing_of_the_inside(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    stand.host.fail("list_files", ZeroDivisionError("secret detail"))
    answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/list_files", json={})
    told(answer, 500, "internal", "cannot list files: an error in Corral")
    assert "secret detail" not in answer.text


# -- the document


async def test_the_document_has_every_route_with_its_errors(stand: Stand) -> None:
    spec = (await stand.client.get("/openapi.json")).json()
    rows = stand.gate.table.rows
    for row in rows:
        if row.method == "WEBSOCKET":
            continue
        operation = spec["paths"][row.documented][row.method.lower()]
        assert operation["summary"]
        assert "422" not in operation["responses"]
        public = row.need.resource is None
        tunnelled = isinstance(row, Route) and row.tunnel
        assert operation["security"] == ([] if public else [{"tunnelToken" if tunnelled else "bearerAuth": []}])
        if not public:
            schema = operation["responses"]["401"]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ErrorView"}
    described = sum(len(operations) for operations in spec["paths"].values())
    assert described == sum(row.method != "WEBSOCKET" for row in rows)
    ids = [operation["operationId"] for operations in spec["paths"].values() for operation in operations.values()]
    assert len(ids) == len(set(ids))


async def test_every_reference_of_the_document_leads_somewhere(stand: Stand) -> None:
    spec = (await stand.client.get("/openapi.json")).json()
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(spec)))
    assert names <= spec["components"]["schemas"].keys()
    assert {"DevboxView", "ExecutionView", "CreateBody", "ErrorView"} <= names
