"""Blueprints over HTTP: the dialect's routes, the states of a build, and devboxes that begin as them."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx
import pytest

from corral.images.builds.model import BuildStatus
from tests.harness.building import ended
from tests.integration.api.stand import Stand

UNKNOWN = "bpt_" + "0" * 21


async def make(stand: Stand, name: str = "one", **body: Any) -> dict[str, Any]:
    answer = await stand.client.post("/v1/blueprints", json={"name": name, **body})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def shown(stand: Stand, blueprint: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (await stand.client.get(f"/v1/blueprints/{blueprint['id']}")).json()
    return found


async def until(stand: Stand, blueprint: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The blueprint once it has these fields."""
    async with asyncio.timeout(10):
        while True:
            found = await shown(stand, blueprint)
            if {name: found.get(name) for name in fields} == fields:
                return found
            await asyncio.sleep(0.01)


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert all(word in answer.json()["message"] for word in words), answer.text


async def upload(stand: Stand, content: bytes) -> str:
    """The id of an object that has this content, and is not completed."""
    made = (await stand.client.post("/v1/objects", json={"name": "context", "content_type": "tgz"})).json()
    assert (await stand.client.put(made["upload_url"], content=content)).status_code == 200
    return str(made["id"])


async def test_a_blueprint_shows_what_was_sent_and_what_was_built(stand: Stand) -> None:
    sent: dict[str, Any] = {
        "name": "all",
        "dockerfile": "FROM debian-12\n",
        "build_args": {"A": "b"},
        "file_mounts": {"~/f": "text"},
        "code_mounts": [{"repo_owner": "o", "repo_name": "r", "git_ref": "v1"}],
        "launch_parameters": {"keep_alive_time_seconds": 60, "launch_commands": ["true"]},
        "metadata": {"a": "b"},
        "services": [{"name": "db", "image": "postgres:16", "env": {"P": "x"}, "port_mappings": ["5432:5432"]}],
        "system_setup_commands": ["true"],
    }
    made = await make(stand, **sent)
    assert made["parameters"] == sent
    assert made["containerized_services"] == sent["services"]
    assert made["devbox_capabilities"] == ["docker_in_docker"]
    assert (made["status"], made["state"], made["is_public"]) == ("build_complete", "created", False)
    assert made["build_finish_time_ms"] == 5
    assert await shown(stand, made) == made
    plan = next(iter(stand.builds.plans.values()))
    assert (plan.build_args, plan.wanted_by) == ({"A": "b"}, made["id"])
    preview = (await stand.client.post("/v1/blueprints/preview", json=sent)).json()
    assert preview == {"dockerfile": plan.dockerfile}
    plain = await make(stand, "plain")
    assert (plain["devbox_capabilities"], plain["metadata"], "containerized_services" in plain) == ([], {}, False)


async def test_a_blueprint_follows_its_build_and_tells_of_the_step_that_failed(stand: Stand) -> None:
    stand.builds.at_once = False
    first, same = await make(stand, "first"), await make(stand, "same")
    assert (first["status"], same["status"]) == ("queued", "queued")
    (build_id,) = stand.builds.builds
    for status in (BuildStatus.PROVISIONING, BuildStatus.BUILDING):
        await stand.builds.move(stand.store, build_id, status)
        for one in (first, same):
            await until(stand, one, status=status.value)
    stand.builds.say(build_id, "STEP 1: FROM debian-12")
    stand.builds.say(build_id, "done")
    log = (await stand.client.get(f"/v1/blueprints/{same['id']}/logs")).json()
    assert [(line["level"], line["message"]) for line in log["logs"]] == [
        ("info", "STEP 1: FROM debian-12"),
        ("info", "done"),
    ]
    rest = await stand.client.get(f"/v1/blueprints/{same['id']}/logs", params={"starting_after": 1})
    assert [line["number"] for line in rest.json()["logs"]] == [2]
    await stand.builds.move(stand.store, build_id, BuildStatus.FAILED)
    failed = await until(stand, first, status="failed", failure_reason="build_failed")
    assert failed["failed_step"] == {"number": 2, "command": "RUN exit 3", "exit_code": 3, "output": "so it is\n"}
    assert failed["failure_message"] == "step 2 exited with code 3"
    again = await make(stand, "first")
    assert again["status"] == "queued"
    assert len(stand.builds.builds) == 2


async def test_a_build_whose_end_nobody_told_of_is_found_by_the_next_look(stand: Stand) -> None:
    stand.builds.at_once = False
    made = await make(stand)
    (build_id,) = stand.builds.builds
    stand.builds.builds[build_id] = ended(stand.builds.builds[build_id], BuildStatus.COMPLETE)
    await until(stand, made, status="build_complete", build_finish_time_ms=5)


async def test_a_repeat_of_a_create_makes_one_blueprint(stand: Stand) -> None:
    headers = {"x-request-id": "once"}
    answers = [await stand.client.post("/v1/blueprints", json={"name": "x"}, headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert (await stand.client.get("/v1/blueprints")).json()["total_count"] == 1


async def test_a_context_is_awaited_then_read_then_built_from(stand: Stand) -> None:
    object_id = await upload(stand, b"archive")
    body: dict[str, Any] = {
        "dockerfile": "FROM x\nCOPY a b\n",
        "build_context": {"type": "object", "object_id": object_id},
    }
    made = await make(stand, **body)
    assert made["status"] == "awaiting_upload"
    assert not stand.builds.plans
    await stand.client.post(f"/v1/objects/{object_id}/complete", json={})
    await until(stand, made, status="build_complete")
    context = next(iter(stand.builds.plans.values())).context
    assert context is not None
    assert (context.object_id, context.size) == (object_id, 7)
    assert context.digest == f"sha256:{hashlib.sha256(b'archive').hexdigest()}"
    assert (await until(stand, await make(stand, **body), status="build_complete"))["name"] == "one"


async def test_a_blueprint_whose_context_goes_fails(stand: Stand) -> None:
    object_id = await upload(stand, b"")
    context = {"type": "object", "object_id": object_id}
    made = await make(stand, dockerfile="FROM x\n", build_context=context)
    await stand.client.post(f"/v1/objects/{object_id}/delete", json={})
    failed = await until(stand, made, status="failed")
    assert object_id in failed["failure_message"]
    log = (await stand.client.get(f"/v1/blueprints/{made['id']}/logs")).json()["logs"]
    assert [(line["level"], line["message"]) for line in log] == [("error", failed["failure_message"])]
    for bad in (object_id, "obj_none"):
        body = {"name": "x", "dockerfile": "FROM x\n", "build_context": {"type": "object", "object_id": bad}}
        refused(await stand.client.post("/v1/blueprints", json=body), 400, "build_context.object_id", bad)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ["name"]),
        ({"name": " "}, ["name", "blank"]),
        ({"name": "x", "other": 1}, ["other"]),
        ({"name": "x", "base_blueprint_id": UNKNOWN}, ["base_blueprint_id", UNKNOWN]),
        ({"name": "x", "base_blueprint_name": "no"}, ["base_blueprint_name", "'no'"]),
        ({"name": "x", "base_blueprint_name": "no", "base_blueprint_id": "b"}, ["base_blueprint_name", "beside"]),
        ({"name": "x", "build_context": {"type": "object", "object_id": "o"}}, ["build_context"]),
        ({"name": "x", "build_args": {"1": "b"}}, ["build_args.1"]),
        ({"name": "x", "dockerfile": "\0"}, ["dockerfile"]),
        ({"name": "x", "dockerfile": "# refused"}, ["Dockerfile"]),
        ({"name": "x", "file_mounts": {"a/": ""}}, ["file_mounts", "directory"]),
        ({"name": "x", "file_mounts": {"a": "", "./a": ""}}, ["file_mounts", "twice"]),
        ({"name": "x", "file_mounts": {"~/.": ""}}, ["file_mounts", "directory"]),
        ({"name": "x", "code_mounts": [{"repo_owner": "a b", "repo_name": "r"}]}, ["code_mounts[0].repo_owner"]),
        ({"name": "x", "code_mounts": [{"repo_owner": "a", "repo_name": ".."}]}, ["code_mounts[0].repo_name"]),
        (
            {"name": "x", "code_mounts": [{"repo_owner": "a", "repo_name": "r", "git_ref": "-x"}]},
            ["code_mounts[0].git_ref"],
        ),
        ({"name": "x", "launch_parameters": {"keep_alive_time_seconds": 0}}, ["keep_alive_time_seconds"]),
        ({"name": "x", "launch_parameters": {"required_services": ["db"]}}, ["required_services", "'db'"]),
        ({"name": "x", "services": [{"name": "a/b", "image": "x"}]}, ["services", "name"]),
        ({"name": "x", "services": [{"name": "ab", "image": "-x"}]}, ["services", "image"]),
        ({"name": "x", "services": [{"name": "ab", "image": "x", "options": "'"}]}, ["services[0].options"]),
        ({"name": "x", "services": [{"name": "ab", "image": "x"}] * 2}, ["services[1].name", "twice"]),
        (
            {"name": "x", "services": [{"name": "ab", "image": "x", "port_mappings": ["0:1"]}]},
            ["services[0].port_mappings[0]"],
        ),
        ({"name": "x", "system_setup_commands": [""]}, ["system_setup_commands"]),
    ],
)
async def test_a_refusal_names_the_field(stand: Stand, body: dict[str, Any], words: list[str]) -> None:
    refused(await stand.client.post("/v1/blueprints", json=body), 400, "cannot ", *words)
    assert (await stand.client.get("/v1/blueprints")).json()["blueprints"] == []


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"secrets": {"A": "b"}}, "secrets"),
        ({"network_policy_id": "npol_1"}, "network_policy_id"),
        ({"launch_parameters": {"network_policy_id": "npol_1"}}, "launch_parameters.network_policy_id"),
        ({"code_mounts": [{"repo_owner": "a", "repo_name": "r", "token": "t"}]}, "code_mounts[0].token"),
        (
            {"services": [{"name": "ab", "image": "x", "credentials": {"username": "a", "password": "b"}}]},
            "services[0].credentials",
        ),
    ],
)
async def test_what_is_not_offered_is_refused_by_name(stand: Stand, body: dict[str, Any], word: str) -> None:
    for path in ("/v1/blueprints", "/v1/blueprints/preview"):
        refused(await stand.client.post(path, json={"name": "x", **body}), 501, f"create blueprint: {word}: ")


async def test_no_repository_has_an_inspection_here(stand: Stand) -> None:
    body = {"name": "x", "inspection_source": {"inspection_id": "ins_1"}}
    answer = await stand.client.post("/v1/blueprints/create_from_inspection", json=body)
    refused(answer, 400, "inspection_source.inspection_id", "'ins_1'")


async def test_a_base_is_pinned_when_the_blueprint_is_made(stand: Stand) -> None:
    old, new = await make(stand, "base"), await make(stand, "base", system_setup_commands=["true"])
    for body, base in (({"base_blueprint_name": "base"}, new), ({"base_blueprint_id": old["id"]}, old)):
        made = await make(stand, "on", **body)
        assert made["base_blueprint_id"] == base["id"]
        assert f"FROM blueprint:{base['id']}\n" in [plan.dockerfile for plan in stand.builds.plans.values()]
    answer = await stand.client.post(
        "/v1/blueprints", json={"name": "x", "dockerfile": "FROM x", "base_blueprint_id": old["id"]}
    )
    refused(answer, 400, "base_blueprint_id", "beside dockerfile", f"FROM blueprint:{old['id']}")


async def test_lists_are_filtered_and_paged(stand: Stand) -> None:
    made = [await make(stand, f"n{number % 2}", metadata={"n": str(number)}) for number in range(5)]
    stand.builds.at_once = False
    waiting = await make(stand, "n1", dockerfile="FROM y")

    async def ids(path: str = "/v1/blueprints", **query: Any) -> tuple[list[str], bool, int | None]:
        page = (await stand.client.get(path, params=query)).json()
        return [one["id"] for one in page["blueprints"]], page["has_more"], page.get("total_count")

    newest = [one["id"] for one in [*made, waiting]][::-1]
    assert await ids() == (newest, False, 6)
    assert await ids(limit=2) == (newest[:2], True, 6)
    assert await ids(limit=4, starting_after=newest[1], include_total_count=False) == (newest[2:], False, None)
    assert await ids(name="n0") == ([newest[1], newest[3], newest[5]], False, 3)
    assert await ids(name="n1", status="build_complete") == ([newest[2], newest[4]], False, 2)
    assert await ids(status="queued") == ([newest[0]], False, 1)
    assert await ids("/v1/blueprints/list_public", name="n0") == ([], False, 0)
    refused(await stand.client.get("/v1/blueprints", params={"status": "no"}), 400, "status")
    refused(await stand.client.get("/v1/blueprints", params={"starting_after": UNKNOWN}), 400, UNKNOWN)
    keys = (await stand.client.get("/v1/blueprints/metadata/keys")).json()
    values = (await stand.client.get("/v1/blueprints/metadata/keys/n/values")).json()
    assert (keys["keys"], values) == (["n"], {"key": "n", "values": ["0", "1", "2", "3", "4"]})
    assert (await stand.client.get("/v1/blueprints/public/metadata/keys")).json()["keys"] == []


async def test_a_devbox_begins_as_a_blueprint_with_its_defaults(stand: Stand) -> None:
    launch = {
        "resource_size_request": "CUSTOM_SIZE",
        "custom_cpu_cores": 2,
        "custom_gb_memory": 8,
        "after_idle": {"idle_time_seconds": 60, "on_idle": "suspend"},
        "launch_commands": ["echo made > by-blueprint"],
        "lifecycle": {"lifecycle_hooks": {"suspend_commands": ["true"]}},
    }
    made = await make(stand, launch_parameters=launch)
    devbox_id = await stand.devbox(blueprint_id=made["id"])
    view = (await stand.client.get(f"/v1/devboxes/{devbox_id}")).json()
    assert view["blueprint_id"] == made["id"]
    assert launch.items() <= view["launch_parameters"].items()
    assert (await stand.run(devbox_id, "cat by-blueprint"))["stdout"] == "made\n"
    own = {
        "resource_size_request": "X_SMALL",
        "launch_commands": ["true"],
        "lifecycle": {"after_idle": {"idle_time_seconds": 90, "on_idle": "shutdown"}},
    }
    other = await stand.devbox(blueprint_name="one", launch_parameters=own)
    view = (await stand.client.get(f"/v1/devboxes/{other}")).json()
    assert view["blueprint_id"] == made["id"]
    echo = view["launch_parameters"]
    assert (echo["resource_size_request"], "custom_cpu_cores" in echo, "after_idle" in echo) == (
        "X_SMALL",
        False,
        False,
    )
    assert echo["launch_commands"] == ["true"]
    assert echo["lifecycle"] == {**own["lifecycle"], **launch["lifecycle"]}  # type: ignore[dict-item]


async def test_the_latest_that_is_built_has_the_name(stand: Stand) -> None:
    first = await make(stand)
    stand.builds.at_once = False
    await make(stand, dockerfile="FROM later")
    devbox_id = await stand.devbox(blueprint_name="one")
    assert (await stand.client.get(f"/v1/devboxes/{devbox_id}")).json()["blueprint_id"] == first["id"]


async def test_a_devbox_cannot_begin_as_what_is_not_there(stand: Stand) -> None:
    stand.builds.at_once = False
    building = await make(stand)
    key = await stand.second_account()
    stand.builds.at_once = True
    built = await make(stand, "two", dockerfile="FROM y")
    for body, words in (
        ({"blueprint_id": UNKNOWN}, ["blueprint_id", UNKNOWN]),
        ({"blueprint_id": "x"}, ["blueprint_id", "'x'"]),
        ({"blueprint_id": building["id"]}, ["blueprint_id", "queued"]),
        ({"blueprint_name": "one"}, ["blueprint_name", "'one'"]),
        ({"blueprint_id": built["id"], "blueprint_name": "two"}, ["blueprint_name", "beside blueprint_id"]),
        ({"launch_parameters": {"required_services": ["db"]}}, ["required_services", "'db'"]),
        ({"blueprint_name": "two", "launch_parameters": {"required_services": ["db"]}}, ["there: none"]),
    ):
        refused(await stand.client.post("/v1/devboxes", json=body), 400, "cannot create devbox", *words)
    headers = {"authorization": f"Bearer {key}"}
    for body in ({"blueprint_id": built["id"]}, {"blueprint_name": "two"}):
        refused(await stand.client.post("/v1/devboxes", json=body, headers=headers), 400, "there is no blueprint")
    refused(await stand.client.get(f"/v1/blueprints/{built['id']}", headers=headers), 404, built["id"])
    refused(await stand.client.post(f"/v1/blueprints/{built['id']}/delete", headers=headers), 404, built["id"])
    refused(await stand.client.get(f"/v1/blueprints/{built['id']}/logs", headers=headers), 404, built["id"])


async def test_images_of_services_are_a_part_of_the_build(stand: Stand) -> None:
    services = [
        {"name": name, "image": f"{image}:16"} for name, image in (("db", "pg"), ("cache", "redis"), ("db2", "pg"))
    ]
    await make(stand, services=services)
    await make(stand, services=services[:1])
    assert [plan.carried for plan in stand.builds.plans.values()] == [("pg:16", "redis:16"), ("pg:16",)]


async def test_a_devbox_that_requires_services_starts_docker_first(stand: Stand) -> None:
    services = [{"name": name, "image": "postgres:16"} for name in ("db", "cache", "other")]
    made = await make(stand, services=services, launch_parameters={"required_services": ["cache", "db"]})
    devbox_id = (await stand.client.post("/v1/devboxes", json={"blueprint_id": made["id"]})).json()["id"]
    async with asyncio.timeout(10):  # fake boxes have no Docker
        while (view := (await stand.client.get(f"/v1/devboxes/{devbox_id}")).json())["status"] != "failure":
            await asyncio.sleep(0.01)
    assert "start of Docker exited with code" in view["reason_message"]
    assert view["capabilities"] == ["docker_in_docker"]


async def test_a_deleted_blueprint_can_be_looked_at_and_its_image_stays_while_it_is_needed(stand: Stand) -> None:
    made = await make(stand)
    (build_id,) = stand.builds.builds
    devbox_id = await stand.devbox(blueprint_id=made["id"])
    taken = (await stand.client.post(f"/v1/devboxes/{devbox_id}/snapshot_disk", json={})).json()
    assert taken["source_blueprint_id"] == made["id"]
    copy = await stand.devbox(snapshot_id=taken["id"])
    assert "blueprint_id" not in (await stand.client.get(f"/v1/devboxes/{copy}")).json()
    second = (await stand.client.post(f"/v1/devboxes/{copy}/snapshot_disk", json={})).json()
    path, delete = f"/v1/blueprints/{made['id']}", f"/v1/blueprints/{made['id']}/delete"
    refused(await stand.client.post(delete, json={}), 400, "dependent snapshots", f"{taken['id']}, {second['id']}")
    listed = (await stand.client.get("/v1/devboxes/disk_snapshots", params={"source_blueprint_id": made["id"]})).json()
    assert [one["id"] for one in listed["snapshots"]] == [second["id"], taken["id"]]
    for snapshot in (taken, second):
        await stand.client.post(f"/v1/devboxes/disk_snapshots/{snapshot['id']}/delete", json={})
    for _ in range(2):
        assert (await stand.client.post(delete, json={})).json() == {}
    assert ((await stand.client.get(path)).json()["state"], (await stand.client.get("/v1/blueprints")).json()) == (
        "deleted",
        {"blueprints": [], "has_more": False, "total_count": 0},
    )
    answer = await stand.client.post("/v1/devboxes", json={"blueprint_id": made["id"]})
    refused(answer, 400, made["id"], "deleted")
    for gone in (devbox_id, copy):
        assert stand.builds.wanted[build_id] == {made["id"]}
        await stand.client.post(f"/v1/devboxes/{gone}/shutdown")
    async with asyncio.timeout(10):
        while stand.builds.wanted[build_id]:
            await asyncio.sleep(0.01)


async def test_deleting_what_is_being_built_ends_the_build(stand: Stand) -> None:
    stand.builds.at_once = False
    made = await make(stand)
    (build_id,) = stand.builds.builds
    await stand.client.post(f"/v1/blueprints/{made['id']}/delete", json={})
    await until(stand, made, status="failed", failure_reason="build_failed", state="deleted")
    assert not stand.builds.wanted[build_id]


async def test_scopes_are_those_of_blueprints(stand: Stand) -> None:
    key = await stand.restricted({"blueprints": "read"})
    headers = {"authorization": f"Bearer {key}"}
    assert (await stand.client.get("/v1/blueprints", headers=headers)).status_code == 200
    assert (await stand.client.post("/v1/blueprints", json={"name": "x"}, headers=headers)).status_code == 403
    assert (await stand.client.get("/v1/devboxes", headers=headers)).status_code == 403
