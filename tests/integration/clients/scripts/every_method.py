"""Every method of the official Python client, found by walking its resources, called in every form that it has.

python every_method.py sync|async

A method with a scene here must succeed, and what it answers must fit the client's models strictly; all others must
be refused with 501 and a message. Over all answers every field of the models must have been there once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import io
import os
import sys
import time
import types
import typing
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pydantic
import runloop_api_client
from runloop_api_client import APIStatusError, AsyncRunloop, Runloop
from runloop_api_client._base_client import BasePage
from runloop_api_client._models import BaseModel
from runloop_api_client._resource import AsyncAPIResource, SyncAPIResource
from runloop_api_client._streaming import AsyncStream, Stream
from runloop_api_client.resources.devboxes import DevboxesResource
from typing_extensions import is_typeddict

FUTURE_MS = int(time.time() * 1000) + 3_600_000
IDLE = {"idle_time_seconds": 600, "on_idle": "shutdown"}

#: What this server offers of the launch parameters, all at once.
LAUNCH = {
    "resource_size_request": "CUSTOM_SIZE",
    "custom_cpu_cores": 1,
    "custom_gb_memory": 2,
    "custom_disk_size": 2,
    "keep_alive_time_seconds": 600,
    "after_idle": IDLE,
    "lifecycle": {
        "after_idle": IDLE,
        "resume_triggers": {"http": False, "axon_event": False},
        "lifecycle_hooks": {"suspend_commands": ["true"], "suspend_deadline_ms": 1000},
    },
    "launch_commands": ["true"],
    "provisioning_tier": "standard",
    "required_services": [],
    "user_parameters": {"username": "dev", "uid": 1001},
    "available_ports": [8080],
}
CREATE = {"name": "all", "metadata": {"a": "b"}, "environment_variables": {"A": "b"}, "launch_parameters": LAUNCH}
SCOPES = [{"resource_type": "RESOURCE_TYPE_DEVBOXES", "access_level": "ACCESS_LEVEL_READ"}]
#: Named shells are gone from the client 3.
SHELL = {"shell_name": "main"} if "shell_name" in inspect.signature(DevboxesResource.execute).parameters else {}
SNAPSHOT = {"name": "snapshot", "commit_message": "all of it", "metadata": {"a": "b"}}
OBJECT = {"name": "object", "content_type": "text", "metadata": {"a": "b"}}
#: Fake boxes cannot build: blueprints fail there, and nothing begins as one.
FAKE = os.environ["CHECK_RUNTIME"] == "fake"
BASE = "FROM debian-13-slim\n"
BLUEPRINT = {
    "name": "all",
    "dockerfile": BASE,
    "build_args": {"A": "b"},
    "file_mounts": {"f": "text"},
    "code_mounts": [{"repo_owner": "o", "repo_name": "r", "git_ref": "main", "install_command": "true"}],
    "launch_parameters": {**LAUNCH, "required_services": ["db"]},
    "metadata": {"a": "b"},
    "services": [
        {"name": "db", "image": "postgres:16", "env": {"A": "b"}, "options": "-q", "port_mappings": ["5432:5432"]}
    ],
    "system_setup_commands": ["true"],
}
LINES = "seq 1 250 | tee /dev/stderr"


class Scene:
    """Things for methods to work on. `box` is a devbox that runs all the time."""

    def __init__(self) -> None:
        self.api = Runloop()
        self.box = self.api.devboxes.create_and_await_running(name="scene", **self.origin()).id
        self.api.devboxes.write_file_contents(self.box, file_path="f", contents="text")

    def new(self, **wish: Any) -> str:
        devbox_id: str = self.api.devboxes.create(**wish).id
        return devbox_id

    def failed(self) -> str:
        """A devbox whose launch failed."""
        devbox_id = self.new(launch_parameters={"launch_commands": ["exit 3"]})
        end = time.monotonic() + 30
        while self.api.devboxes.retrieve(devbox_id).status != "failure":
            assert time.monotonic() < end
            time.sleep(0.02)
        return devbox_id

    def blueprint(self, dockerfile: str = BASE) -> str:
        """A blueprint whose build has ended."""
        made = self.api.blueprints.create(name="scene", dockerfile=dockerfile, metadata={"a": "b"})
        end = time.monotonic() + 60
        while made.status not in {"build_complete", "failed"}:
            assert time.monotonic() < end, made
            time.sleep(0.05)
            made = self.api.blueprints.retrieve(made.id)
        return str(made.id)

    def origin(self) -> dict[str, str]:
        """What a devbox begins as."""
        return {} if FAKE else {"blueprint_id": self.blueprint()}

    def on_base(self) -> dict[str, Any]:
        """A blueprint that is built on another one, where there can be one."""
        return {"name": "above"} if FAKE else {"name": "above", "base_blueprint_id": self.blueprint()}

    def from_context(self) -> dict[str, Any]:
        """A blueprint with a context."""
        context = {"type": "object", "object_id": self.whole_object()}
        return {**BLUEPRINT, "build_context": context}

    def running(self) -> str:
        devbox_id: str = self.api.devboxes.create_and_await_running().id
        return devbox_id

    def suspended(self) -> str:
        devbox_id = self.running()
        self.api.devboxes.suspend(devbox_id)
        self.api.devboxes.await_suspended(devbox_id)
        return devbox_id

    def snapshot(self) -> str:
        snapshot_id: str = self.api.devboxes.snapshot_disk(self.box, **SNAPSHOT).id
        return snapshot_id

    def uploaded_object(self) -> str:
        made = self.api.objects.create(**OBJECT)
        httpx.put(made.upload_url or "", content=b"content", trust_env=False).raise_for_status()
        object_id: str = made.id
        return object_id

    def whole_object(self) -> str:
        object_id: str = self.api.objects.complete(self.uploaded_object()).id
        return object_id

    def begun(self, command: str, **more: Any) -> dict[str, str]:
        made = self.api.devboxes.execute_async(self.box, command=command, **more)
        return {"execution_id": made.execution_id, "devbox_id": self.box}

    def ended(self) -> dict[str, str]:
        made = self.api.devboxes.execute_and_await_completion(self.box, command=LINES, **SHELL)
        return {"execution_id": made.execution_id, "devbox_id": self.box}

    def tunnel(self) -> dict[str, str]:
        """Headers that lead to the terminals of `box`."""
        made = self.api.devboxes.create_pty_tunnel(self.box)
        host = f"13-{made.tunnel_key}.tunnel.localhost"
        return {"Host": host, "X-Runloop-Tunnel-Authorization": f"Bearer {made.auth_token}"}


#: What ends well only where images can be built.
BUILDING: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "blueprints.await_build_complete": lambda s: {"id": s.blueprint()},
    "blueprints.create_and_await_build_complete": lambda s: s.on_base(),
}

SCENES: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "accounts.me": lambda _: {},
    "apikeys.create": lambda _: {"name": "key", "expires_at_ms": FUTURE_MS},
    "restricted_keys.create": lambda _: {"name": "key", "expires_at_ms": FUTURE_MS, "scopes": SCOPES},
    "devboxes.create": lambda _: CREATE,
    "blueprints.create": lambda s: s.from_context(),
    "blueprints.preview": lambda s: s.on_base(),
    "blueprints.retrieve": lambda s: {"id": s.blueprint(f"{BASE}RUN exit 3\n")},
    "blueprints.list": lambda _: {"limit": 3, "name": "scene"},
    "blueprints.list_public": lambda _: {"limit": 3},
    "blueprints.logs": lambda s: {"id": s.blueprint()},
    "blueprints.delete": lambda s: {"id": s.blueprint()},
    **({} if FAKE else BUILDING),
    "devboxes.create_and_await_running": lambda s: {**CREATE, "snapshot_id": s.snapshot()},
    "devboxes.await_running": lambda s: {"id": s.new()},
    "devboxes.retrieve": lambda s: {"id": s.failed()},
    "devboxes.snapshot_disk": lambda s: {"id": s.box, **SNAPSHOT},
    "devboxes.snapshot_disk_async": lambda s: {"id": s.box, **SNAPSHOT},
    "devboxes.list_disk_snapshots": lambda s: {"devbox_id": s.box, "limit": 2},
    "devboxes.delete_disk_snapshot": lambda s: {"id": s.snapshot()},
    "devboxes.disk_snapshots.list": lambda s: {"devbox_id": s.box, "limit": 2},
    "devboxes.disk_snapshots.update": lambda s: {"id": s.snapshot(), "name": "again"},
    "devboxes.disk_snapshots.delete": lambda s: {"id": s.snapshot()},
    "devboxes.disk_snapshots.query_status": lambda s: {"id": s.snapshot()},
    "devboxes.disk_snapshots.await_completed": lambda s: {"id": s.snapshot()},
    "devboxes.create_ssh_key": lambda s: {"id": s.box},
    "devboxes.suspend": lambda s: {"id": s.running()},
    "devboxes.resume": lambda s: {"id": s.suspended()},
    "devboxes.await_suspended": lambda s: {"id": s.suspended()},
    "devboxes.update": lambda s: {"id": s.box, "name": "scene", "metadata": {"a": "b"}},
    "devboxes.list": lambda _: {"limit": 3},
    "devboxes.keep_alive": lambda s: {"id": s.box},
    "devboxes.retrieve_resource_usage": lambda s: {"id": s.failed()},
    "devboxes.shutdown": lambda s: {"id": s.new(), "force": "true"},
    "devboxes.watch_evictions": lambda _: {},
    "devboxes.create_pty_tunnel": lambda s: {"id": s.box},
    "devboxes.read_file_contents": lambda s: {"id": s.box, "file_path": "f"},
    "devboxes.write_file_contents": lambda s: {"id": s.box, "file_path": "g", "contents": "x"},
    "devboxes.upload_file": lambda s: {"id": s.box, "path": "h", "file": io.BytesIO(b"bytes")},
    "devboxes.download_file": lambda s: {"id": s.box, "path": "f"},
    "devboxes.execute": lambda s: {"id": s.box, "command": LINES, "command_id": str(uuid.uuid4()), **SHELL},
    "devboxes.execute_async": lambda s: {"id": s.box, "command": "true", "attach_stdin": False, **SHELL},
    "devboxes.execute_sync": lambda s: {"id": s.box, "command": "echo out; (exit 3)", **SHELL},
    "devboxes.execute_and_await_completion": lambda s: {"devbox_id": s.box, "command": "sleep 0.2; echo out"},
    "devboxes.wait_for_command": lambda s: {**s.begun("sleep 0.2"), "statuses": ["completed"]},
    "devboxes.executions.retrieve": lambda s: {**s.ended(), "last_n": "5"},
    "devboxes.executions.await_completed": lambda s: s.begun("sleep 0.2"),
    "devboxes.executions.execute_async": lambda s: {"id": s.box, "command": "true"},
    "devboxes.executions.execute_sync": lambda s: {"id": s.box, "command": "true"},
    "devboxes.executions.kill": lambda s: {**s.begun("exec sleep 60"), "kill_process_group": True},
    "devboxes.executions.send_std_in": lambda s: {**s.begun("exec cat", attach_stdin=True), "text": "in\n"},
    "devboxes.executions.stream_stdout_updates": lambda s: {**s.ended(), "offset": "2"},
    "devboxes.executions.stream_stderr_updates": lambda s: s.ended(),
    "devboxes.logs.list": lambda s: {"id": s.ended()["devbox_id"]},
    "objects.create": lambda _: {**OBJECT, "ttl_ms": 600_000},
    "objects.retrieve": lambda s: {"id": s.whole_object()},
    "objects.list": lambda s: {"limit": 2, "name": OBJECT["name"], "content_type": "text"},
    "objects.list_public": lambda _: {"limit": 2},
    "objects.complete": lambda s: {"id": s.uploaded_object()},
    "objects.download": lambda s: {"id": s.whole_object(), "duration_seconds": 60},
    "objects.delete": lambda s: {"id": s.whole_object()},
    "pty.connect": lambda _: {"session_name": "one", "cols": 80, "rows": 24},
    "pty.control": lambda _: {"session_name": "one", "action": "resize", "cols": 90, "rows": 20},
}

#: Methods that have no place in this server: none of theirs can end well, and none is a request of its own.
LEFT_OUT: dict[str, str] = dict.fromkeys(BUILDING, "fake boxes cannot build") if FAKE else {}

#: Fields that no answer has here, with the reason.
NEVER = {
    "BlueprintBuildParameters.base_blueprint_name": "its twin is the id",
    "BlueprintBuildParameters.network_policy_id": "network policies are not offered",
    "BlueprintBuildParameters.secrets": "secrets are not offered",
    "CodeMountParameters.token": "secrets are not offered",
    "Service.credentials": "secrets are not offered",
    "ContainerizedService.credentials": "secrets are not offered",
    "ContainerizedServiceCredentials.password": "secrets are not offered",
    "ContainerizedServiceCredentials.username": "secrets are not offered",
    "DevboxSnapshotAsyncStatusView.error_message": "only a copy that failed has one",
    "DevboxView.tunnel": "tunnels to ports are not offered",
    "DevboxView.gateway_specs": "gateways are not offered",
    "DevboxView.mcp_specs": "the MCP hub is not offered",
    "DevboxView.initiator_id": "only a run of a scenario has one",
    "LaunchParameters.network_policy_id": "network policies are not offered",
    "Billing.aws": "nobody is billed",
    "Billing.stripe": "nobody is billed",
    "Billing.stripe_customer_id": "nobody is billed",
    "AccountView.account_billing_type": "deprecated",
    "AccountView.active_subscription": "deprecated",
    "AccountView.external_billing_account_id": "deprecated",
    "AccountView.stripe_customer_id": "deprecated",
}
if FAKE:
    for field in ("BlueprintBuildParameters.base_blueprint_id", "BlueprintView.base_blueprint_id"):
        NEVER[field] = "fake boxes cannot build"
    for field in ("DevboxView.blueprint_id", "DevboxSnapshotView.source_blueprint_id"):
        NEVER[field] = "fake boxes cannot build"


# ---------------------------------------------------------------- walking the client


def methods(resource: Any, prefix: str = "") -> Iterator[str]:
    """`devboxes.executions.kill` and so on: every public method of every resource below."""
    for name in dir(resource):
        if name.startswith(("_", "with_")):
            continue
        if isinstance(inspect.getattr_static(resource, name), property):
            continue
        value = getattr(resource, name)
        if isinstance(value, SyncAPIResource | AsyncAPIResource):
            yield from methods(value, f"{prefix}{name}.")
        elif prefix and callable(value):
            yield prefix + name


def find(root: Any, name: str) -> Any:
    """The method of a client, or of its raw or streaming face; None where that has none."""
    for step in name.split("."):
        root = getattr(root, step, None)
    return root


def sample(annotation: Any) -> Any:
    """A value of a parameter's type."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        return sample(next(one for one in arguments if one is not type(None)))
    if origin is typing.Literal:
        return arguments[0]
    if origin in {typing.Annotated, typing.Required}:
        return sample(arguments[0])
    if is_typeddict(annotation):
        hints = typing.get_type_hints(annotation, include_extras=True)
        return {name: sample(hint) for name, hint in hints.items() if typing.get_origin(hint) is typing.Required}
    if origin in {dict, Mapping}:
        return {}
    return {str: "x", int: 1, float: 1.0, bool: True, object: "x"}.get(annotation, [])


def arguments_of(method: Any) -> dict[str, Any]:
    """The arguments that a method cannot do without."""
    scope = sys.modules[inspect.unwrap(method).__module__].__dict__
    found = {}
    for name, parameter in inspect.signature(method).parameters.items():
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            annotation = parameter.annotation
            found[name] = sample(eval(annotation, scope) if isinstance(annotation, str) else annotation)
    return found


# ---------------------------------------------------------------- what came back


@dataclasses.dataclass
class Seen:
    """Which fields of which models answers had."""

    models: dict[str, type[pydantic.BaseModel]] = dataclasses.field(default_factory=dict)
    fields: set[str] = dataclasses.field(default_factory=set)

    def add(self, value: Any) -> None:
        if isinstance(value, pydantic.BaseModel):
            model = type(value)
            if not isinstance(value, BasePage):
                self.models[model.__name__] = model
            for name in model.model_fields:
                if (inner := getattr(value, name)) is not None:
                    self.fields.add(f"{model.__name__}.{name}")
                    self.add(inner)
        elif isinstance(value, list | dict):
            for inner in value.values() if isinstance(value, dict) else value:
                self.add(inner)

    def lacking(self) -> set[str]:
        """Fields of the models, and of the models in their fields, that were never there."""
        found = set()
        known = list(self.models.values())
        for model in known:
            for name, field in model.model_fields.items():
                if f"{model.__name__}.{name}" not in NEVER:
                    found.add(f"{model.__name__}.{name}")
                    known += [one for one in inner_models(field.annotation) if one not in known]
        return found - self.fields


def inner_models(annotation: Any) -> list[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [model for one in typing.get_args(annotation) for model in inner_models(one)]


async def settled(value: Any) -> Any:
    """The value itself, when it is one that has to be awaited."""
    while inspect.isawaitable(value):
        value = await value
    return value


async def contents(name: str, value: Any) -> Any:
    """All that an answer has: a stream's events, a download's bytes, a model."""
    if name == "devboxes.watch_evictions":  # no eviction ever comes
        await settled(value.close())
        return None
    if isinstance(value, Stream):
        return list(value)
    if isinstance(value, AsyncStream):
        return [event async for event in value]
    if hasattr(value, "read"):
        return await settled(value.read())
    return value


async def call(name: str, form: str, method: Any, arguments: dict[str, Any]) -> Any:
    """What the method answers, parsed by the client; of a raw one also checked strictly against the client's model."""
    made = method(**arguments)
    if form == "with_streaming_response":
        async with entered(made) as response:
            return await contents(
                name, response if not hasattr(response, "parse") else await settled(response.parse())
            )
    answer = await settled(made)
    if form != "with_raw_response" or not hasattr(answer, "parse"):
        return await contents(name, answer)
    parsed = await settled(answer.parse())
    if isinstance(parsed, BaseModel) and not isinstance(parsed, BasePage):
        type(parsed).model_validate_json(await settled(answer.text()), strict=True)
    return await contents(name, parsed)


class entered:  # noqa: N801
    """`async with` for context managers of both kinds."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager

    async def __aenter__(self) -> Any:
        manager = self.manager
        return await manager.__aenter__() if hasattr(manager, "__aenter__") else manager.__enter__()

    async def __aexit__(self, *error: Any) -> None:
        manager = self.manager
        if hasattr(manager, "__aexit__"):
            await manager.__aexit__(*error)
        else:
            manager.__exit__(*error)


# ---------------------------------------------------------------- the check


async def check(kind: str) -> None:
    maker = Runloop if kind == "sync" else AsyncRunloop
    scene, seen, wrong = Scene(), Seen(), []
    client = maker(_strict_response_validation=True)
    terminals = client.with_options(default_headers=scene.tunnel())
    names = list(methods(client))
    assert SCENES.keys() | LEFT_OUT.keys() <= set(names), SCENES.keys() - set(names)
    calls = 0
    for name in names:
        if name in LEFT_OUT:
            continue
        for form in ("plain", "with_raw_response", "with_streaming_response"):
            root = terminals if name.startswith("pty.") else client
            method = find(root if form == "plain" else getattr(root, form), name)
            if method is None:  # helpers, which make several requests
                continue
            calls += 1
            try:
                arguments = SCENES[name](scene) if name in SCENES else arguments_of(find(client, name))
                seen.add(await call(name, form, method, arguments))
                if name not in SCENES:
                    wrong.append(f"{name} {form}: there is no scene for it")
            except APIStatusError as error:
                message = error.body.get("message", "") if isinstance(error.body, dict) else ""
                if name in SCENES or error.status_code != 501 or "does not offer" not in message:
                    wrong.append(f"{name} {form}: {error}")
            except Exception as error:  # noqa: BLE001 - the list of all of them is what helps
                wrong.append(f"{name} {form}: {error!r}")
    scene.api.devboxes.shutdown(scene.box)
    lacking = seen.lacking()
    stale = {one for one in NEVER if one in seen.fields}
    print(f"{runloop_api_client.__version__} {kind}: {len(names)} methods, {calls} calls, {len(seen.fields)} fields")
    assert not wrong, "\n".join(wrong)
    assert not lacking, f"no answer had {sorted(lacking)}"
    assert not stale, f"answers have {sorted(stale)} after all"


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # deprecated methods are called like all others
    asyncio.run(check(sys.argv[1]))
