"""From what a caller sends to a wish that can be carried out: sizes, defaults and every rule that needs two fields.

Pure: no clock, no store. Each refusal names the field and states the rule; what this server does not offer is refused
as that, field by field, and never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from corral.core import errors
from corral.devboxes import docker, wire
from corral.devboxes.model import DevboxRequest, KeepMemory, ObjectMount, Origin
from corral.runtime.contract import GIB, Limits, User

#: Size -> (cores, memory in GiB, disk in GiB).
SIZES: Final[dict[str, tuple[float, int, int]]] = {
    "X_SMALL": (0.5, 1, 4),
    "SMALL": (1, 2, 4),
    "MEDIUM": (2, 4, 8),
    "LARGE": (2, 8, 16),
    "X_LARGE": (4, 16, 16),
    "XX_LARGE": (8, 32, 16),
}
DEFAULT_SIZE: Final = "SMALL"

#: Disk of a custom size that names none, in GiB: as the larger sizes.
CUSTOM_DISK: Final = 16

#: The most of a custom size: cores, GiB of memory, GiB of disk.
MOST_CORES: Final = 16
MOST_MEMORY: Final = 64
MOST_DISK: Final = 64

KEEP_ALIVE_S: Final = 3600
MAX_KEEP_ALIVE_S: Final = 172_800
SUSPEND_DEADLINE_MS: Final = 30_000
MAX_SUSPEND_DEADLINE_MS: Final = 60_000

#: A box maps 65,536 ids; the two highest are the overflow ids, nobody and nogroup.
MAX_UID: Final = 65_533

#: The kernel takes no longer `NAME=value` (MAX_ARG_STRLEN), nor in practice more than this in all.
ENV_BYTES: Final = 131_071
ENV_TOTAL_BYTES: Final = 1024 * 1024
MOST_OBJECT_MOUNTS: Final = 64
FILES_BYTES: Final = 8 * 1024 * 1024

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER_NAME: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


#: What `cannot …` goes on with in refusals.
_CREATE: Final = "create devbox"

#: Fields of launch parameters of which a devbox that has one of its own takes none of its blueprint's.
_TOGETHER: Final = (
    frozenset({"resource_size_request", "custom_cpu_cores", "custom_gb_memory", "custom_disk_size"}),
    frozenset({"after_idle", "lifecycle.after_idle"}),
)


def request(body: wire.CreateBody, *, architecture: str, origin: Origin | None = None) -> DevboxRequest:
    """Return the wish. `architecture` is the host's, in the dialect's words; `origin` the blueprint that it names.

    Raises errors.Invalid with the field and the rule, errors.NotOffered with the field.
    """
    check_origin(body)
    refuse_later(body)
    parameters = body.launch_parameters or wire.LaunchParameters()
    if origin is not None:
        parameters = merged(origin.launch_parameters, parameters)
    idle = _after_idle(parameters)
    hooks = _hooks(parameters)
    deadline = hooks.suspend_deadline_ms
    return DevboxRequest(
        name=body.name or None,
        metadata=body.metadata or {},
        env=_environment(body.environment_variables or {}),
        limits=_limits(parameters),
        user=_user(parameters.user_parameters),
        image=_image(body, parameters, origin),
        blueprint_id=origin.id if origin is not None else None,
        snapshot_id=body.snapshot_id,
        services=_services(parameters, origin),
        launch_commands=tuple(parameters.launch_commands or ()),
        entrypoint=body.entrypoint,
        files=_files(body),
        object_mounts=_object_mounts(body),
        keep_alive_s=_keep_alive(parameters),
        idle_s=idle.idle_time_seconds if idle else None,
        idle_suspends=idle is not None and idle.on_idle == "suspend",
        suspend_commands=tuple(hooks.suspend_commands or ()),
        suspend_limit_s=(SUSPEND_DEADLINE_MS if deadline is None else deadline) / 1000,
        docker_in_docker=bool(parameters.docker_in_docker or parameters.required_services),
        keep_memory=KeepMemory(parameters.keep_memory or KeepMemory.AUTO),
        launch_parameters=_effective(parameters, idle, architecture),
        snapshot_every=body.snapshot_every,
    )


def _image(body: wire.CreateBody, parameters: wire.LaunchParameters, origin: Origin | None) -> str | None:
    """None is the default image, and that of the snapshot for a devbox that begins as one."""
    if origin is not None:
        return origin.image
    return docker.IMAGE if parameters.docker_in_docker and body.snapshot_id is None else None


def check_launch(parameters: wire.LaunchParameters | None, verb: str, *, architecture: str) -> User:
    """By the rules of devboxes, what others keep for devboxes to come: the user that they will have.

    Raises errors.Invalid and errors.NotOffered, `cannot <verb>: launch_parameters…`.
    """
    given = parameters or wire.LaunchParameters()
    body = wire.CreateBody(launch_parameters=given.model_copy(update={"required_services": None}))
    try:
        return request(body, architecture=architecture).user
    except (errors.Invalid, errors.NotOffered) as problem:
        raise type(problem)(problem.message.replace(_CREATE, verb, 1)) from None


def merged(defaults: Mapping[str, Any], given: wire.LaunchParameters) -> wire.LaunchParameters:
    """What a devbox has that says `given` and begins as a blueprint with these defaults: its own before those."""
    below, above = _flat(defaults), _flat(given.model_dump(exclude_none=True))
    for group in _TOGETHER:
        if group & above.keys():
            below = {name: value for name, value in below.items() if name not in group}
    fields: dict[str, Any] = {}
    for name, value in {**below, **above}.items():
        outer, _, inner = name.partition(".")
        if inner:
            fields.setdefault(outer, {})[inner] = value
        else:
            fields[name] = value
    return wire.LaunchParameters.model_validate(fields)


def _flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """With the fields of `lifecycle` as fields of their own."""
    inner = {f"lifecycle.{name}": value for name, value in (parameters.get("lifecycle") or {}).items()}
    return {**{name: value for name, value in parameters.items() if name != "lifecycle"}, **inner}


def _services(parameters: wire.LaunchParameters, origin: Origin | None) -> tuple[str, ...]:
    """The commands that start the services that are asked for."""
    commands = origin.services if origin is not None else {}
    there = ", ".join(commands) or "none"
    for name in parameters.required_services or ():
        if name not in commands:
            has = f"its blueprint has no such service (there: {there})" if origin else "only blueprints have services"
            raise _bad("required_services", f"{name[:100]!r}: {has}")
    return tuple(commands[name] for name in dict.fromkeys(parameters.required_services or ()))


def check_origin(body: wire.CreateBody) -> None:
    """Raise errors.Invalid for a devbox that shall begin as two things."""
    given = [name for name in ("blueprint_id", "blueprint_name", "snapshot_id") if getattr(body, name) is not None]
    if len(given) > 1:
        raise _invalid(given[1], f"must not be given beside {given[0]}: a devbox begins as one of both")


def refuse_later(body: wire.CreateBody) -> None:
    """Raise errors.NotOffered for the first field that asks for what this server does not offer."""
    for field in _later(body):
        raise errors.NotOffered(f"cannot {_CREATE}: {field}: this server does not offer it")


def _later(body: wire.CreateBody) -> Iterator[str]:
    for name in ("tunnel", "repo_connection_id"):
        if getattr(body, name) is not None:
            yield name
    for name in ("code_mounts", "secrets", "gateways", "mcp"):
        if getattr(body, name):
            yield name
    for index, mount in enumerate(body.mounts or ()):
        if not isinstance(mount, wire.FileMount | wire.ObjectMount):
            yield f"mounts[{index}].type {mount.type}"
    parameters = body.launch_parameters
    if parameters is not None:
        yield from (f"launch_parameters.{field}" for field in _later_parameters(parameters))


def _later_parameters(parameters: wire.LaunchParameters) -> Iterator[str]:
    if parameters.network_policy_id is not None:
        yield "network_policy_id"
    lifecycle = parameters.lifecycle or wire.Lifecycle()
    triggers = lifecycle.resume_triggers
    if triggers is not None and (triggers.http or triggers.axon_event):
        yield "lifecycle.resume_triggers"


def _limits(parameters: wire.LaunchParameters) -> Limits:
    size = parameters.resource_size_request or DEFAULT_SIZE
    if size == "CUSTOM_SIZE":
        cpu, memory, disk = _custom_size(parameters)
    else:
        for name in ("custom_cpu_cores", "custom_gb_memory", "custom_disk_size"):
            if getattr(parameters, name) is not None:
                raise _bad(name, f"is only for resource_size_request CUSTOM_SIZE, not {size}")
        cpu, memory, disk = SIZES[size]
    return Limits(cpu=cpu, memory=memory * GIB, disk=disk * GIB)


def _custom_size(parameters: wire.LaunchParameters) -> tuple[float, int, int]:
    """What is asked for, exactly: the even numbers and the 2 to 8 GiB for each core of the dialect are its prices'."""
    cpu, memory, disk = parameters.custom_cpu_cores, parameters.custom_gb_memory, parameters.custom_disk_size
    if cpu is None:
        raise _bad("custom_cpu_cores", "is missing: resource_size_request CUSTOM_SIZE needs it")
    if memory is None:
        raise _bad("custom_gb_memory", "is missing: resource_size_request CUSTOM_SIZE needs it")
    if not (0 < cpu <= MOST_CORES and cpu % 0.5 == 0):
        raise _bad("custom_cpu_cores", f"must be a multiple of 0.5 up to {MOST_CORES}, not {cpu:g}")
    if not 1 <= memory <= MOST_MEMORY:
        raise _bad("custom_gb_memory", f"must be 1 to {MOST_MEMORY}, not {memory}")
    disk = CUSTOM_DISK if disk is None else disk
    if not 1 <= disk <= MOST_DISK:
        raise _bad("custom_disk_size", f"must be 1 to {MOST_DISK}, not {disk}")
    return cpu, memory, disk


def _keep_alive(parameters: wire.LaunchParameters) -> int:
    seconds = KEEP_ALIVE_S if parameters.keep_alive_time_seconds is None else parameters.keep_alive_time_seconds
    if not 1 <= seconds <= MAX_KEEP_ALIVE_S:
        raise _bad("keep_alive_time_seconds", f"must be 1 to {MAX_KEEP_ALIVE_S} (48 hours), not {seconds}")
    return seconds


def _after_idle(parameters: wire.LaunchParameters) -> wire.AfterIdle | None:
    outer = parameters.after_idle
    inner = parameters.lifecycle.after_idle if parameters.lifecycle else None
    if outer is not None and inner is not None and outer != inner:
        raise _bad("after_idle", "must be equal to lifecycle.after_idle when both are set")
    policy = inner or outer
    if policy is not None and not 1 <= policy.idle_time_seconds <= MAX_KEEP_ALIVE_S:
        field = "lifecycle.after_idle.idle_time_seconds" if inner else "after_idle.idle_time_seconds"
        raise _bad(field, f"must be 1 to {MAX_KEEP_ALIVE_S} (48 hours), not {policy.idle_time_seconds}")
    return policy


def _hooks(parameters: wire.LaunchParameters) -> wire.LifecycleHooks:
    hooks = (parameters.lifecycle.lifecycle_hooks if parameters.lifecycle else None) or wire.LifecycleHooks()
    deadline = hooks.suspend_deadline_ms
    if deadline is not None and not 0 <= deadline <= MAX_SUSPEND_DEADLINE_MS:
        field = "lifecycle.lifecycle_hooks.suspend_deadline_ms"
        raise _bad(field, f"must be 0 to {MAX_SUSPEND_DEADLINE_MS}, not {deadline}")
    return hooks


def _user(parameters: wire.UserParameters | None) -> User:
    if parameters is None:
        return User()
    name, uid = parameters.username, parameters.uid
    if not _USER_NAME.fullmatch(name):
        rule = "must be 1 to 32 of a-z, 0-9, _ and -, and not begin with a digit or -"
        raise _bad("user_parameters.username", f"{rule}, not {name[:100]!r}")
    if not 0 <= uid <= MAX_UID:
        raise _bad("user_parameters.uid", f"must be 0 to {MAX_UID}, not {uid}")
    if (name == "root") != (uid == 0):
        raise _bad("user_parameters", f"root is uid 0 and uid 0 is root, not {name!r} with uid {uid}")
    return User(name=name, uid=uid, gid=uid, home="/root" if uid == 0 else f"/home/{name}")


def _environment(variables: dict[str, str]) -> dict[str, str]:
    check_variables(variables, _CREATE, "environment_variables")
    return dict(variables)


def check_variables(variables: Mapping[str, str], verb: str, where: str) -> None:
    """Raise errors.Invalid, `cannot <verb>: <where>…`, for what no process can have in its environment."""
    total = 0
    for name, value in variables.items():
        field = f"{where}.{name[:100]}"
        if not _ENV_NAME.fullmatch(name):
            raise _invalid(field, "a name is letters, digits and _, and begins with no digit", verb)
        if "\0" in value:
            raise _invalid(field, "must not hold a NUL character", verb)
        size = len(name) + 1 + len(value.encode())
        if size > ENV_BYTES:
            raise _invalid(field, f"must be at most {ENV_BYTES} bytes with its name, not {size}", verb)
        total += size
    if total > ENV_TOTAL_BYTES:
        raise _invalid(where, f"must be at most {ENV_TOTAL_BYTES} bytes in all, not {total}", verb)


def _files(body: wire.CreateBody) -> dict[str, str]:
    files = dict(body.file_mounts or {})
    for index, mount in enumerate(body.mounts or ()):
        if isinstance(mount, wire.FileMount):
            if mount.target in files:
                raise _invalid(f"mounts[{index}].target", f"{mount.target[:100]} is mounted twice")
            files[mount.target] = mount.content
    check_files(files, _CREATE)
    return files


def check_files(files: Mapping[str, str], verb: str) -> None:
    """Raise errors.Invalid, `cannot <verb>: file_mounts…`, for files that cannot be mounted."""
    for path in files:
        if path.endswith("/"):
            raise _invalid("file_mounts", f"{path[:100]} is a directory: name a file", verb)
    if (total := sum(len(text.encode()) for text in files.values())) > FILES_BYTES:
        rule = f"must be at most {FILES_BYTES} bytes in all, not {total}: use upload_file"
        raise _invalid("file_mounts", rule, verb)


def _object_mounts(body: wire.CreateBody) -> tuple[ObjectMount, ...]:
    mounts = [mount for mount in body.mounts or () if isinstance(mount, wire.ObjectMount)]
    if len(mounts) > MOST_OBJECT_MOUNTS:
        raise _invalid("mounts", f"must be at most {MOST_OBJECT_MOUNTS} objects, not {len(mounts)}")
    return tuple(ObjectMount(mount.object_id, mount.object_path) for mount in mounts)


def _effective(parameters: wire.LaunchParameters, idle: wire.AfterIdle | None, architecture: str) -> dict[str, object]:
    """What views echo: everything that was sent, and the defaults of the rest."""
    wanted = parameters.architecture or architecture
    if wanted != architecture:
        raise _bad("architecture", f"this host is {architecture}, not {wanted}")
    echo: dict[str, object] = parameters.model_dump(exclude_none=True, exclude={"available_ports"})
    echo["architecture"] = wanted
    echo.setdefault("resource_size_request", DEFAULT_SIZE)
    echo.setdefault("launch_commands", [])
    echo.setdefault("provisioning_tier", "standard")
    if echo["resource_size_request"] == "CUSTOM_SIZE":
        echo.setdefault("custom_disk_size", CUSTOM_DISK)
    if (cores := parameters.custom_cpu_cores) is not None and cores.is_integer():
        echo["custom_cpu_cores"] = int(cores)  # clients before 3.0 have whole numbers only
    if idle is None:
        echo.setdefault("keep_alive_time_seconds", KEEP_ALIVE_S)
    return echo


def _bad(parameter: str, rule: str) -> errors.Invalid:
    return _invalid(f"launch_parameters.{parameter}", rule)


def _invalid(field: str, rule: str, verb: str = _CREATE) -> errors.Invalid:
    return errors.Invalid(f"cannot {verb}: {field}: {rule}")
