"""What a caller may wish for, and what is said about what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from corral.api import problems
from corral.core import errors
from corral.devboxes import parameters, wire
from corral.devboxes.model import DevboxRequest, Origin
from corral.runtime.contract import GIB, Limits, User


def wish(body: dict[str, Any], architecture: str = "x86_64") -> DevboxRequest:
    """The wish that a JSON body makes."""
    return parameters.request(wire.CreateBody.model_validate(body), architecture=architecture)


def launch(**launch_parameters: Any) -> DevboxRequest:
    return wish({"launch_parameters": launch_parameters})


def refusal(body: dict[str, Any]) -> str:
    """What is said about a body that is refused, whichever side refuses it."""
    try:
        wish(body)
    except ValidationError as error:
        found = problems.of(
            RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]),
            "create devbox",
        )
        assert found is not None
        assert found.status == 400
        return found.message
    except errors.Invalid as error:
        return error.message
    pytest.fail("was not refused")


def test_an_empty_body_is_a_small_devbox_for_an_hour() -> None:
    request = wish({})
    assert request.limits == Limits(cpu=1, memory=2 * GIB, disk=4 * GIB)
    assert (request.keep_alive_s, request.idle_s, request.user) == (3600, None, User())
    assert request.launch_parameters == {
        "resource_size_request": "SMALL",
        "architecture": "x86_64",
        "keep_alive_time_seconds": 3600,
        "launch_commands": [],
        "provisioning_tier": "standard",
    }


def test_null_is_the_same_as_absent_everywhere() -> None:
    fields = dict.fromkeys(wire.CreateBody.model_fields)
    assert wish(fields) == wish({})
    launch_fields = dict.fromkeys(wire.LaunchParameters.model_fields)
    assert wish({"launch_parameters": launch_fields}) == wish({})


def test_empty_collections_of_what_is_not_offered_are_fine() -> None:
    assert wish({"mounts": [], "code_mounts": [], "secrets": {}, "gateways": {}, "mcp": {}}) == wish({})


@pytest.mark.parametrize(
    ("size", "cpu", "memory", "disk"),
    [
        ("X_SMALL", 0.5, 1, 4),
        ("SMALL", 1, 2, 4),
        ("MEDIUM", 2, 4, 8),
        ("LARGE", 2, 8, 16),
        ("X_LARGE", 4, 16, 16),
        ("XX_LARGE", 8, 32, 16),
    ],
)
def test_sizes_are_those_of_the_dialect(size: str, cpu: float, memory: int, disk: int) -> None:
    assert launch(resource_size_request=size).limits == Limits(cpu=cpu, memory=memory * GIB, disk=disk * GIB)


@pytest.mark.parametrize(
    ("cpu", "memory", "disk"),
    [
        *((0.5, 1, 2), (0.5, 4, 64), (1, 2, 4), (1, 8, 4), (2, 16, 8), (16, 64, 64), (2.0, 4, 2)),
        # What tasks of Harbor ask for, whose numbers no price list has rounded.
        *((3, 5, 11), (1, 1, 1), (1, 10, 5), (4, 4, 3), (1.5, 3, 7), (16, 1, 63)),
    ],
)
def test_custom_sizes_within_the_rules_are_taken(cpu: float, memory: int, disk: int) -> None:
    custom = {"custom_cpu_cores": cpu, "custom_gb_memory": memory, "custom_disk_size": disk}
    request = launch(resource_size_request="CUSTOM_SIZE", **custom)
    assert request.limits == Limits(cpu=cpu, memory=memory * GIB, disk=disk * GIB)
    assert request.launch_parameters.items() >= custom.items()


@pytest.mark.parametrize(
    ("custom", "rule"),
    [
        ({"custom_gb_memory": 4}, "custom_cpu_cores: is missing"),
        ({"custom_cpu_cores": 2}, "custom_gb_memory: is missing"),
        (
            {"custom_cpu_cores": 3.2, "custom_gb_memory": 6},
            "custom_cpu_cores: must be a multiple of 0.5 up to 16, not 3.2",
        ),
        ({"custom_cpu_cores": 18, "custom_gb_memory": 64}, "multiple of 0.5 up to 16, not 18"),
        ({"custom_cpu_cores": 0, "custom_gb_memory": 2}, "multiple of 0.5 up to 16, not 0"),
        ({"custom_cpu_cores": -2, "custom_gb_memory": 2}, "multiple of 0.5 up to 16, not -2"),
        ({"custom_cpu_cores": float("nan"), "custom_gb_memory": 2}, "custom_cpu_cores: must be"),
        ({"custom_cpu_cores": float("inf"), "custom_gb_memory": 2}, "custom_cpu_cores: must be"),
        ({"custom_cpu_cores": 2, "custom_gb_memory": 0}, "custom_gb_memory: must be 1 to 64, not 0"),
        ({"custom_cpu_cores": 16, "custom_gb_memory": 65}, "must be 1 to 64, not 65"),
        ({"custom_cpu_cores": 1, "custom_gb_memory": 2, "custom_disk_size": 65}, "must be 1 to 64, not 65"),
        (
            {"custom_cpu_cores": 1, "custom_gb_memory": 2, "custom_disk_size": 0},
            "custom_disk_size: must be 1 to 64, not 0",
        ),
        ({"custom_cpu_cores": "2", "custom_gb_memory": 4}, "custom_cpu_cores: must be a number"),
        ({"custom_cpu_cores": 2, "custom_gb_memory": 4.5}, "custom_gb_memory: must be a whole number"),
    ],
)
def test_custom_sizes_outside_the_rules_are_refused_with_the_rule(custom: dict[str, Any], rule: str) -> None:
    assert rule in refusal({"launch_parameters": {"resource_size_request": "CUSTOM_SIZE", **custom}})


@pytest.mark.parametrize(("given", "shown"), [(2, 2), (2.0, 2), (0.5, 0.5)])
def test_whole_cores_are_shown_as_whole_numbers(given: float, shown: float) -> None:
    custom = {"custom_cpu_cores": given, "custom_gb_memory": 4}
    cores = launch(resource_size_request="CUSTOM_SIZE", **custom).launch_parameters["custom_cpu_cores"]
    assert (cores, type(cores)) == (shown, type(shown))


def test_custom_values_without_the_custom_size_are_refused() -> None:
    message = refusal({"launch_parameters": {"custom_disk_size": 8}})
    assert message == (
        "cannot create devbox: launch_parameters.custom_disk_size: "
        "is only for resource_size_request CUSTOM_SIZE, not SMALL"
    )


@pytest.mark.parametrize("seconds", [1, 172_800])
def test_keep_alive_is_taken_up_to_48_hours(seconds: int) -> None:
    assert launch(keep_alive_time_seconds=seconds).keep_alive_s == seconds


@pytest.mark.parametrize("seconds", [0, -1, 172_801])
def test_keep_alive_outside_its_limits_is_refused(seconds: int) -> None:
    assert f"must be 1 to 172800 (48 hours), not {seconds}" in refusal(
        {"launch_parameters": {"keep_alive_time_seconds": seconds}}
    )


def test_an_idle_policy_takes_the_place_of_keep_alive_in_both_spellings() -> None:
    policy = {"idle_time_seconds": 60, "on_idle": "shutdown"}
    for spelling in ({"after_idle": policy}, {"lifecycle": {"after_idle": policy}}):
        request = launch(**spelling)
        assert request.idle_s == 60
        assert request.launch_parameters.items() >= spelling.items()
    assert launch(after_idle=policy, lifecycle={"after_idle": policy}).idle_s == 60


def test_two_idle_policies_that_differ_are_refused() -> None:
    one, other = ({"idle_time_seconds": seconds, "on_idle": "shutdown"} for seconds in (60, 61))
    assert "must be equal" in refusal({"launch_parameters": {"after_idle": one, "lifecycle": {"after_idle": other}}})


def test_an_idle_devbox_can_be_suspended_after_its_last_commands() -> None:
    hooks = {"suspend_commands": ["sync", "true"], "suspend_deadline_ms": 1500}
    idle = {"idle_time_seconds": 9, "on_idle": "suspend"}
    made = wish({"launch_parameters": {"lifecycle": {"after_idle": idle, "lifecycle_hooks": hooks}}})
    assert (made.idle_s, made.idle_suspends) == (9, True)
    assert (made.suspend_commands, made.suspend_limit_s) == (("sync", "true"), 1.5)
    assert (wish({}).idle_suspends, wish({}).suspend_commands, wish({}).suspend_limit_s) == (False, (), 30)


def test_a_devbox_begins_as_one_thing() -> None:
    snapshot = f"snp_{'0' * 21}"
    assert wish({"snapshot_id": snapshot}).snapshot_id == snapshot
    assert "beside blueprint_name" in refusal({"snapshot_id": snapshot, "blueprint_name": "one"})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tunnel": {}}, "tunnel"),
        ({"secrets": {"A": "b"}}, "secrets"),
        ({"gateways": {"A": {"gateway": "g", "secret": "s"}}}, "gateways"),
        ({"mcp": {"A": {"mcp_config": "g", "secret": "s"}}}, "mcp"),
        ({"code_mounts": [{"repo_name": "a", "repo_owner": "b"}]}, "code_mounts"),
        ({"mounts": [{"type": "code_mount", "repo_name": "a", "repo_owner": "b"}]}, "mounts[0].type code_mount"),
        ({"mounts": [{"type": "agent_mount"}]}, "mounts[0].type agent_mount"),
        ({"mounts": [{"type": "broker_mount", "axon_id": "a"}]}, "mounts[0].type broker_mount"),
        ({"launch_parameters": {"network_policy_id": "npol_1"}}, "launch_parameters.network_policy_id"),
        (
            {"launch_parameters": {"lifecycle": {"resume_triggers": {"http": True}}}},
            "launch_parameters.lifecycle.resume_triggers",
        ),
    ],
)
def test_what_is_not_offered_is_refused_by_name_and_not_ignored(body: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.NotOffered) as refused:
        wish(body)
    assert refused.value.message == f"cannot create devbox: {field}: this server does not offer it"


def merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    both = parameters.merged(defaults, wire.LaunchParameters.model_validate(given))
    return both.model_dump(exclude_none=True)


IDLE = {"idle_time_seconds": 60, "on_idle": "shutdown"}
LATER = {"idle_time_seconds": 7, "on_idle": "suspend"}
LIFE = {"keep_alive_time_seconds": 5}
CUSTOM = {"resource_size_request": "CUSTOM_SIZE", "custom_cpu_cores": 2.0, "custom_gb_memory": 4}
HOOKS = {"lifecycle_hooks": {"suspend_commands": ["true"]}}


@pytest.mark.parametrize(
    ("defaults", "given", "both"),
    [
        ({}, {}, {}),
        ({"launch_commands": ["a"]}, {}, {"launch_commands": ["a"]}),
        ({"launch_commands": ["a"]}, {"launch_commands": []}, {"launch_commands": []}),
        (
            {"keep_alive_time_seconds": 5},
            {"architecture": "arm64"},
            {"keep_alive_time_seconds": 5, "architecture": "arm64"},
        ),
        (CUSTOM, {"resource_size_request": "LARGE"}, {"resource_size_request": "LARGE"}),
        ({"resource_size_request": "LARGE"}, CUSTOM, CUSTOM),
        (CUSTOM, LIFE, {**CUSTOM, **LIFE}),
        ({"after_idle": IDLE}, {"lifecycle": {"after_idle": LATER}}, {"lifecycle": {"after_idle": LATER}}),
        ({"lifecycle": {"after_idle": IDLE, **HOOKS}}, {"after_idle": IDLE}, {"after_idle": IDLE, "lifecycle": HOOKS}),
        ({"lifecycle": HOOKS}, {"lifecycle": {"after_idle": IDLE}}, {"lifecycle": {"after_idle": IDLE, **HOOKS}}),
    ],
)
def test_a_devboxs_own_parameters_come_before_those_of_its_blueprint(
    defaults: dict[str, Any], given: dict[str, Any], both: dict[str, Any]
) -> None:
    assert merged(defaults, given) == both


def test_services_are_those_of_the_blueprint_each_once() -> None:
    origin = Origin("bpt_1", "image", {"required_services": ["b", "a", "b"]}, {"a": "start a", "b": "start b"})
    request = parameters.request(wire.CreateBody(), architecture="x86_64", origin=origin)
    assert (request.services, request.image, request.blueprint_id) == (("start b", "start a"), "image", "bpt_1")
    assert request.docker_in_docker
    body = wire.CreateBody.model_validate({"launch_parameters": {"required_services": []}})
    assert parameters.request(body, architecture="x86_64", origin=origin).services == ()
    assert "only blueprints have services" in refusal({"launch_parameters": {"required_services": ["a"]}})


def test_another_architecture_than_the_host_has_is_refused() -> None:
    assert "this host is x86_64, not arm64" in refusal({"launch_parameters": {"architecture": "arm64"}})
    assert wish({"launch_parameters": {"architecture": "arm64"}}, "arm64").launch_parameters["architecture"] == "arm64"


def test_the_user_is_taken_with_its_home() -> None:
    assert launch(user_parameters={"username": "dev", "uid": 1001}).user == User("dev", 1001, 1001, "/home/dev")
    assert launch(user_parameters={"username": "root", "uid": 0}).user == User("root", 0, 0, "/root")


@pytest.mark.parametrize(
    ("user", "rule"),
    [
        ({"username": "", "uid": 1001}, "user_parameters.username"),
        ({"username": "9a", "uid": 1001}, "user_parameters.username"),
        ({"username": "a b", "uid": 1001}, "user_parameters.username"),
        ({"username": "a" * 33, "uid": 1001}, "user_parameters.username"),
        ({"username": "dev", "uid": -1}, "uid: must be 0 to"),
        ({"username": "dev", "uid": 70_000}, "uid: must be 0 to"),
        ({"username": "dev", "uid": 0}, "root is uid 0"),
        ({"username": "root", "uid": 1}, "root is uid 0"),
        ({"username": "dev"}, "user_parameters.uid: is missing"),
    ],
)
def test_an_impossible_user_is_refused_with_the_rule(user: dict[str, Any], rule: str) -> None:
    assert rule in refusal({"launch_parameters": {"user_parameters": user}})


def test_mounted_files_of_both_forms_come_together() -> None:
    mount = {"type": "file_mount", "target": "~/b", "content": "2"}
    assert wish({"file_mounts": {"/a": "1"}, "mounts": [mount]}).files == {"/a": "1", "~/b": "2"}


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ({"file_mounts": {"": "x"}}, "must not be blank"),
        ({"file_mounts": {"a/": "x"}}, "is a directory"),
        ({"file_mounts": {"a\0b": "x"}}, "NUL"),
        ({"file_mounts": {"a": "x" * (8 * 1024 * 1024 + 1)}}, "must be at most 8388608 bytes in all"),
        (
            {"file_mounts": {"a": "1"}, "mounts": [{"type": "file_mount", "target": "a", "content": "2"}]},
            "mounted twice",
        ),
        ({"mounts": [{"type": "tape_mount"}]}, "mounts[0]: type must be one of"),
        ({"mounts": [{}]}, "mounts[0]: needs a type"),
        ({"environment_variables": {"A-B": "x"}}, "environment_variables.A-B: a name is letters, digits and _"),
        ({"environment_variables": {"": "x"}}, "a name is letters"),
        ({"environment_variables": {"A": "x\0"}}, "NUL"),
        ({"environment_variables": {"A": "x" * 131_071}}, "must be at most 131071 bytes with its name"),
        (
            {"environment_variables": {f"A{n}": "x" * 131_000 for n in range(9)}},
            "must be at most 1048576 bytes in all",
        ),
        ({"environment_variables": {"A": 1}}, "environment_variables.A: must be a string"),
        ({"entrypoint": "  "}, "entrypoint: must not be blank"),
        (
            {"launch_parameters": {"launch_commands": ["true", ""]}},
            "launch_parameters.launch_commands[1]: must not be blank",
        ),
        ({"launch_parameters": {"launch_commands": "true"}}, "launch_parameters.launch_commands: must be a list"),
        ({"launch_parameters": {"resource_size_request": "HUGE"}}, "resource_size_request: must be 'X_SMALL', "),
        ({"launch_parameters": {"cpus": 2}}, "launch_parameters.cpus: is not a field of this body"),
        ({"blueprint_id": ""}, "cannot create devbox: blueprint_id: must not be blank"),
        ({"secrets": {"A": " "}}, "secrets.A: must not be blank"),
        ({"launch_parameters": {"network_policy_id": ""}}, "launch_parameters.network_policy_id: must not be blank"),
        ({"launch_parameters": {"required_services": [""]}}, "required_services[0]: must not be blank"),
        ({"launch_parameters": {"available_ports": [65_536]}}, "available_ports[0]: must be at most 65535"),
        ({"nmae": "x"}, "cannot create devbox: nmae: is not a field of this body"),
        ({"name": "x" * 257}, "name: must have at most 256 characters"),
        ({"name": "\ud800"}, "name: must be text that UTF-8 can hold"),
        ({"metadata": {"a": None}}, "metadata.a: must be a string"),
        ({"metadata": ["a"]}, "metadata: must be an object"),
        (
            {"launch_parameters": {"lifecycle": {"lifecycle_hooks": {"suspend_deadline_ms": 60_001}}}},
            "must be 0 to 60000",
        ),
    ],
)
def test_bad_values_are_refused_with_field_and_rule(body: dict[str, Any], rule: str) -> None:
    assert rule in refusal(body)


def test_docker_is_asked_for_by_its_own_word_or_by_services() -> None:
    asked = launch(docker_in_docker=True)
    assert (asked.docker_in_docker, asked.image) == (True, "docker")
    assert asked.launch_parameters["docker_in_docker"] is True
    assert [launch(docker_in_docker=no).docker_in_docker for no in (False, None)] == [False, False]
    assert launch().image is None
    snapshot = wish({"snapshot_id": "snp_" + "a" * 21, "launch_parameters": {"docker_in_docker": True}})
    assert (snapshot.docker_in_docker, snapshot.image) == (True, None)
