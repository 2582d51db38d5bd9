"""How calls are sent: once in effect, again when that is safe, and told well when they fail."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from corral_sdk import AsyncCorral, Corral, errors
from tests.unit.sdk import scripted
from tests.unit.sdk.scripted import Answer, Script, answer, devbox, problem


def test_every_request_carries_the_key(script: Script, corral: Corral) -> None:
    script.answers.append(answer(devbox()))
    corral.devboxes.get("dbx_1")
    assert script.asked[0].headers["authorization"] == "Bearer ak_test"
    assert script.asked[0].path == "/v1/devboxes/dbx_1"


def test_a_repeated_request_keeps_its_id_and_the_next_one_has_another(script: Script, corral: Corral) -> None:
    script.answers += [answer(devbox()), Answer(silent=True), problem(503, "unavailable", "x"), answer(devbox())]
    script.answers += [answer(devbox())]
    corral.devboxes.get("dbx_1")
    box = corral.devboxes.create(wait=False)
    corral.devboxes.create(wait=False)
    ids = [asked.headers["x-request-id"] for asked in script.asked if asked.method == "POST"]
    assert len(ids) == 4
    assert len(set(ids[:3])) == 1
    assert ids[3] != ids[0]
    assert box.id == "dbx_1"


async def test_the_asyncio_client_repeats_in_the_same_way(script: Script, async_corral: AsyncCorral) -> None:
    script.answers += [answer(devbox()), Answer(silent=True), answer(devbox())]
    await async_corral.devboxes.get("dbx_1")
    await async_corral.devboxes.create(wait=False)
    assert len({asked.headers["x-request-id"] for asked in script.asked[1:]}) == 1


def test_an_answer_that_breaks_off_is_asked_for_again(script: Script, corral: Corral) -> None:
    script.answers += [answer(devbox()), Answer(body=b'{"id"', breaks=True), answer(devbox("failure"))]
    corral.devboxes.get("dbx_1")
    assert corral.devboxes.get("dbx_1").status == "failure"


@pytest.mark.parametrize(
    ("status", "kind", "cls"),
    [(404, "not-found", errors.NotFound), (409, "conflict", errors.Conflict), (501, "not-offered", errors.NotOffered)],
)
def test_an_error_of_the_server_is_raised_after_one_request(
    script: Script, corral: Corral, status: int, kind: str, cls: type[errors.CorralError]
) -> None:
    script.answers.append(problem(status, kind, "cannot do it: because"))
    with pytest.raises(cls, match="cannot do it: because"):
        corral.devboxes.get("dbx_1")
    assert len(script.asked) == 1


def test_what_is_no_corral_server_is_told_apart(script: Script, corral: Corral) -> None:
    script.answers += [Answer(502, b"<html>"), Answer(200, b"<html>"), Answer(200, b"[]"), answer({"id": 1})]
    for _ in range(4):
        with pytest.raises(errors.BadAnswer):
            corral.devboxes.get("dbx_1")


def test_a_server_that_does_not_run_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        started = time.monotonic()
        told = pytest.raises(errors.Unreachable, match="connection refused; is `corral serve` running there")
        with Corral(f"http://127.0.0.1:{taken.getsockname()[1]}", "ak_test") as corral, told:
            corral.devboxes.get("dbx_1")
        assert time.monotonic() - started < 1.5


def test_an_id_that_could_change_the_path_is_refused(corral: Corral) -> None:
    for bad in ("", "../accounts", "a/b", "a?b"):
        with pytest.raises(errors.Invalid):
            corral.devboxes.get(bad)


def test_lists_are_followed_over_their_pages(script: Script, corral: Corral) -> None:
    first = [devbox(devbox_id=f"dbx_{number}") for number in (5, 4)]
    script.answers += [
        answer({"devboxes": first, "has_more": True}),
        answer({"devboxes": [devbox(devbox_id="dbx_3")], "has_more": False}),
    ]
    found = [info.id for info in corral.devboxes.list(status="running", metadata={"team": "a b"}, page_size=2)]
    assert found == ["dbx_5", "dbx_4", "dbx_3"]
    assert "metadata%5Bteam%5D=a+b" in script.asked[0].path
    assert "starting_after=dbx_4" in script.asked[1].path


def test_a_name_means_the_one_live_devbox_that_has_it(script: Script, corral: Corral) -> None:
    boxes = [
        devbox("shutdown", "dbx_4", name="a"),
        devbox("running", "dbx_3", name="a"),
        devbox("running", "dbx_2", name="ab"),
        devbox("failure", "dbx_1", name="a"),
    ]
    script.on("/v1/devboxes", answer({"devboxes": boxes, "has_more": False}))
    assert corral.devboxes.find("a").id == "dbx_3"
    with pytest.raises(errors.NotFound, match="cannot find devbox 'b'"):
        corral.devboxes.find("b")


def test_a_name_without_a_live_devbox_means_the_newest(script: Script, corral: Corral) -> None:
    boxes = [devbox("shutdown", "dbx_4", name="a"), devbox("failure", "dbx_1", name="a")]
    script.on("/v1/devboxes", answer({"devboxes": boxes, "has_more": False}))
    assert corral.devboxes.find("a").id == "dbx_4"


def test_a_name_that_two_live_devboxes_have_is_refused_with_their_ids(script: Script, corral: Corral) -> None:
    boxes = [devbox(devbox_id="dbx_2", name="a"), devbox("provisioning", "dbx_1", name="a")]
    script.on("/v1/devboxes", answer({"devboxes": boxes, "has_more": False}))
    with pytest.raises(errors.Conflict, match="dbx_2, dbx_1"):
        corral.devboxes.find("a")


def test_create_sends_only_what_was_asked_for(script: Script, corral: Corral) -> None:
    script.answers += [answer(devbox("provisioning")), answer(devbox("provisioning"))]
    corral.devboxes.create(wait=False)
    corral.devboxes.create(
        name="n",
        cpu=2,
        memory=4,
        env={"A": "1"},
        metadata={"k": "v"},
        files={"/f": "text"},
        launch_commands=["make"],
        entrypoint="run",
        keep_alive_s=60,
        idle_s=5,
        wait=False,
    )
    assert script.asked[0].json == {}
    assert script.asked[1].json == {
        "name": "n",
        "entrypoint": "run",
        "environment_variables": {"A": "1"},
        "metadata": {"k": "v"},
        "file_mounts": {"/f": "text"},
        "launch_parameters": {
            "resource_size_request": "CUSTOM_SIZE",
            "custom_cpu_cores": 2,
            "custom_gb_memory": 4,
            "launch_commands": ["make"],
            "keep_alive_time_seconds": 60,
            "after_idle": {"idle_time_seconds": 5, "on_idle": "shutdown"},
        },
    }


def test_create_waits_over_polls_that_end_without_news(script: Script, corral: Corral) -> None:
    script.on("/v1/devboxes", answer(devbox("provisioning")))
    script.on("/v1/devboxes/dbx_1", answer(devbox("initializing")))
    late = problem(408, "timed-out", "cannot wait", x_should_retry="true")
    script.on("/v1/devboxes/dbx_1/wait_for_status", late, late, answer(devbox("running")))
    assert corral.devboxes.create().status == "running"


def test_create_says_why_a_devbox_did_not_come_up(script: Script, corral: Corral) -> None:
    script.on("/v1/devboxes", answer(devbox("provisioning")))
    ended = devbox("failure", reason="launch_failed", reason_message="command 'make' exited with 2")
    script.on("/v1/devboxes/dbx_1/wait_for_status", answer(ended))
    with pytest.raises(errors.Ended, match=r"it ended in failure \(launch failed: command 'make' exited with 2\)"):
        corral.devboxes.create()


def test_a_wait_for_a_devbox_has_a_limit(script: Script, corral: Corral) -> None:
    script.on("/v1/devboxes", answer(devbox("provisioning")))
    script.on("/v1/devboxes/dbx_1", answer(devbox("provisioning")))
    script.on("/v1/devboxes/dbx_1/wait_for_status", problem(408, "timed-out", "x"))
    with pytest.raises(errors.TimedOut, match="it is provisioning after"):
        corral.devboxes.create(timeout_s=0.3)


def test_an_uploaded_file_is_sent_again_from_its_begin(script: Script, corral: Corral, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1_000_000)
    script.answers += [answer(devbox()), Answer(silent=True), answer({})]
    box = corral.devboxes.get("dbx_1")
    seen: list[int] = []
    box.files.write("~/target", source, on_progress=seen.append)
    first, second = script.asked[1:]
    assert len(first.body) == len(second.body) == int(first.headers["content-length"])
    assert first.body.count(b"x" * 1_000_000) == 1
    assert seen[-1] == 1_000_000


def test_an_open_file_is_not_sent_a_second_time(script: Script, corral: Corral, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content")
    script.answers += [answer(devbox()), Answer(silent=True), answer({})]
    box = corral.devboxes.get("dbx_1")
    with source.open("rb") as file, pytest.raises(errors.Unreachable):
        box.files.write("~/target", file)
    assert len(script.asked) == 2


def test_a_download_that_breaks_off_leaves_the_local_file_as_it_was(
    script: Script, corral: Corral, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"before")
    script.answers += [answer(devbox()), Answer(body=b"half", breaks=True)]
    box = corral.devboxes.get("dbx_1")
    with pytest.raises(errors.Unreachable):
        box.files.fetch("/remote", local)
    assert local.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [local]


def test_a_download_that_fails_in_the_devbox_raises_its_error(script: Script, corral: Corral, tmp_path: Path) -> None:
    script.answers += [answer(devbox()), problem(404, "not-found", "cannot read file /remote: no such file")]
    box = corral.devboxes.get("dbx_1")
    with pytest.raises(errors.NotFound, match="no such file"):
        box.files.fetch("/remote", tmp_path / "local")
    assert list(tmp_path.iterdir()) == []


def test_a_scripted_server_says_when_it_is_asked_too_often(script: Script, corral: Corral) -> None:
    with pytest.raises(errors.Internal, match="the script is at its end"):
        corral.devboxes.get("dbx_1")
    assert isinstance(scripted.Asked("GET", "/", {}, b"{}").json, dict)
