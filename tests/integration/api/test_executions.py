"""Executions over HTTP: run, wait, stream, write to, kill."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.integration.api.stand import Stand

COMMAND_ID = "01990000-0000-7000-8000-000000000001"


async def events(stand: Stand, path: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
    """The data of each event of a stream, which must be framed as the clients need it."""
    async with stand.client.stream("GET", path, params=query, timeout=30) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        async for line in answer.aiter_lines():
            if line and not line.startswith(":"):
                assert line.startswith("data: "), line
                yield json.loads(line.removeprefix("data: "))


async def test_execute_answers_with_output_and_exit_status(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    view = await stand.run(devbox_id, "echo out; echo err >&2; exit 3")
    assert (view["stdout"], view["stderr"], view["exit_status"]) == ("out\n", "err\n", 3)
    assert (view["stdout_truncated"], view["stderr_truncated"]) == (False, False)
    assert view["devbox_id"] == devbox_id
    again = await stand.client.get(f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}")
    assert again.json() == view


async def test_views_hold_the_last_lines_and_say_that_there_are_more(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    view = await stand.run(devbox_id, "seq 1 250")
    assert view["stdout"].splitlines() == [str(n) for n in range(151, 251)]
    assert view["stdout_truncated"] is True
    view = await stand.run(devbox_id, "seq 1 250", last_n="3")
    assert view["stdout"] == "248\n249\n250\n"


async def test_a_command_that_takes_longer_goes_on_after_the_answer(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"command": "sleep 1; echo done", "command_id": COMMAND_ID, "optimistic_timeout": 0}
    view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/execute", json=body)).json()
    assert view["status"] == "running"
    assert "stdout" not in view
    path = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}/wait_for_status"
    early = await stand.client.post(path, json={"statuses": ["completed"], "timeout_seconds": 0.1})
    assert (early.status_code, early.headers["x-should-retry"]) == (408, "true")
    done = await stand.client.post(path, json={"statuses": ["completed"], "timeout_seconds": 20})
    assert (done.json()["stdout"], done.json()["exit_status"]) == ("done\n", 0)


async def test_the_same_command_id_is_the_same_execution(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"command": "echo once >> log; cat log", "command_id": COMMAND_ID}
    first, second = await asyncio.gather(
        *(stand.client.post(f"/v1/devboxes/{devbox_id}/execute", json=body) for _ in range(2))
    )
    assert first.json()["execution_id"] == second.json()["execution_id"]
    assert first.json()["stdout"] == second.json()["stdout"] == "once\n"


@pytest.mark.parametrize("route", ["execute_async", "execute_sync"])
async def test_a_repeat_with_the_same_request_id_does_not_run_the_command_again(stand: Stand, route: str) -> None:
    devbox_id = await stand.devbox()

    async def ask(request_id: str) -> None:
        headers = {"x-request-id": request_id}
        body = {"command": "echo once >> log"}
        answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/{route}", json=body, headers=headers)
        assert answer.status_code == 200
        if route == "execute_sync":
            return  # has ended
        path = f"/v1/devboxes/{devbox_id}/executions/{answer.json()['execution_id']}/wait_for_status"
        assert (await stand.client.post(path, json={"statuses": ["completed"]})).status_code == 200

    for _ in range(3):
        await ask("stainless-python-retry-1")
    assert (await stand.run(devbox_id, "wc -l < log"))["stdout"].strip() == "1"
    await ask("stainless-python-retry-2")
    assert (await stand.run(devbox_id, "wc -l < log"))["stdout"].strip() == "2"


async def test_execute_sync_gives_all_of_the_output(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    answer = await stand.client.post(f"/v1/devboxes/{devbox_id}/execute_sync", json={"command": "seq 1 5000; exit 7"})
    view = answer.json()
    assert view["stdout"] == "".join(f"{n}\n" for n in range(1, 5001))
    assert (view["stderr"], view["exit_status"], view["devbox_id"]) == ("", 7, devbox_id)


async def test_a_stream_is_byte_identical_and_resumes_at_any_offset(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    view = await stand.run(devbox_id, 'for i in $(seq 1 2000); do echo "line $i äöü € 🐎"; done')
    whole = "".join(f"line {n} äöü € 🐎\n" for n in range(1, 2001))
    path = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}/stream_stdout_updates"
    chunks = [event async for event in events(stand, path)]
    assert "".join(chunk["output"] for chunk in chunks) == whole
    assert chunks[-1]["offset"] == len(whole.encode())
    for before, after in itertools.pairwise(chunks):
        assert after["offset"] - before["offset"] == len(after["output"].encode())
    rest = [event async for event in events(stand, path, offset=chunks[0]["offset"])]
    assert chunks[0]["output"] + "".join(chunk["output"] for chunk in rest) == whole


async def test_a_stream_carries_output_as_it_is_written_and_ends_with_the_command(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"command": "for i in 1 2 3; do echo $i; echo e$i >&2; sleep 0.4; done"}
    view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/execute_async", json=body)).json()
    path = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}/stream_stderr_updates"
    begun = time.monotonic()
    seen = [(event["output"], time.monotonic() - begun) async for event in events(stand, path)]
    assert "".join(text for text, _ in seen) == "e1\ne2\ne3\n"
    assert len(seen) >= 3
    assert seen[0][1] < 0.5
    assert time.monotonic() - begun < 2.2


async def test_characters_that_split_lines_elsewhere_stay_inside_one_event(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    view = await stand.run(devbox_id, r"printf 'a\u2028b\u0085c\x0bd\re\n'")
    path = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}/stream_stdout_updates"
    assert "".join([event["output"] async for event in events(stand, path)]) == "a\u2028b\x85c\x0bd\re\n"


async def test_a_client_that_leaves_a_stream_leaves_nothing_behind(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    view = (
        await stand.client.post(f"/v1/devboxes/{devbox_id}/execute_async", json={"command": "echo hi; sleep 30"})
    ).json()
    await stand.client.get("/healthz")
    before = len(asyncio.all_tasks())
    path = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}/stream_stdout_updates"
    async for event in events(stand, path):
        assert event["output"] == "hi\n"
        break
    for _ in range(100):
        await asyncio.sleep(0.02)
        if stand.waits() == 0 and len(asyncio.all_tasks()) <= before:
            return
    raise AssertionError([task.get_name() for task in asyncio.all_tasks()])


async def test_standard_input_takes_text_and_its_end(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"command": "cat; echo end", "attach_stdin": True}
    view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/execute_async", json=body)).json()
    base = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}"
    sent = await stand.client.post(f"{base}/send_std_in", json={"text": "héllo\n"})
    assert sent.json() == {"devbox_id": devbox_id, "execution_id": view["execution_id"], "success": True}
    assert (await stand.client.post(f"{base}/send_std_in", json={"signal": "EOF"})).status_code == 200
    done = await stand.client.post(f"{base}/wait_for_status", json={"statuses": ["completed"]})
    assert done.json()["stdout"] == "héllo\nend\n"


async def test_a_repeated_send_writes_its_text_once(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"command": "cat", "attach_stdin": True}
    view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/execute_async", json=body)).json()
    base = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}"
    for _ in range(3):
        headers = {"x-request-id": "once"}
        assert (await stand.client.post(f"{base}/send_std_in", json={"text": "a\n"}, headers=headers)).json()[
            "success"
        ]
    await stand.client.post(f"{base}/send_std_in", json={"signal": "EOF"})
    done = await stand.client.post(f"{base}/wait_for_status", json={"statuses": ["completed"]})
    assert done.json()["stdout"] == "a\n"


@pytest.mark.parametrize("body", [{}, {"text": "a", "signal": "EOF"}, {"text": ""}, {"signal": "KILL"}])
async def test_standard_input_needs_exactly_one_of_text_and_signal(stand: Stand, body: dict[str, Any]) -> None:
    devbox_id = await stand.devbox()
    path = f"/v1/devboxes/{devbox_id}/executions/01990000/send_std_in"
    assert (await stand.client.post(path, json=body)).status_code == 400


async def test_an_interrupt_ends_a_command_that_waits(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"command": "echo ready; exec sleep 60", "attach_stdin": True}
    view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/execute_async", json=body)).json()
    base = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}"
    async for event in events(stand, f"{base}/stream_stdout_updates"):
        assert event["output"] == "ready\n"  # before that, a login shell may still be reading its profile
        break
    await stand.client.post(f"{base}/send_std_in", json={"signal": "INTERRUPT"})
    done = (await stand.client.post(f"{base}/wait_for_status", json={"statuses": ["completed"]})).json()
    assert done["exit_status"] == 130


@pytest.mark.parametrize("group", [True, None])
async def test_kill_ends_the_command_and_says_how(stand: Stand, group: bool | None) -> None:
    devbox_id = await stand.devbox()
    view = (
        await stand.client.post(f"/v1/devboxes/{devbox_id}/execute_async", json={"command": "exec sleep 60"})
    ).json()
    path = f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}/kill"
    killed = (await stand.client.post(path, json={"kill_process_group": group})).json()
    assert (killed["status"], killed["exit_status"]) == ("completed", 137)
    assert (await stand.client.post(path, json={})).json() == killed


async def test_executions_are_listed_newest_first(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    ids = [(await stand.run(devbox_id, f"echo {n}"))["execution_id"] for n in range(3)]
    page = (await stand.client.get(f"/v1/devboxes/{devbox_id}/executions", params={"limit": 2})).json()
    assert [one["execution_id"] for one in page["executions"]] == ids[:0:-1]
    assert (page["has_more"], page["total_count"], page["executions"][0]["command"]) == (True, 3, "echo 2")


async def test_a_named_shell_keeps_its_directory_and_the_view_names_it(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    path = f"/v1/devboxes/{devbox_id}/execute"
    await stand.client.post(path, json={"command": "mkdir -p d; cd d; export A=1", "shell_name": "one"})
    view = (await stand.client.post(path, json={"command": "basename $PWD; echo $A", "shell_name": "one"})).json()
    assert (view["stdout"], view["shell_name"]) == ("d\n1\n", "one")


async def test_an_ended_devbox_still_tells_what_its_commands_said(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    view = await stand.run(devbox_id, "echo kept")
    await stand.client.post(f"/v1/devboxes/{devbox_id}/shutdown")
    again = await stand.client.get(f"/v1/devboxes/{devbox_id}/executions/{view['execution_id']}")
    assert again.json()["stdout"] == "kept\n"
    refused = await stand.client.post(f"/v1/devboxes/{devbox_id}/execute", json={"command": "true"})
    assert (refused.status_code, refused.json()["kind"]) == (400, "wrong-state")


async def test_a_command_outlives_a_client_that_left(stand: Stand) -> None:
    devbox_id = await stand.devbox()
    body = {"command": "sleep 0.6; echo lived", "command_id": COMMAND_ID}
    with pytest.raises(httpx.ReadTimeout):
        await stand.client.post(f"/v1/devboxes/{devbox_id}/execute", json=body, timeout=0.2)
    view = (await stand.client.post(f"/v1/devboxes/{devbox_id}/execute", json=body)).json()
    assert view["stdout"] == "lived\n"
