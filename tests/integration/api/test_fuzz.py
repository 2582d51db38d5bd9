"""The HTTP API against its own OpenAPI document: requests that keep the schema, and requests that break it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.harness import fuzzing
from tests.integration.api.fuzz import Fuzzer, Things, label
from tests.integration.api.stand import Stand

#: No repository is connected to this server: there is nothing that this could be given.
NEVER = {"POST /v1/blueprints/create_from_inspection"}

#: Requests to one route in one round.
EXAMPLES = 12


@pytest.mark.slow
@pytest.mark.timeout(240 + fuzzing.SECONDS)
async def test_every_answer_is_one_that_the_document_names(stand: Stand) -> None:
    spec = (await stand.client.get("/openapi.json")).json()
    things = await asyncio.to_thread(Things, stand.url, stand.key)
    with contextlib.closing(things):
        fuzzer = Fuzzer(stand.url, stand.key, spec, things)
        operations = list(fuzzer.operations())
        assert len(operations) > 25
        for seed in fuzzing.rounds():
            for operation in operations:
                await asyncio.to_thread(fuzzer.run, operation, EXAMPLES, seed)
    # Requests got past the key, the checks and the look-up as well as being refused by each.
    assert {200, 400, 401, 404} <= fuzzer.statuses.keys(), fuzzer.statuses
    assert {label(one) for one in operations} - fuzzer.succeeded == NEVER
    assert (await stand.client.get(f"/v1/devboxes/{things.devbox_id}")).json()["status"] == "running"


async def test_a_parameter_that_is_not_offered_gets_a_documented_501(stand: Stand) -> None:
    spec = (await stand.client.get("/openapi.json")).json()
    for path in ("/v1/devboxes", "/v1/devboxes/create_and_await_running"):
        answer = await stand.client.post(path, json={"secrets": {"A": "b"}})
        assert (answer.status_code, answer.json()["kind"]) == (501, "not-offered")
        assert "501" in spec["paths"][path]["post"]["responses"]
